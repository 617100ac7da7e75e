"""Replacement markers: what makes the deletion of a volume harmless, set and removed.

What a function asks for, and who may have set it:

* `has_any_marker`, `is_unfinished`: finalizer or annotation, set by anybody.
* `is_safe_to_release`: policy Retain and skip-reclaim; `is_marked`: the finalizer as well.
* `recorded_values_of`, `holder_of`: the annotation, written by anybody.
* `says_deletion`, `claim_name_of`, `is_marked_by_another`: the annotation, by our field manager.
* `confirmed_values_of`: the same, beside Retain and skip-reclaim.
* `is_marked_otherwise`: any of these is not as this instance sets it.
* `is_ours_to_delete`: the finalizer, or the annotation by our field manager.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    OURSELVES,
    PROVISIONER_FINALIZER,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import (
    RETAIN,
    Manifest,
    Patch,
    annotations_of,
    finalizers_of,
    guarded,
    is_terminating,
    reclaim_policy_of,
    tombstone_name,
)
from linstor_affinity_events.model.names import LONGEST_NAME

Before = tuple[str, str | None]
"""The original values of the markers: reclaim policy and annotation skip-reclaim."""


LONGEST_MARKER = 16 * 1024
"""Ours have less than 1 KiB, and are parsed several times for each step."""

_MARK_FIELD = f"f:{MARKER_ANNOTATION}"


def is_marked(manifest: Manifest) -> bool:
    """Whether deleting it now loses no data, and it stays until we release it."""
    return (
        FINALIZER in finalizers_of(manifest)
        and reclaim_policy_of(manifest) == RETAIN
        and annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION) == "true"
    )


def has_any_marker(manifest: Manifest) -> bool:
    """Whether any of our replacement markers is there, even if others were removed."""
    return FINALIZER in finalizers_of(manifest) or MARKER_ANNOTATION in annotations_of(manifest)


def is_unfinished(manifest: Manifest) -> bool:
    """Whether an instance has to complete or undo a replacement, whatever entry there is. A volume
    that is being deleted goes by itself once our finalizer is off.
    """
    return FINALIZER in finalizers_of(manifest) or (
        MARKER_ANNOTATION in annotations_of(manifest) and not is_terminating(manifest)
    )


def is_marked_otherwise(manifest: Manifest, holder: str, before: Before) -> bool:
    """Whether there are markers, but not as an instance of this name sets them on a volume that had
    these values `before`.
    """
    same = (
        is_marked(manifest)
        and holder_of(manifest) == holder
        and recorded_values_of(manifest) == before
    )
    return has_any_marker(manifest) and not same


def is_safe_to_release(manifest: Manifest) -> bool:
    """As `is_marked`, for a terminating volume, to which no finalizer can be added."""
    return (
        reclaim_policy_of(manifest) == RETAIN
        and annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION) == "true"
    )


def is_ours_to_delete(manifest: Manifest) -> bool:
    """Whether something on the volume says that this service is replacing it: our finalizer, or the
    annotation with the original values, written by our own field manager. Without either, a
    volume that is being deleted is deleted by another client, whatever a journal entry says.
    """
    return FINALIZER in finalizers_of(manifest) or _wrote_marker(manifest)


def confirmed_values_of(manifest: Manifest) -> Before | None:
    """The original values, if all that makes a deletion harmless is set and our own field manager
    wrote them. An annotation alone may be anybody's.
    """
    ours = is_safe_to_release(manifest) and _wrote_marker(manifest)
    return recorded_values_of(manifest) if ours else None


def _wrote_marker(manifest: Manifest) -> bool:
    return MARKER_ANNOTATION in annotations_of(manifest) and any(
        entry.get("manager") == OURSELVES and _MARK_FIELD in _owned_annotations(entry)
        for entry in manifest["metadata"].get("managedFields") or ()
        if isinstance(entry, Mapping)
    )


def wrote_phase(manifest: Manifest) -> bool:
    """Whether the phase was written by our own field manager, not by the binder."""
    return any(
        entry.get("manager") == OURSELVES and "f:phase" in owned_fields(entry, "f:status")
        for entry in manifest["metadata"].get("managedFields") or ()
        if isinstance(entry, Mapping)
    )


def _owned_annotations(entry: Mapping[str, Any]) -> Collection[str]:
    return owned_fields(entry, "f:metadata", "f:annotations")


def owned_fields(entry: Mapping[str, Any], *path: str) -> Collection[str]:
    """The fields below a path in an entry of `managedFields`, where others can write anything."""
    fields: Any = entry.get("fieldsV1")
    for key in path:
        fields = fields.get(key) if isinstance(fields, Mapping) else None
    return fields if isinstance(fields, Mapping) else ()


def mark_patch(manifest: Manifest, holder: str = "", *, before: Before | None = None) -> Patch:
    """Retain, skip-reclaim, our finalizer, and in an annotation the original values and the name of
    the instance that is about to delete it. Of a volume that is marked already, but whose original
    values others have removed, these are given as `before`.

    csi-provisioner takes its finalizer off as soon as it sees Retain. It is taken off here, because
    otherwise nearly every deletion that follows ends in a conflict first.
    """
    terminating = is_terminating(manifest)
    marker = _marker(
        *_values_to_record(manifest, before),
        held=PROVISIONER_FINALIZER in finalizers_of(manifest)
        or _had_provisioner_finalizer(manifest),
        holder=holder,
        deleted=terminating and says_deletion(manifest),
        claim=_attached(manifest, (manifest["spec"].get("claimRef") or {}).get("name"))
        or claim_name_of(manifest),
    )
    finalizers = finalizers_of(manifest)
    if not terminating:
        others = [f for f in finalizers if f not in {FINALIZER, PROVISIONER_FINALIZER}]
        finalizers = [*others, FINALIZER]
    return guarded(
        manifest,
        {
            "metadata": {
                "finalizers": finalizers,
                "annotations": {SKIP_RECLAIM_ANNOTATION: "true", MARKER_ANNOTATION: marker},
            },
            "spec": {"persistentVolumeReclaimPolicy": RETAIN},
        },
    )


def _values_to_record(manifest: Manifest, before: Before | None) -> Before:
    """The original values. Where the volume was marked before, and another client removed a part,
    the first ones count; a policy that another client has set since does as well. A skip-reclaim
    that would not be read again counts as none: the volume must be marked, and only "true" keeps
    data.
    """
    policy = reclaim_policy_of(manifest)
    was_marked = FINALIZER in finalizers_of(manifest) or is_terminating(manifest)
    known = (recorded_values_of(manifest) if was_marked else None) or before
    first, skip = known or (policy, annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION))
    return (
        first if policy == RETAIN else policy,
        skip if len(skip or "") <= LONGEST_NAME else None,
    )


def with_deletion(manifest: Manifest) -> dict[str, str]:
    """The annotation of our markers, saying besides that a deletion by this service was accepted;
    empty if there is none of ours.
    """
    values = _marker_values(manifest)
    if not values or not _wrote_marker(manifest):
        return {}
    return {MARKER_ANNOTATION: _dumped({**values, "deleted": True})}


def says_deletion(manifest: Manifest) -> bool:
    """Whether our markers say that a deletion by this service was accepted, whatever the journal
    entry says.
    """
    return _wrote_marker(manifest) and _marker_values(manifest).get("deleted") is True


def adoption_patch(manifest: Manifest, policy: str) -> Patch | None:
    """Make a volume that the reference controller is deleting ours: the annotation with the
    original values. A finalizer can't be added to it any more. None if it is there already.
    """
    if _wrote_marker(manifest):
        return None
    return guarded(
        manifest, {"metadata": {"annotations": {MARKER_ANNOTATION: _marker(policy, None)}}}
    )


def _marker(
    policy: str,
    skip: str | None,
    *,
    held: bool = False,
    holder: str = "",
    deleted: bool = False,
    claim: str = "",
) -> str:
    # Always there, so that a full annotation is refused when the volume is marked, not later.
    values: dict[str, Any] = {"reclaimPolicy": policy, "skipReclaim": skip, "deleted": deleted}
    if claim:
        values["claim"] = claim
    if held:
        values["provisionerFinalizer"] = True
    if holder:
        values["holder"] = holder
    return _dumped(values)


def _dumped(values: Mapping[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Unmarking:
    """How our replacement markers are removed."""

    patch: Patch
    retained: bool = False
    """Whether policy Retain stays although the volume had another one, kept in an annotation."""


def unmarking(
    manifest: Manifest,
    *,
    keep: bool = False,
    own: Before | None = None,
    recorded: str | None = None,
) -> Unmarking:
    """Remove our replacement markers. The original values are restored only if all markers are
    there and ours, or if this run set them a moment ago (`own`): an annotation alone must not
    decide the policy of a volume. `keep` leaves Retain, and so does a journal entry with that
    policy (`recorded`), whatever the markers say.

    A policy that another client has set meanwhile stays.
    """
    annotations: dict[str, str | None] = {MARKER_ANNOTATION: None}
    patch: Patch = {
        "metadata": {"finalizers": _original_finalizers(manifest), "annotations": annotations}
    }
    before = own or (recorded_values_of(manifest) if _wrote_marker(manifest) else None)
    has_retain = reclaim_policy_of(manifest) == RETAIN
    if own is None and not _may_be_ours(manifest):
        # An annotation of somebody else: nothing was replaced.
        return Unmarking(guarded(manifest, patch))
    if before is None:
        # The original values are unknown; with our finalizer, Retain may be ours.
        stays = has_retain and FINALIZER in finalizers_of(manifest)
        return Unmarking(guarded(manifest, patch), stays)
    policy, annotations[SKIP_RECLAIM_ANNOTATION] = before
    if not has_retain or policy == RETAIN:
        return Unmarking(guarded(manifest, patch))
    confirmed = (own is not None or is_marked(manifest)) and recorded != RETAIN
    return _with_policy(manifest, patch, policy, stays=keep or not confirmed)


def _may_be_ours(manifest: Manifest) -> bool:
    """Whether finalizer or skip-reclaim is there, which the write that sets Retain sets as well."""
    skipped = annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION) == "true"
    return skipped or FINALIZER in finalizers_of(manifest)


def may_have_set_retain(manifest: Manifest, *, marked: bool) -> bool:
    """Whether a run may have set policy Retain: it has `marked` the volume, or that has our
    finalizer, which the same write sets. Otherwise Retain may be somebody else's.
    """
    return marked or FINALIZER in finalizers_of(manifest)


def reference_unmarking(manifest: Manifest, policy: str, *, keep: bool) -> Unmarking:
    """Remove the reference controller's markers from a volume that it did not delete."""
    patch: Patch = {"metadata": {"annotations": {SKIP_RECLAIM_ANNOTATION: None}}}
    return _with_policy(manifest, patch, policy, stays=keep and policy != RETAIN)


