"""What the sidecars decide on seeing a volume or a claim; pure."""

from collections.abc import Collection
from typing import Any

from tests.fakes.kube_server.volume_rules import bytes_of

Json = dict[str, Any]

DRIVER = "linstor.csi.linbit.com"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
PROVISIONER = "external-provisioner.volume.kubernetes.io/finalizer"
ATTACHER = "external-attacher/linstor-csi-linbit-com"


def is_provisioners(pv: Json) -> bool:
    """Whether the provisioner of our driver takes the volume for its own."""
    by = (pv["metadata"].get("annotations") or {}).get(PROVISIONED_BY)
    return bool((by or (pv["spec"].get("csi") or {}).get("driver")) == DRIVER)


def provisioners_change(pv: Json) -> Json | None:
    """The strategic merge patch that the provisioner sends, if any.

    It adds its finalizer to a live, Bound volume of policy Delete, and drops it with any other
    policy, whatever state the volume is in.
    """
    has, policy = _finalizers(pv), pv["spec"].get("persistentVolumeReclaimPolicy")
    if policy in {"Retain", "Recycle"}:
        return provisioners_farewell(pv)
    bound = (pv.get("status") or {}).get("phase") == "Bound"
    if bound and not _going(pv) and PROVISIONER not in has:
        return {"metadata": {"finalizers": [PROVISIONER]}}
    return None


def provisioners_farewell(pv: Json) -> Json | None:
    """The strategic merge patch that drops the provisioner's finalizer, if it is there."""
    if PROVISIONER not in _finalizers(pv):
        return None
    return {"metadata": {"$deleteFromPrimitiveList/finalizers": [PROVISIONER]}}


def reclaims(pv: Json) -> bool:
    """Whether the provisioner deletes what is behind the volume: the data.

    A volume that is terminating already is no obstacle as long as it has the finalizer.
    """
    if _going(pv) and PROVISIONER not in _finalizers(pv):
        return False
    released = (pv.get("status") or {}).get("phase") == "Released"
    return released and pv["spec"].get("persistentVolumeReclaimPolicy") == "Delete"


def attachers_change(pv: Json, attached: Collection[str]) -> list[Json] | None:
    """The JSON patch that the attacher sends, if any: it adds its finalizer where it attaches,
    which it refuses for a terminating volume, and drops it from a terminating one that nothing
    needs.
    """
    has, name = _finalizers(pv), pv["metadata"]["name"]
    if _going(pv):
        if name in attached or ATTACHER not in has:
            return None
        path = f"/metadata/finalizers/{has.index(ATTACHER)}"
        return [{"op": "test", "path": path, "value": ATTACHER}, {"op": "remove", "path": path}]
    if name not in attached or ATTACHER in has:
        return None
    if not has:
        path = "/metadata/finalizers"
        return [
            {"op": "test", "path": path, "value": None},
            {"op": "add", "path": path, "value": [ATTACHER]},
        ]
    return [{"op": "add", "path": "/metadata/finalizers/-", "value": ATTACHER}]


def expansion(claim: Json, pv: Json) -> str | None:
    """The size that the resizer would give the volume; None if it has nothing to do.

    It ignores the volume's deletionTimestamp.
    """
    ref = pv["spec"].get("claimRef") or {}
    if (claim.get("status") or {}).get("phase") != "Bound":
        return None
    if ref.get("uid") != claim["metadata"]["uid"]:
        return None
    asked = str(claim["spec"]["resources"]["requests"]["storage"])
    reported = ((claim.get("status") or {}).get("capacity") or {}).get("storage", "0")
    return asked if bytes_of(asked) > bytes_of(reported) else None


def resizing(claim: Json) -> list[Json]:
    """The claim's conditions while the resizer is at it."""
    return [*resized(claim), {"type": "Resizing", "status": "True"}]


def resized(claim: Json) -> list[Json]:
    """The claim's conditions once it is done."""
    conditions = (claim.get("status") or {}).get("conditions") or ()
    return [each for each in conditions if each.get("type") != "Resizing"]


def _finalizers(pv: Json) -> list[str]:
    return list(pv["metadata"].get("finalizers") or ())


def _going(pv: Json) -> bool:
    return "deletionTimestamp" in pv["metadata"]
