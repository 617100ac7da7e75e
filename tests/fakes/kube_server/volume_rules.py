"""What PersistentVolumes and their claims allow."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from tests.fakes.kube_server.refusals import (
    Mistake,
    Refusal,
    forbidden,
    forbidden_field,
    required,
    unsupported,
    wrong,
)
from tests.fakes.kube_server.rules import Object, Rules, quoted
from tests.fakes.kube_server.schema import OTHER_SOURCES

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
SOURCES = (*OTHER_SOURCES, "csi")

_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)
}


def bytes_of(quantity: Any) -> float:
    """A Kubernetes quantity as a number; raises ValueError."""
    found = re.fullmatch(r"([+-]?[0-9.]+)([eE][0-9]+|[a-zA-Z]*)", str(quantity))
    if found is None:
        raise ValueError(quantity)
    number, unit = found.groups()
    if unit[:1] in {"e", "E"} and unit[1:].isdigit():
        return float(number + unit)
    if unit not in _UNITS:
        raise ValueError(quantity)
    return float(number) * _UNITS[unit]


class VolumeRules(Rules):
    finalizer = "kubernetes.io/pv-protection"

    def __init__(self) -> None:
        self.mutable_affinity = False
        """Stands for the feature gate MutablePVNodeAffinity."""

    def fill(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
        spec.setdefault("volumeMode", "Filesystem")

    def begin(self, obj: Object) -> None:
        obj["status"] = {"phase": "Pending", "lastPhaseTransitionTime": now()}

    def carry_status(self, new: Object, old: Object) -> None:
        super().carry_status(new, old)
        status, before = new.setdefault("status", {}), old.get("status") or {}
        moved = status.get("phase") != before.get("phase")
        same_time = status.get("lastPhaseTransitionTime") == before.get("lastPhaseTransitionTime")
        if moved and same_time:
            status["lastPhaseTransitionTime"] = now()

    def mistakes(self, obj: Object) -> list[Mistake]:
        spec = obj["spec"]
        found = _access_modes(spec)
        found += _capacity(spec)
        policy, mode = spec["persistentVolumeReclaimPolicy"], spec["volumeMode"]
        if policy not in {"Delete", "Recycle", "Retain"}:
            field = "spec.persistentVolumeReclaimPolicy"
            found.append(unsupported(field, quoted(policy), ("Delete", "Recycle", "Retain")))
        found += _affinity(spec)
        found += _sources(spec)
        if mode not in {"Block", "Filesystem"}:
            found.append(unsupported("spec.volumeMode", quoted(mode), ("Block", "Filesystem")))
        return found

    def changes(self, new: Object, old: Object) -> list[Mistake]:
        # The real one checks an updated volume twice, and so lists these mistakes twice.
        found = self.mistakes(new)
        before, after = old["spec"], new["spec"]
        if _source_of(before) != _source_of(after):
            why = "spec.persistentvolumesource is immutable after creation\n"
            found.append(forbidden_field("spec.persistentvolumesource", why))
        if before["volumeMode"] != after["volumeMode"]:
            found.append(wrong("volumeMode", quoted(after["volumeMode"]), "field is immutable"))
        affinity = after.get("nodeAffinity")
        if (
            not self.mutable_affinity
            and before.get("nodeAffinity") is not None
            and before["nodeAffinity"] != affinity
        ):
            why = "field is immutable, except for updating from beta label to GA"
            found.append(wrong("nodeAffinity", _as_go_prints(affinity), why))
        return found


def _access_modes(spec: Object) -> list[Mistake]:
    modes = spec.get("accessModes") or []
    if not modes:
        return [required("spec.accessModes")]
    return [
        unsupported("spec.accessModes", quoted(mode), ACCESS_MODES)
        for mode in modes
        if mode not in ACCESS_MODES
    ]


def _capacity(spec: Object) -> list[Mistake]:
    capacity = spec.get("capacity") or {}
    found = [] if capacity else [required("spec.capacity")]
    if set(capacity) != {"storage"}:
        given = orjson.dumps(capacity or None).decode()
        found.append(unsupported("spec.capacity", given, ("storage",)))
    return found


def _affinity(spec: Object) -> list[Mistake]:
    affinity = spec.get("nodeAffinity")
    if affinity is None:
        return []
    path = "spec.nodeAffinity.required"
    if "required" not in affinity:
        return [required(path, "must specify required node constraints")]
    if not affinity["required"].get("nodeSelectorTerms"):
        return [required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")]
    return []


def _sources(spec: Object) -> list[Mistake]:
    given = [source for source in SOURCES if source in spec]
    found = []
    if "csi" in spec and given == ["csi"]:
        found += [
            required(f"spec.csi.{field}")
            for field in ("driver", "volumeHandle")
            if not spec["csi"].get(field)
        ]
    for source in given[1:]:
        why = "may not specify more than 1 volume type"
        found.append(forbidden_field(f"spec.{source}", why))
    if not given:
        found.append(required("spec", "must specify a volume type"))
    return found


def _source_of(spec: Object) -> Object:
    """The volume source; one secret may be named later, so it does not count until it is."""
    return {source: spec[source] for source in SOURCES if source in spec}


def _as_go_prints(affinity: Object | None) -> str:
    if affinity is None:
        return "null"

    def expressions(given: list[Object] | None) -> list[Object] | None:
        if given is None:
            return None
        return [
            {"Key": each.get("key", ""), "Operator": each.get("operator", "")}
            | {"Values": each.get("values")}
            for each in given
        ]

    terms = [
        {
            "MatchExpressions": expressions(term.get("matchExpressions")),
            "MatchFields": expressions(term.get("matchFields")),
        }
        for term in affinity.get("required", {}).get("nodeSelectorTerms", [])
    ]
    return orjson.dumps({"Required": {"NodeSelectorTerms": terms}}).decode()


class ClaimRules(Rules):
    finalizer = "kubernetes.io/pvc-protection"

    def __init__(self, storage_class: Callable[[str], Object | None]) -> None:
        self._storage_class = storage_class

    def fill(self, obj: Object) -> None:
        obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")

    def begin(self, obj: Object) -> None:
        obj["status"] = {"phase": "Pending"}

    def mistakes(self, obj: Object) -> list[Mistake]:
        spec = obj["spec"]
        found = _access_modes(spec)
        if not spec.get("accessModes"):
            found = [required("spec.accessModes", "at least 1 access mode is required")]
        if "storage" not in ((spec.get("resources") or {}).get("requests") or {}):
            found.append(required("spec.resources[storage]"))
        return found

    def changes(self, new: Object, old: Object) -> list[Mistake]:
        before, after = _unchangeable(old), _unchangeable(new)
        if not before.get("volumeName") and "volumeName" in after:
            before["volumeName"] = after["volumeName"]
        found = []
        if before != after:
            why = (
                "spec is immutable after creation except resources.requests and "
                "volumeAttributesClassName for bound claims\n"
            )
            found.append(forbidden_field("spec", why))
        self._check_size(new, old, found)
        return found

    def _check_size(self, new: Object, old: Object, found: list[Mistake]) -> None:
        wish, was = _request(new), _request(old)
        if wish > was:
            self._check_growth(new, old)
        elif wish < was and wish <= bytes_of(
            (old["status"].get("capacity") or {"storage": 0})["storage"]
        ):
            why = "field can not be less than status.capacity"
            found.append(forbidden_field("spec.resources.requests.storage", why))

    def _check_growth(self, new: Object, old: Object) -> None:
        name = new["metadata"]["name"]
        storage_class = self._storage_class(new["spec"].get("storageClassName") or "")
        if storage_class is None or not storage_class.get("allowVolumeExpansion"):
            raise _may_not_grow(
                name,
                "only dynamically provisioned pvc can be resized and the storageclass that "
                "provisions the pvc must support resize",
            )
        if old["status"].get("phase") != "Bound":
            raise _may_not_grow(name, "Only bound persistent volume claims can be expanded")


def _may_not_grow(name: str, why: str) -> Refusal:
    return forbidden("persistentvolumeclaims", name, why)


def _request(claim: Object) -> float:
    return bytes_of(claim["spec"]["resources"]["requests"]["storage"])


def _unchangeable(claim: Object) -> Object:
    spec = {key: value for key, value in claim["spec"].items() if key != "resources"}
    if (claim.get("status") or {}).get("phase") == "Bound":
        spec.pop("volumeAttributesClassName", None)
    return spec


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