def _with_policy(manifest: Manifest, patch: Patch, policy: str, *, stays: bool) -> Unmarking:
    """Restore the original policy as well; if Retain `stays`, only remember it."""
    if stays:
        patch["metadata"]["annotations"][ORIGINAL_POLICY_ANNOTATION] = policy
    else:
        patch["spec"] = {"persistentVolumeReclaimPolicy": policy}
    return Unmarking(guarded(manifest, patch), stays)


def _original_finalizers(manifest: Manifest) -> list[str]:
    """Without ours, and with that of csi-provisioner if it was there before the markers."""
    finalizers = [f for f in finalizers_of(manifest) if f != FINALIZER]
    taken_off = (
        FINALIZER in finalizers_of(manifest)
        and PROVISIONER_FINALIZER not in finalizers
        and not is_terminating(manifest)
        and _wrote_marker(manifest)
        and _had_provisioner_finalizer(manifest)
    )
    return [*finalizers, PROVISIONER_FINALIZER] if taken_off else finalizers


def recorded_values_of(manifest: Manifest) -> Before | None:
    """The original policy and skip-reclaim as the annotation has them, whoever wrote it; None if it
    is not valid, or longer than there is always space for.
    """
    values = _marker_values(manifest)
    if not {"reclaimPolicy", "skipReclaim"} <= values.keys():
        return None
    policy, skip = values["reclaimPolicy"], values["skipReclaim"]
    if not isinstance(policy, str) or policy not in {"Delete", "Recycle", RETAIN}:
        return None
    if not isinstance(skip, str | None) or len(skip or "") > LONGEST_NAME:
        return None
    return policy, skip


