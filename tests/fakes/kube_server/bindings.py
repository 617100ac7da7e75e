"""What the real volume controllers do when they sync one volume or claim.

Retold from how kube-controller-manager behaves: every look is an iterator that rests after
each write, because much may happen between two writes of the real one.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal

from tests.fakes.kube_server.cluster import FakeCluster
from tests.fakes.kube_server.collection import Key
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.kube_server.resources import CLAIMS, VOLUMES, Resource
from tests.fakes.kube_server.rules import Object
from tests.fakes.kube_server.volume_rules import bytes_of

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"

ASKED: Final = "asked"

Work = tuple[str, Key]
"""A plural and the key of an object that wants a look."""

Step = Work | Literal["asked"]
"""Something else to sync, or that a request was sent."""


class Bindings:
    """Raises Refusal when somebody else wrote first; then the look has to begin again."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self.lost: list[Key] = []

    def volume(self, key: Key) -> Iterator[Step]:
        volume = self._cluster.get("persistentvolumes", key[1])
        if volume is None:
            return
        claim_ref = volume["spec"].get("claimRef")
        if claim_ref is None:
            yield from self._phase(volume, "Available")
        elif not claim_ref.get("uid"):
            yield from self._phase(volume, "Available")
            yield CLAIMS.plural, (claim_ref.get("namespace", ""), claim_ref["name"])
        else:
            yield from self._taken_volume(volume, claim_ref)
        yield from self._release_deleted(VOLUMES, key)

    def claim(self, key: Key) -> Iterator[Step]:
        claim = self._cluster.get("persistentvolumeclaims", key[1], key[0])
        if claim is None:
            return
        if "deletionTimestamp" in claim["metadata"]:
            # No pods here, so nothing uses a claim that is to go.
            yield from self._release_deleted(CLAIMS, key)
        elif BIND_COMPLETED in claim["metadata"].get("annotations", {}):
            yield from self._bound_claim(claim)
        else:
            yield from self._unbound_claim(claim)

    def _taken_volume(self, volume: Object, claim_ref: Object) -> Iterator[Step]:
        key = (claim_ref.get("namespace", ""), claim_ref["name"])
        claim = self._cluster.get("persistentvolumeclaims", key[1], key[0])
        if claim is None or claim["metadata"]["uid"] != claim_ref["uid"]:
            # With policy Delete a provisioner would now delete the data; there is none here.
            if volume["status"].get("phase") not in {"Released", "Failed"}:
                # The claim is not in the cache, so the API server is asked first.
                yield ASKED
                yield from self._phase(volume, "Released")
        elif not claim["spec"].get("volumeName"):
            yield CLAIMS.plural, key
        elif claim["spec"]["volumeName"] == volume["metadata"]["name"]:
            yield from self._phase(volume, "Bound")
        elif volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete":
            yield from self._phase(volume, "Released")
        else:
            yield from self._unbind(volume)

    def _bound_claim(self, claim: Object) -> Iterator[Step]:
        name = claim["spec"].get("volumeName")
        volume = self._cluster.get("persistentvolumes", name) if name else None
        if volume is None:
            yield from self._lose(claim)
            return
        claim_ref = volume["spec"].get("claimRef")
        # By uid alone: a reference that was bent to another name is bent back.
        if claim_ref is None or claim_ref.get("uid") == claim["metadata"]["uid"]:
            yield from self._bind(volume, claim)
        else:
            yield from self._lose(claim)

    def _unbound_claim(self, claim: Object) -> Iterator[Step]:
        name = claim["spec"].get("volumeName")
        volume = self._cluster.get("persistentvolumes", name) if name else self._match(claim)
        if volume is not None and _may_take(volume, claim):
            yield from self._bind(volume, claim)

    def _match(self, claim: Object) -> Object | None:
        """The volume reserved for this claim, or the smallest free one that will do."""
        best: Object | None = None
        for stored in self._cluster.collection(VOLUMES).sorted():
            if b'"phase":"Bound"' in stored.body:
                continue
            volume = stored.content
            if not _may_take(volume, claim):
                continue
            if volume["spec"].get("claimRef"):
                return self._cluster.get("persistentvolumes", stored.key[1])
            if _suits(volume, claim) and (best is None or _size(volume) < _size(best)):
                best = volume
        if best is None or self._waits_for_pods(claim):
            return None
        return self._cluster.get("persistentvolumes", best["metadata"]["name"])

    def _waits_for_pods(self, claim: Object) -> bool:
        name = claim["spec"].get("storageClassName") or ""
        found = self._cluster.get("storageclasses", name)
        return found is not None and found["volumeBindingMode"] == "WaitForFirstConsumer"

    def _bind(self, volume: Object, claim: Object) -> Iterator[Step]:
        """The four writes of a binding; those that would change nothing are left out."""
        if not _points_to(volume, claim):
            if not _reserved_for(volume, claim):
                volume["metadata"].setdefault("annotations", {})[BOUND_BY_CONTROLLER] = "yes"
            volume["spec"]["claimRef"] = _reference_to(claim)
            volume = self._save(VOLUMES, volume)
            yield ASKED
        yield from self._phase(volume, "Bound")
        annotations = claim["metadata"].setdefault("annotations", {})
        if not claim["spec"].get("volumeName"):
            claim["spec"]["volumeName"] = volume["metadata"]["name"]
            annotations[BOUND_BY_CONTROLLER] = "yes"
        if BIND_COMPLETED not in annotations:
            annotations[BIND_COMPLETED] = "yes"
            claim = self._save(CLAIMS, claim)
            yield ASKED
        status = claim["status"]
        if status.get("phase") != "Bound":
            capacity = {"storage": volume["spec"]["capacity"]["storage"]}
            modes = volume["spec"]["accessModes"]
            claim["status"] = {**status, "phase": "Bound"} | {
                "accessModes": modes,
                "capacity": capacity,
            }
            if attributes_class := volume["spec"].get("volumeAttributesClassName"):
                claim["status"]["currentVolumeAttributesClassName"] = attributes_class
            self._save(CLAIMS, claim, "status")
            yield ASKED

    def _lose(self, claim: Object) -> Iterator[Step]:
        if claim["status"].get("phase") == "Lost":
            return
        wiped = ("accessModes", "capacity", "currentVolumeAttributesClassName")
        preserved = {key: value for key, value in claim["status"].items() if key not in wiped}
        claim["status"] = {**preserved, "phase": "Lost"}
        self._save(CLAIMS, claim, "status")
        self.lost.append((claim["metadata"]["namespace"], claim["metadata"]["name"]))
        yield ASKED

    def _unbind(self, volume: Object) -> Iterator[Step]:
        annotations = volume["metadata"].get("annotations", {})
        if annotations.pop(BOUND_BY_CONTROLLER, None) is not None:
            del volume["spec"]["claimRef"]
        else:
            volume["spec"]["claimRef"].pop("uid")
        volume = self._save(VOLUMES, volume)
        yield ASKED
        yield from self._phase(volume, "Available")

    def _phase(self, volume: Object, phase: str) -> Iterator[Step]:
        if volume["status"].get("phase") != phase:
            volume["status"]["phase"] = phase
            self._save(VOLUMES, volume, "status")
            yield ASKED

    def _release_deleted(self, resource: Resource, key: Key) -> Iterator[Step]:
        """The part of the protection controllers."""
        found = self._cluster.get(resource.plural, key[1], key[0])
        if found is None or "deletionTimestamp" not in found["metadata"]:
            return
        ours = {VOLUMES: "kubernetes.io/pv-protection", CLAIMS: "kubernetes.io/pvc-protection"}
        finalizers = found["metadata"].get("finalizers", [])
        in_use = resource is VOLUMES and found["status"].get("phase") == "Bound"
        if ours[resource] in finalizers and not in_use:
            found["metadata"]["finalizers"] = [x for x in finalizers if x != ours[resource]]
            self._save(resource, found)
            yield ASKED

    def _save(self, resource: Resource, object_: Object, subresource: str = "") -> Object:
        metadata = object_["metadata"]
        writer = Writer(name="kube-controller-manager", subresource=subresource)
        saved, _ = self._cluster.update(
            resource.plural,
            metadata["name"],
            object_,
            namespace=metadata.get("namespace", ""),
            writer=writer,
        )
        return saved


