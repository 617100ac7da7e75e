"""The part that all objects have: names, server-set fields, who wrote what, deletion."""

import re
import secrets
import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.kube_server.refusals import (
    Mistake,
    forbidden_field,
    internal,
    required,
    too_long,
    wrong,
)
from tests.fakes.kube_server.resources import Resource
from tests.fakes.kube_server.rules import Object, quoted
from tests.fakes.kube_server.schema import METADATA
from tests.fakes.kube_server.volume_rules import now

ANNOTATIONS_LIMIT = 256 * 1024

ORDER = tuple(METADATA)
"""Fields in the order in which the server writes them."""

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_PLAIN_FINALIZERS = {"foregroundDeletion", "kubernetes", "orphan"}


@dataclass(slots=True, kw_only=True)
class Writer:
    """Who writes, how, and what the server has to say to it along with the response."""

    name: str = "unknown"
    """Goes into managedFields."""
    dry_run: bool = False
    strict: bool = False
    """Refuse fields that the server does not know, instead of dropping them."""
    subresource: str = ""
    warnings: list[str] = field(default_factory=list)


def begin(metadata: dict[str, Any], *, finalizer: str | None) -> None:
    """Make it the metadata of a new object; what the client says about these is overwritten."""
    if metadata.get("resourceVersion"):
        raise internal("resourceVersion should not be set on objects to be created")
    for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "managedFields"):
        metadata.pop(key, None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = now()
    if finalizer is not None and finalizer not in metadata.get("finalizers", ()):
        metadata["finalizers"] = [*metadata.get("finalizers", ()), finalizer]


def carry(new: dict[str, Any], old: dict[str, Any]) -> None:
    """Put back what an update can't change without a word."""
    new.setdefault("uid", old["uid"])
    for key in ("creationTimestamp", "deletionGracePeriodSeconds", "managedFields"):
        if key in old:
            new[key] = old[key]
        else:
            new.pop(key, None)
    if "deletionTimestamp" in old:
        new["deletionTimestamp"] = old["deletionTimestamp"]


def mistakes(metadata: dict[str, Any]) -> list[Mistake]:
    """What is wrong with the metadata of any object."""
    name = metadata.get("name")
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    found = []
    if len(name) > 253 or re.fullmatch(_SUBDOMAIN, name) is None:
        found.append(wrong("metadata.name", quoted(name), _NAME))
    annotations = metadata.get("annotations") or {}
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > ANNOTATIONS_LIMIT:
        found.append(too_long("metadata.annotations", ANNOTATIONS_LIMIT))
    for number, finalizer in enumerate(metadata.get("finalizers") or ()):
        if "/" not in finalizer and finalizer not in _PLAIN_FINALIZERS:
            why = "name is neither a standard finalizer name nor is it fully qualified"
            found.append(wrong(f"metadata.finalizers[{number}]", quoted(finalizer), why))
    return found


def changes(new: dict[str, Any], old: dict[str, Any]) -> list[Mistake]:
    """What is wrong with a change of metadata."""
    found = []
    if "deletionTimestamp" in old:
        added = [x for x in new.get("finalizers", ()) if x not in old.get("finalizers", ())]
        if added:
            listed = ", ".join(quoted(each) for each in added)
            why = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            found.append(forbidden_field("metadata.finalizers", why))
    found += [
        wrong(f"metadata.{key}", quoted(new[key]), "field is immutable")
        for key in ("uid", "deletionTimestamp")
        if key in new and new[key] != old.get(key)
    ]
    return found


def entry_writer(new: Object, old: Object | None, resource: Resource, writer: Writer) -> None:
    """Enter the writer into managedFields. Of the fields it wrote, those are kept track of that
    somebody asks for: annotations, and the phase.
    """
    entry: dict[str, Any] = {"manager": writer.name, "operation": "Update"}
    entry |= {"apiVersion": resource.api_version, "time": now(), "fieldsType": "FieldsV1"}
    if writer.subresource:
        entry["subresource"] = writer.subresource
    wrote = _written(new, old)
    others, before = [], deepcopy(old["metadata"].get("managedFields", [])) if old else []
    for each in before:
        fields = each.setdefault("fieldsV1", {})
        if (each.get("manager"), each.get("subresource", "")) == (writer.name, writer.subresource):
            wrote |= _owned(fields) - _gone(new, _owned(fields))
        else:
            each["fieldsV1"] = _fields(_owned(fields) - wrote)
            others.append(each)
    new["metadata"]["managedFields"] = [*others, {**entry, "fieldsV1": _fields(wrote)}]


Field = tuple[str, str, str]
"""The way to a field that is kept track of: two steps and, for an annotation, its key."""

_PHASE: Field = ("status", "phase", "")


def _annotation(key: str) -> Field:
    return ("metadata", "annotations", key)


def _written(new: Object, old: Object | None) -> set[Field]:
    now_there = new["metadata"].get("annotations") or {}
    was = (old["metadata"].get("annotations") or {}) if old else {}
    found = {_annotation(key) for key, value in now_there.items() if was.get(key) != value}
    phase = (new.get("status") or {}).get("phase")
    if phase and (not old or (old.get("status") or {}).get("phase") != phase):
        found.add(_PHASE)
    return found


def _gone(new: Object, owned: set[Field]) -> set[Field]:
    there = new["metadata"].get("annotations") or {}
    return {each for each in owned if each != _PHASE and each[2] not in there}


def _owned(fields: dict[str, Any]) -> set[Field]:
    annotations = fields.get("f:metadata", {}).get("f:annotations", {})
    found = {_annotation(key.removeprefix("f:")) for key in annotations if key != "."}
    return found | ({_PHASE} if "f:phase" in fields.get("f:status", {}) else set())


def _fields(owned: set[Field]) -> dict[str, Any]:
    keys = sorted(key for first, _, key in owned if first == "metadata")
    found: dict[str, Any] = {}
    if keys:
        found["f:metadata"] = {"f:annotations": {f"f:{key}": {} for key in keys}}
    if _PHASE in owned:
        found["f:status"] = {"f:phase": {}}
    return found


def tidied(metadata: dict[str, Any]) -> dict[str, Any]:
    """Without the empty fields, which the server leaves out."""
    return {key: value for key, value in metadata.items() if value not in (None, "", [], {})}


def mark_deleted(metadata: dict[str, Any]) -> None:
    metadata["deletionTimestamp"] = now()
    metadata["deletionGracePeriodSeconds"] = 0


_NAME = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
