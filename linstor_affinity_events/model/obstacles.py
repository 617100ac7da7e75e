"""Whether a PersistentVolume and its claim are stable, so that a replacement may begin."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

from linstor_affinity_events.model.decision import Deferred, Reason, Refusal
from linstor_affinity_events.model.journal_entry import Space
from linstor_affinity_events.model.keys import (
    FINALIZER,
    PROVISIONER_FINALIZER,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    finalizers_of,
    is_terminating,
    name_of,
    phase_of,
    skip_reclaim_of,
    uid_of,
)
from linstor_affinity_events.model.names import LONGEST_NAME, ClaimName, few
from linstor_affinity_events.model.quantity import quantity
from linstor_affinity_events.model.recreation import copy_for_create

KNOWN_FINALIZERS = (
    "kubernetes.io/pv-protection",
    PROVISIONER_FINALIZER,
    "external-attacher/linstor-csi-linbit-com",
    FINALIZER,
)
"""Their owners release a PersistentVolume that is deleted with policy Retain."""

_RETRY_AFTER = 2.0

_IN_PROGRESS = "ControllerResizeInProgress"
_INFEASIBLE = frozenset({"ControllerResizeInfeasible", "ControllerResizeFailed"})
_ON_THE_NODE = frozenset(
    {"NodeResizePending", "NodeResizeInProgress", "NodeResizeInfeasible", "NodeResizeFailed"}
)
"""What csi-resizer writes into a claim's allocatedResourceStatuses; ...Failed until 1.31."""


def obstacle(
    pv: Manifest,
    claim: Manifest | None,
    *,
    allowed_finalizers: Iterable[str] = (),
    urgent: bool = False,
) -> Deferred | Refusal | None:
    """Why this volume can't be replaced now; None if it can.

    If `urgent`, only wait for a claim that is not bound. The csi-resizer sidecar writes to the
    volume by name, and a write during a replacement reaches the new volume; waiting only avoids a
    failed write. LINSTOR does not grow a volume while a replica is not UpToDate, so a resize may
    not complete before the replicas have moved.
    """
    if unknown := unknown_finalizers(finalizers_of(pv), allowed_finalizers):
        return Refusal(
            Reason.UNKNOWN_FINALIZER,
            f"it has finalizer {few(unknown)}, and the program that set it may act "
            "when the volume is deleted for its replacement. If that is harmless, allow it "
            "with --allow-finalizer",
        )
    if not Space.left_by(copy_for_create(pv)).suffices:
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            "its annotations and other fields take up so much of what Kubernetes allows that what "
            "protects it during its replacement may not fit: remove annotations that nobody needs",
        )
    if len(skip_reclaim_of(pv) or "") > LONGEST_NAME:
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            f"its annotation {SKIP_RECLAIM_ANNOTATION} is so long that it would not be restored "
            "after a crash during its replacement: correct it, or remove it",
        )
    ref = claim_of(pv)
    if ref is not None and not ref.is_valid:
        return Refusal(
            Reason.NOT_BOUND,
            "its claimRef has a namespace or name that no claim can have. Correct it, or remove it",
        )
    if ref is None or (not ref.uid and phase_of(pv) != "Bound"):
        # No claim uses it: it was never bound, or is reserved for a future claim.
        return None
    if why := _unbound(pv, claim, ref):
        return Deferred(Reason.NOT_BOUND, why, _RETRY_AFTER)
    if claim is None or urgent:
        return None
    if why := _csi_resizer_writes_volume(pv, claim):
        return Deferred(Reason.RESIZING, why, _RETRY_AFTER)
    if why := _modifying(claim):
        return Deferred(Reason.MODIFYING, why, _RETRY_AFTER)
    return None


GARBAGE_COLLECTORS = ("foregroundDeletion", "orphan")
"""What the API server itself adds, also to an object that is being deleted, when a deletion with
such a propagation policy is requested.
"""


def unknown_finalizers(finalizers: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Those whose owners may act on the deletion of a volume, or keep it from going."""
    patterns = (*KNOWN_FINALIZERS, *allowed)
    return [f for f in finalizers if not any(fnmatchcase(f, pattern) for pattern in patterns)]


def _unbound(pv: Manifest, claim: Manifest | None, ref: ClaimName) -> str | None:
    if phase_of(pv) != "Bound":
        return f"its phase is {phase_of(pv) or 'unset'}, not Bound"
    if claim is None or uid_of(claim) != ref.uid:
        return f"its claim {ref} is gone"
    if is_terminating(claim):
        return f"its claim {ref} is being deleted"
    if claim["spec"].get("volumeName") != name_of(pv) or phase_of(claim) != "Bound":
        return f"its claim {ref} is not bound to it"
    return None


def _csi_resizer_writes_volume(pv: Manifest, claim: Manifest) -> str | None:
    """Whether csi-resizer's controller may still write to the volume.

    It writes the new capacity when the driver has grown the volume. The condition Resizing stays
    until a node has grown the file system as well, and that may need the very affinity that this
    replacement corrects. Source: external-resizer 2.3, expandAndRecover.
    """
    status: dict[str, Any] = claim.get("status") or {}
    at = (status.get("allocatedResourceStatuses") or {}).get("storage", "")
    if at in _INFEASIBLE:
        return None
    asked = _storage((claim["spec"].get("resources") or {}).get("requests"))
    allocated = _storage(status.get("allocatedResources"))
    has = _storage(pv["spec"].get("capacity"))
    if at in _ON_THE_NODE:
        # The controller waits for the node, whatever size was requested meanwhile.
        wanted = allocated or asked
    elif at == _IN_PROGRESS or (not at and allocated is not None):
        wanted = max(filter(None, (asked, allocated)), default=None)
    else:
        wanted = asked
    if wanted is not None and has is not None and wanted > has:
        return (
            f"its claim is being resized from {has.text} to {wanted.text}, and csi-resizer may "
            "still write to the volume; it is replaced afterwards"
        )
    return None


@dataclass(frozen=True, slots=True, order=True)
class _Size:
    bytes: Decimal
    text: str = field(compare=False)


def _storage(resources: Mapping[str, Any] | None) -> _Size | None:
    text = str((resources or {}).get("storage", ""))
    found = quantity(text)
    return None if found is None else _Size(found, text)


def csi_resizer_writes_claim(claim: Manifest) -> bool:
    """Whether csi-resizer's controller is about to write to the claim: it writes several times
    within a second or so, unless LINSTOR keeps it waiting.
    """
    status: dict[str, Any] = claim.get("status") or {}
    at = (status.get("allocatedResourceStatuses") or {}).get("storage", "")
    if at in _INFEASIBLE | _ON_THE_NODE:
        return False
    asked = _storage((claim["spec"].get("resources") or {}).get("requests"))
    has = _storage(status.get("capacity"))
    return asked is not None and has is not None and asked > has


def _modifying(claim: Manifest) -> str | None:
    """Whether csi-resizer may still write the volume's attributes class. An infeasible change is
    over until another one is requested.
    """
    status: dict[str, Any] = claim.get("status") or {}
    modifying = status.get("modifyVolumeStatus") or {}
    asked = claim["spec"].get("volumeAttributesClassName") or None
    target = modifying.get("targetVolumeAttributesClassName")
    if modifying.get("status") == "Infeasible" and target == asked:
        return None
    if modifying or (asked is not None and asked != status.get("currentVolumeAttributesClassName")):
        return (
            "the VolumeAttributesClass of its claim is being changed, and csi-resizer may "
            "still write to the volume; it is replaced afterwards"
        )
    return None