def holder_of(manifest: Manifest) -> str:
    """The instance that set the markers last, as each does before it deletes the volume; empty if
    that is not known.
    """
    return str(_marker_values(manifest).get("holder") or "")


def claim_name_of(manifest: Manifest) -> str:
    """The name of the claim that the volume had when our own field manager marked it, which the
    claimRef does not have any more once it is detached; empty if that is not known.
    """
    if not _wrote_marker(manifest):
        return ""
    return _attached(manifest, _marker_values(manifest).get("claim"))


def _attached(manifest: Manifest, name: object) -> str:
    """The name of a claim; empty for that of a detached claimRef."""
    return "" if not name or name == tombstone_name(manifest) else str(name)


def is_marked_by_another(manifest: Manifest, holder: str) -> bool:
    """Whether an instance of another name than `holder` has set the markers last, written by our
    own field manager. The annotation alone may be anybody's.
    """
    return _wrote_marker(manifest) and holder_of(manifest) not in {"", holder}


def _had_provisioner_finalizer(manifest: Manifest) -> bool:
    return _marker_values(manifest).get("provisionerFinalizer") is True


def _marker_values(manifest: Manifest) -> Mapping[str, Any]:
    text = annotations_of(manifest).get(MARKER_ANNOTATION, "")
    if len(text) > LONGEST_MARKER:
        return {}
    try:
        values = json.loads(text)
        # It may contain half a surrogate pair, which is valid JSON, but no request can.
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, Mapping) else {}
