"""What a volume and its claim must be like at the end, whatever was killed when."""

from dataclasses import dataclass
from typing import Any

from linstor_affinity_events.model.keys import SKIP_RECLAIM_ANNOTATION
from tests.crashes.scenarios import SAVED
from tests.testbed.manifests import nodes_of, preserved
from tests.testbed.observer import Observed
from tests.testbed.testbed import Testbed

Json = dict[str, Any]


@dataclass(slots=True)
class Before:
    """How it was before anything happened."""

    name: str
    volume: Json
    claim: Json
    lost: int = 0
    """Claims that the observer has seen become Lost by then."""


def _paths(name: str) -> tuple[str, str]:
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    return f"/api/v1/persistentvolumes/{name}", f"{claims}/claim-{name}"


async def remember(testbed: Testbed, name: str) -> Before:
    volume, claim = [await testbed.cluster.ask("GET", path) for path in _paths(name)]
    return Before(name=name, volume=volume, claim=claim)


async def is_finished(testbed: Testbed, name: str, node: str) -> bool:
    """Whether the volume was recreated, and nothing is left that a replacement needs."""
    path, claim_path = _paths(name)
    volume = await testbed.cluster.find(path)
    if volume is None or "deletionTimestamp" in volume["metadata"] or nodes_of(volume) != {node}:
        return False
    claim = await testbed.cluster.find(claim_path)
    phases = {each["status"]["phase"] for each in (volume, claim) if each is not None}
    return phases == {"Bound"} and not await _left(testbed, name)


async def _left(testbed: Testbed, name: str) -> list[str]:
    left = await testbed.entries()
    if SAVED in testbed.world.volume(name, 0).props:
        left.append(f"property {SAVED}")
    return left


async def faults_of(testbed: Testbed, before: Before, node: str) -> list[str]:
    """Everything that is not as it must be, in words."""
    path, claim_path = _paths(before.name)
    volume, claim = await testbed.cluster.find(path), await testbed.cluster.find(claim_path)
    if volume is None or claim is None:
        return [f"{'volume' if volume is None else 'claim'} is not there"]
    version = volume["metadata"]["resourceVersion"]
    await testbed.observer.until(
        lambda: _version(testbed.observer.volumes.get(before.name)) == version, "it is as it is"
    )
    faults = [f"{left} is left" for left in await _left(testbed, before.name)]
    if nodes_of(volume) != {node}:
        faults.append(f"it is on {sorted(nodes_of(volume))}")
    faults += _differences("volume", preserved(before.volume), preserved(volume))
    faults += _differences("claim", _lasting(before.claim), _lasting(claim))
    if len(testbed.observer.lost) > before.lost:
        faults.append("its claim was Lost")
    offered = [
        observed for observed in testbed.observer.history[before.name] if is_offered(observed)
    ]
    if offered:
        faults.append(f"its data was offered for deletion: {_state(offered[0].manifest)}")
    return faults


def is_offered(observed: Observed) -> bool:
    """Whether a client that sees this may delete the data behind the volume.

    external-provisioner does so for phase Released and policy Delete; csi-reclaim-controller of
    Piraeus when a volume is deleted that is neither Retain nor marked to be left alone.
    """
    manifest = observed.manifest
    safe = manifest["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    marked = (manifest["metadata"].get("annotations") or {}).get(SKIP_RECLAIM_ANNOTATION) == "true"
    if observed.kind == "DELETED" or "deletionTimestamp" in manifest["metadata"]:
        return not (safe and marked)
    return not safe and (manifest.get("status") or {}).get("phase") in {"Released", "Failed"}


def _state(manifest: Json) -> str:
    status = (manifest.get("status") or {}).get("phase")
    terminating = "deletionTimestamp" in manifest["metadata"]
    policy = manifest["spec"]["persistentVolumeReclaimPolicy"]
    return f"phase {status}, policy {policy}, terminating {terminating}"


def _version(manifest: Json | None) -> str:
    return "" if manifest is None else str(manifest["metadata"]["resourceVersion"])


def _lasting(claim: Json) -> Json:
    """What of a claim must not change; a replacement never writes to it.

    Since 1.37 Kubernetes says in a condition whether a pod uses it, some time after it is bound.
    """
    metadata = {k: claim["metadata"].get(k) for k in ("uid", "annotations", "finalizers", "labels")}
    conditions = [x for x in claim["status"].get("conditions") or () if x["type"] != "Unused"]
    status = {**claim["status"], "conditions": conditions}
    return {"metadata": metadata, "spec": claim["spec"], "status": status}


def _differences(what: str, before: Any, after: Any, where: str = "") -> list[str]:
    if before == after:
        return []
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [f"{what}{where} was {before!r}, is {after!r}"]
    keys = sorted(before.keys() | after.keys())
    return [
        line
        for key in keys
        for line in _differences(what, before.get(key), after.get(key), f"{where}.{key}")
    ]
