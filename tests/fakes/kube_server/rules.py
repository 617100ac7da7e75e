"""What each kind allows, fills in and keeps, but for volumes, claims and events."""

import re
from typing import Any

import orjson

from tests.fakes.kube_server.refusals import (
    Mistake,
    forbidden_field,
    required,
    too_long,
    wrong,
)

Object = dict[str, Any]

CONFIG_MAP_LIMIT = 1024 * 1024


class Rules:
    """The plain kind: everything goes, and status has its own address."""

    finalizer: str | None = None
    """Added to each new object, as the admission plugin of that name does."""
    updates_need_version = False
    put_creates = False

    def fill(self, obj: Object) -> None:
        """Set the defaults that the server sets whenever it reads an object."""

    def begin(self, obj: Object) -> None:
        """Set what only the server may say about a new object."""
        obj.pop("status", None)

    def carry(self, new: Object, old: Object) -> None:
        """Undo what a write to the main address may not touch."""
        _keep("status", new, old)

    def carry_status(self, new: Object, old: Object) -> None:
        """Undo what a write to the address of the status may not touch."""
        _keep("spec", new, old)

    def mistakes(self, _obj: Object) -> list[Mistake]:
        """What is wrong with an object by itself."""
        return []

    def changes(self, _new: Object, _old: Object) -> list[Mistake]:
        """What is wrong with a change of the main part."""
        return []


class NamespaceRules(Rules):
    def begin(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}


class NodeRules(Rules):
    """Nodes may be created with a status, so that tests can make them ready at once."""

    def begin(self, obj: Object) -> None:
        obj.setdefault("status", {})


class ConfigMapRules(Rules):
    def carry(self, new: Object, old: Object) -> None:
        pass

    def mistakes(self, obj: Object) -> list[Mistake]:
        found = []
        size = 0
        for bag in ("data", "binaryData"):
            for key, value in (obj.get(bag) or {}).items():
                size += len(value.encode())
                if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
                    found.append(wrong(f"{bag}[{key}]", quoted(key), CONFIG_KEY))
        if size > CONFIG_MAP_LIMIT:
            found.append(too_long("[]", CONFIG_MAP_LIMIT))
        return found

    def changes(self, new: Object, old: Object) -> list[Mistake]:
        if not old.get("immutable"):
            return []
        why = "field is immutable when `immutable` is set"
        return [
            forbidden_field(field, why)
            for field in ("immutable", "data", "binaryData")
            if new.get(field) != old.get(field)
        ]


class StorageClassRules(Rules):
    def fill(self, obj: Object) -> None:
        obj.setdefault("reclaimPolicy", "Delete")
        obj.setdefault("volumeBindingMode", "Immediate")

    def carry(self, new: Object, old: Object) -> None:
        pass

    def mistakes(self, obj: Object) -> list[Mistake]:
        return [] if obj.get("provisioner") else [required("provisioner")]

    def changes(self, new: Object, old: Object) -> list[Mistake]:
        return [
            wrong(field, orjson.dumps(new.get(field)).decode(), "field is immutable")
            for field in ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode")
            if new.get(field) != old.get(field)
        ]


class LeaseRules(Rules):
    updates_need_version = True
    put_creates = True

    def mistakes(self, obj: Object) -> list[Mistake]:
        spec = obj.get("spec") or {}
        found = []
        duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
        if duration is not None and duration <= 0:
            found.append(
                wrong("spec.leaseDurationSeconds", str(duration), "must be greater than 0")
            )
        if transitions is not None and transitions < 0:
            why = "must be greater than or equal to 0"
            found.append(wrong("spec.leaseTransitions", str(transitions), why))
        return found


def quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _keep(field: str, new: Object, old: Object) -> None:
    if field in old:
        new[field] = old[field]
    else:
        new.pop(field, None)


CONFIG_KEY = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
    "(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
    "'[-._a-zA-Z0-9]+')"
)