def _points_to(volume: Object, claim: Object) -> bool:
    """Whether the volume names this very claim, its uid included."""
    claim_ref = volume["spec"].get("claimRef") or {}
    same_uid: bool = claim_ref.get("uid") == claim["metadata"]["uid"]
    return _reserved_for(volume, claim) and same_uid


def _reserved_for(volume: Object, claim: Object) -> bool:
    """Whether the volume names this claim, with its uid or without any."""
    claim_ref: dict[str, Any] = volume["spec"].get("claimRef") or {}
    metadata = claim["metadata"]
    names = (claim_ref.get("namespace"), claim_ref.get("name"))
    mine = claim_ref.get("uid") in (None, "", metadata["uid"])
    return mine and names == (metadata["namespace"], metadata["name"])


def _may_take(volume: Object, claim: Object) -> bool:
    free = volume["spec"].get("claimRef") is None
    going = "deletionTimestamp" in volume["metadata"]
    return _reserved_for(volume, claim) or (free and not going)


def _suits(volume: Object, claim: Object) -> bool:
    has, wants = volume["spec"], claim["spec"]
    return (
        has.get("storageClassName", "") == (wants.get("storageClassName") or "")
        and has["volumeMode"] == wants["volumeMode"]
        and set(wants["accessModes"]) <= set(has["accessModes"])
        and _size(volume) >= bytes_of(wants["resources"]["requests"]["storage"])
    )


def _size(volume: Object) -> float:
    return bytes_of(volume["spec"]["capacity"]["storage"])


def _reference_to(claim: Object) -> Object:
    metadata = claim["metadata"]
    return {
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "apiVersion": "v1",
        "resourceVersion": metadata["resourceVersion"],
    }
