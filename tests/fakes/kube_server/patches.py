"""The three kinds of patch that a kube-apiserver takes."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from tests.fakes.kube_server.refusals import bad_request, rejected

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

DELETE_FROM = "$deleteFromPrimitiveList/"

MERGED_LISTS = {"finalizers": None, "ownerReferences": "uid", "conditions": "type"}
"""Lists that a strategic merge joins instead of replacing, and what identifies an element."""


def patched(content_type: str, target: dict[str, Any], patch: Any) -> dict[str, Any]:
    """`target` after the patch; it may be changed itself. Raises Refusal."""
    if content_type == JSON_PATCH:
        return _json_patched(target, patch)
    if not isinstance(patch, dict):
        go = "json: cannot unmarshal array into Go value of type map[string]interface {}"
        raise bad_request(go if content_type == STRATEGIC else f"error decoding patch: {go}")
    merge = _merged if content_type == MERGE else _strategically_merged
    result: dict[str, Any] = merge(target, patch)
    return result


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _strategically_merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = target if isinstance(target, dict) else {}
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    for key, value in patch.items():
        if key.startswith(DELETE_FROM):
            field = key.removeprefix(DELETE_FROM)
            result[field] = [each for each in result.get(field) or () if each not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif key in MERGED_LISTS and isinstance(value, list):
            result[key] = _merged_list(result.get(key) or [], value, MERGED_LISTS[key])
        else:
            result[key] = _strategically_merged(result.get(key), value)
    return result


def _merged_list(old: list[Any], patch: list[Any], identity: str | None) -> list[Any]:
    """What the patch brings comes first, as the real one orders it."""
    if identity is None:
        return [*(each for each in patch if each not in old), *old]
    removed = {each.get(identity) for each in patch if each.get("$patch") == "delete"}
    known = {each.get(identity): each for each in old}
    brought = {
        each[identity]: _strategically_merged(known.get(each[identity], {}), each)
        for each in patch
        if each.get("$patch") != "delete"
    }
    added = [value for key, value in brought.items() if key not in known]
    preserved = [brought.get(key, each) for key, each in known.items() if key not in removed]
    return [*added, *preserved]


def _json_patched(target: Any, patch: Any) -> dict[str, Any]:
    """RFC 6902, with the liberties of the real one: replacing what is not there adds it."""
    if not isinstance(patch, list):
        raise bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type "
            "[]handlers.jsonPatchOp"
        )
    document = {"": target}
    for step in patch:
        try:
            _STEPS[step["op"]](document, step)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise rejected() from error
    result: dict[str, Any] = document[""]
    return result


def _resolve(document: Any, pointer: str) -> tuple[Any, str]:
    """The container that the pointer's last part is in, and that part."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")]
    for part in parts[:-1]:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document, parts[-1]


def _value_at(document: Any, pointer: str) -> Any:
    container, last = _resolve(document, pointer)
    return container[int(last)] if isinstance(container, list) else container[last]


def _put(document: Any, pointer: str, value: Any) -> None:
    container, last = _resolve(document, pointer)
    if isinstance(container, list):
        at = len(container) if last == "-" else int(last)
        if at > len(container):
            raise IndexError(at)
        container.insert(at, value)
    elif isinstance(container, dict):
        container[last] = value
    else:
        raise TypeError(pointer)


def _drop(document: Any, pointer: str) -> Any:
    container, last = _resolve(document, pointer)
    return container.pop(int(last)) if isinstance(container, list) else container.pop(last)


def _add(document: Any, step: Any) -> None:
    _put(document, step["path"], step["value"])


def _remove(document: Any, step: Any) -> None:
    _drop(document, step["path"])


def _replace(document: Any, step: Any) -> None:
    container, last = _resolve(document, step["path"])
    if isinstance(container, list):
        container[int(last)] = step["value"]
    else:
        _put(document, step["path"], step["value"])


def _move(document: Any, step: Any) -> None:
    _put(document, step["path"], _drop(document, step["from"]))


def _copy(document: Any, step: Any) -> None:
    _put(document, step["path"], deepcopy(_value_at(document, step["from"])))


def _test(document: Any, step: Any) -> None:
    container, last = _resolve(document, step["path"])
    missing = isinstance(container, dict) and last not in container
    found = None if missing else _value_at(document, step["path"])
    if found != step.get("value"):
        raise ValueError(step["path"])


_STEPS: dict[str, Callable[[Any, Any], None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}
