"""Whether a PersistentVolume and its claim are at rest, so that replacing is safe to begin."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from linstor_affinity_events.model.keys import FINALIZER, PROVISIONER_FINALIZER
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    finalizers_of,
    is_terminating,
    name_of,
    phase_of,
    uid_of,
)
from linstor_affinity_events.model.quantity import quantity
from linstor_affinity_events.model.verdict import Later, Reason, Refusal

KNOWN_FINALIZERS = (
    "kubernetes.io/pv-protection",
    PROVISIONER_FINALIZER,
    "external-attacher/*",
    FINALIZER,
)
"""Their owners let go of a PersistentVolume that is deleted with policy Retain."""

_WAIT = 2.0
_BUSY_CONDITIONS = frozenset({"Resizing", "ModifyingVolume"})
"""FileSystemResizePending is not among them: nothing writes to the PersistentVolume any more,
and the pod that would finish it may be waiting for the very affinity we are about to mend."""


def obstacle(
    pv: Manifest, claim: Manifest | None, *, allowed_finalizers: Iterable[str] = ()
) -> Later | Refusal | None:
    """What stands against replacing this volume now; None if nothing does."""
    patterns = (*KNOWN_FINALIZERS, *allowed_finalizers)
    strangers = [
        f for f in finalizers_of(pv) if not any(fnmatchcase(f, pattern) for pattern in patterns)
    ]
    if strangers:
        return Refusal(
            Reason.UNKNOWN_FINALIZER,
            f"it has finalizer {', '.join(strangers)}, and what its owner does on deletion is "
            "unknown; if that is harmless, name it with --allow-finalizer",
        )
    why = _unbound(pv, claim) or (claim and _resizing(pv, claim)) or (claim and _modifying(claim))
    return Later(Reason.BUSY, why, _WAIT) if why else None


def _unbound(pv: Manifest, claim: Manifest | None) -> str | None:
    ref = claim_of(pv)
    if ref is None:
        return None
    if phase_of(pv) != "Bound":
        return f"its phase is {phase_of(pv) or 'unset'}, not Bound"
    if claim is None or uid_of(claim) != ref.uid:
        return f"its claim {ref} is gone"
    if is_terminating(claim):
        return f"its claim {ref} is being deleted"
    if claim["spec"].get("volumeName") != name_of(pv) or phase_of(claim) != "Bound":
        return f"its claim {ref} is not bound to it"
    return None


def _resizing(pv: Manifest, claim: Manifest) -> str | None:
    status: dict[str, Any] = claim.get("status") or {}
    asked = (claim["spec"].get("resources", {}).get("requests") or {}).get("storage", "0")
    has = (pv["spec"].get("capacity") or {}).get("storage", "0")
    wanted_size, size = quantity(str(asked)), quantity(str(has))
    if wanted_size is not None and size is not None and wanted_size > size:
        return f"a resize from {has} to {asked} is in flight"
    busy = sorted(
        c["type"]
        for c in status.get("conditions") or ()
        if c.get("type") in _BUSY_CONDITIONS and c.get("status") == "True"
    )
    return f"its claim is {', '.join(busy)}" if busy else None


def _modifying(claim: Manifest) -> str | None:
    status: dict[str, Any] = claim.get("status") or {}
    asked = claim["spec"].get("volumeAttributesClassName") or None
    if status.get("modifyVolumeStatus") or (
        asked is not None and asked != status.get("currentVolumeAttributesClassName")
    ):
        return "a change of its volume attributes class is in flight"
    return None
