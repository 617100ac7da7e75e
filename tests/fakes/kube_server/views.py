"""Other shapes of a response: tables, as kubectl asks for them, and metadata alone."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.fakes.kube_server.refusals import Refusal
from tests.fakes.kube_server.resources import CLAIMS, VOLUMES, Resource
from tests.fakes.kube_server.rules import Object

_META = "meta.k8s.io/v1"


def wanted_view(accept: str) -> str:
    """ "Table", "PartialObjectMetadata" or "" for the plain object; raises Refusal for XML."""
    for part in accept.split(","):
        kind, *options = [piece.strip() for piece in part.split(";")]
        given = dict(option.split("=", 1) for option in options if "=" in option)
        view = given.get("as", "").removesuffix("List")
        if kind in {"", "*/*", "application/*"} or (kind == "application/json" and not view):
            return ""
        ours = (given.get("g"), given.get("v")) == ("meta.k8s.io", "v1")
        if kind == "application/json" and ours and view in {"Table", "PartialObjectMetadata"}:
            return view
    message = "406: Not Acceptable\n\nAvailable representations: application/json"
    raise Refusal(406, "NotAcceptable", message, details={})


def view_of(
    view: str, resource: Resource, objects: Sequence[Object], metadata: Object | None
) -> Object:
    """`metadata` is that of a list, None where one object alone was asked for."""
    if view == "Table":
        return _table(resource, objects, metadata or {})
    partial = [_partial(each) for each in objects]
    if metadata is None:
        return partial[0]
    kind = "PartialObjectMetadataList"
    return {"kind": kind, "apiVersion": _META, "metadata": metadata, "items": partial}


def _partial(given: Object) -> Object:
    head = {"kind": "PartialObjectMetadata", "apiVersion": _META}
    return {**head, "metadata": given["metadata"]}


def _table(resource: Resource, objects: Sequence[Object], metadata: Object) -> Object:
    columns = _COLUMNS.get(resource.qualified, _PLAIN)
    return {
        "kind": "Table",
        "apiVersion": _META,
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": name,
                "type": "string",
                "format": "name" if name == "Name" else "",
                "description": name,
                "priority": 0,
            }
            for name in columns
        ],
        "rows": [
            {"cells": [cell(each) for cell in columns.values()], "object": _partial(each)}
            for each in objects
        ],
    }


def _age(given: Object) -> str:
    born = datetime.fromisoformat(given["metadata"]["creationTimestamp"])
    seconds = int((datetime.now(UTC) - born).total_seconds())
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


def _name(given: Object) -> str:
    return str(given["metadata"]["name"])


def _field(*path: str) -> Callable[[Object], str]:
    def read(given: Object) -> str:
        found: Any = given
        for part in path:
            found = (found or {}).get(part)
        return "" if found is None else str(found)

    return read


def _modes(*path: str) -> Callable[[Object], str]:
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX"}

    def read(given: Object) -> str:
        modes = (given.get(path[0]) or {}).get(path[1]) or []
        return ",".join(short.get(mode, "RWOP") for mode in modes)

    return read


def _claim(given: Object) -> str:
    reference = given["spec"].get("claimRef")
    return f"{reference.get('namespace')}/{reference.get('name')}" if reference else ""


def _phase(given: Object) -> str:
    terminating = "deletionTimestamp" in given["metadata"]
    return "Terminating" if terminating else _field("status", "phase")(given)


_PLAIN: dict[str, Callable[[Object], str]] = {"Name": _name, "Age": _age}
_COLUMNS: dict[str, dict[str, Callable[[Object], str]]] = {
    VOLUMES.qualified: {
        "Name": _name,
        "Capacity": _field("spec", "capacity", "storage"),
        "Access Modes": _modes("spec", "accessModes"),
        "Reclaim Policy": _field("spec", "persistentVolumeReclaimPolicy"),
        "Status": _phase,
        "Claim": _claim,
        "StorageClass": _field("spec", "storageClassName"),
        "VolumeAttributesClass": _field("spec", "volumeAttributesClassName"),
        "Reason": _field("status", "reason"),
        "Age": _age,
    },
    CLAIMS.qualified: {
        "Name": _name,
        "Status": _phase,
        "Volume": _field("spec", "volumeName"),
        "Capacity": _field("status", "capacity", "storage"),
        "Access Modes": _modes("status", "accessModes"),
        "StorageClass": _field("spec", "storageClassName"),
        "VolumeAttributesClass": _field("spec", "volumeAttributesClassName"),
        "Age": _age,
    },
}
