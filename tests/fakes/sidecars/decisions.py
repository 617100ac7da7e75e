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


def provisioner_finalizers(pv: Json) -> list[str]:
    """The finalizers as the provisioner wants them.

    It adds its own to a live, Bound volume of policy Delete, and drops it with any other policy,
    whatever state the volume is in.
    """
    has, policy = _finalizers(pv), pv["spec"].get("persistentVolumeReclaimPolicy")
    if policy in {"Retain", "Recycle"}:
        return [each for each in has if each != PROVISIONER]
    bound = (pv.get("status") or {}).get("phase") == "Bound"
    if bound and not _going(pv) and PROVISIONER not in has:
        return [*has, PROVISIONER]
    return has


def reclaims(pv: Json) -> bool:
    """Whether the provisioner deletes what is behind the volume: the data.

    A volume that is terminating already is no obstacle as long as it wears the finalizer.
    """
    if _going(pv) and PROVISIONER not in _finalizers(pv):
        return False
    released = (pv.get("status") or {}).get("phase") == "Released"
    return released and pv["spec"].get("persistentVolumeReclaimPolicy") == "Delete"


def attacher_finalizers(pv: Json, attached: Collection[str]) -> list[str]:
    """The finalizers as the attacher wants them: it adds its own where it attaches, which it
    refuses for a terminating volume, and drops it from a terminating one that nothing needs.
    """
    has, name = _finalizers(pv), pv["metadata"]["name"]
    if _going(pv):
        return has if name in attached else [each for each in has if each != ATTACHER]
    return [*has, ATTACHER] if name in attached and ATTACHER not in has else has


def expansion(claim: Json, pv: Json) -> str | None:
    """The size that the resizer would give the volume; None if it has nothing to do.

    It does not look at the volume's deletionTimestamp.
    """
    ref = pv["spec"].get("claimRef") or {}
    if (claim.get("status") or {}).get("phase") != "Bound":
        return None
    if ref.get("uid") != claim["metadata"]["uid"]:
        return None
    asked = str(claim["spec"]["resources"]["requests"]["storage"])
    told = ((claim.get("status") or {}).get("capacity") or {}).get("storage", "0")
    return asked if bytes_of(asked) > bytes_of(told) else None


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
