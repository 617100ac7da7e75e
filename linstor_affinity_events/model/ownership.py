"""Whose an absent volume is, and who left what is found on a volume."""

from linstor_affinity_events.model.demands import Original, demands_of, unconfirmed
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import FINALIZER, OURSELVES, provisioned_for
from linstor_affinity_events.model.manifest import (
    Manifest,
    class_of,
    finalizers_of,
    is_terminating,
    uid_of,
    volume_mode_of,
)
from linstor_affinity_events.model.markers import has_any_marker, is_safe_to_release
from linstor_affinity_events.model.names import Uid
from linstor_affinity_events.model.policy import StorageClass


def claim_is_leaving(entry: JournalEntry, claim: Manifest | None) -> bool:
    """Whether the claim that the volume belonged to is gone, or is being deleted."""
    return not claim_is_as_recorded(entry, claim) or claim is None or is_terminating(claim)


def claim_is_as_recorded(entry: JournalEntry, claim: Manifest | None) -> bool:
    """Whether it is the claim that the volume belonged to, and still refers to this volume."""
    return (
        entry.user is not None
        and claim is not None
        and uid_of(claim) == entry.user.uid
        and claim["spec"].get("volumeName") == entry.pv
    )


def is_entitled(
    entry: JournalEntry,
    claim: Manifest | None,
    *,
    original: Original | None,
    storage_class: StorageClass | None,
) -> bool:
    """Whether the claim may have the volume: it is as recorded; the `original` was observed to be
    its own or, if not observed, nothing says that it was provisioned for another one; and the
    volume demands nothing that neither the original nor the StorageClass of both confirms.
    """
    if not claim_is_as_recorded(entry, claim) or entry.user is None or claim is None:
        return False
    own = original.claim == entry.user.uid if original else _may_be_its_own(entry, entry.user.uid)
    as_observed = original is not None and original.mode == volume_mode_of(entry.wanted)
    return (own and (as_observed or has_mode_of(entry.wanted, claim))) and not unconfirmed(
        demands_of(entry.wanted),
        original=None if original is None else original.demands,
        storage_class=storage_class if has_class_of(entry.wanted, claim) else None,
    )


def _may_be_its_own(entry: JournalEntry, claim: Uid) -> bool:
    """csi-provisioner names a volume after its claim, and linstor-csi the resource after the
    volume: a volume or a resource with such a name is for that claim, and they go together.
    """
    resource, volume = provisioned_for(entry.key.resource), provisioned_for(entry.pv)
    return resource in {None, claim} and (volume is None or volume == resource == claim)


def takes_name_of_another(
    entry: JournalEntry, claim: Manifest | None, original: Original | None
) -> bool:
    """Whether a volume that was not observed would take the name that csi-provisioner gives to the
    volume of a claim. It does not if that claim names it already; if the claim is not known, and
    may be gone, if the resource has that name as well.
    """
    owner = provisioned_for(entry.pv)
    if owner is None or original is not None:
        return False
    if claim is not None and uid_of(claim) == owner:
        return not claim_is_as_recorded(entry, claim)
    return provisioned_for(entry.key.resource) != owner


def has_class_of(wanted: Manifest, claim: Manifest) -> bool:
    """Whether volume and claim have the same StorageClass, as all that are bound have. Otherwise a
    volume could get what a class gives that its claim may not use.
    """
    ours, actual = class_of(wanted), class_of(claim)
    return ours is not None and ours == actual


def has_mode_of(wanted: Manifest, claim: Manifest) -> bool:
    """Whether volume and claim have the same volume mode, as all have that were not made for each
    other by hand. Who could write to a volume with a file system as to a block device could write
    what harms the node that mounts it. Source: KEP-3141.
    """
    return volume_mode_of(wanted) == volume_mode_of(claim)


def was_seen_as_its_own(entry: JournalEntry, original: Original | None) -> bool:
    """Whether the volume was observed with the claimRef of the entry."""
    return original is not None and entry.user is not None and original.claim == entry.user.uid


def was_its_own(entry: JournalEntry, original: Original | None) -> bool:
    """The same, or whether csi-provisioner named the resource after the claim."""
    named = entry.user is not None and provisioned_for(entry.key.resource) == entry.user.uid
    return named or was_seen_as_its_own(entry, original)


def left_by_the_reference(pv: Manifest) -> bool:
    """Whether a volume has the markers that the reference controller sets before it deletes it:
    both, in one write. That controller has no finalizer of its own. A volume that is being deleted
    may have our annotation as well: then we made it ours, and were interrupted.
    """
    ours = FINALIZER in finalizers_of(pv) if is_terminating(pv) else has_any_marker(pv)
    return is_safe_to_release(pv) and not ours


def made_by_us(pv: Manifest) -> bool:
    """Whether our field manager has written this incarnation, as it does when it creates one."""
    return any(
        entry.get("manager") == OURSELVES for entry in pv["metadata"].get("managedFields") or ()
    )
