"""The order of a replacement: from what is seen, the one step to do next.

Whoever starts here after a crash, or beside another instance, sees the same things and so
takes the same steps; there is no code for resuming. docs/architecture.md has the whole order.
"""

from dataclasses import dataclass
from enum import StrEnum

from linstor_affinity_events.model.demands import Original, demands_of, unconfirmed
from linstor_affinity_events.model.keys import (
    ORIGINAL_POLICY_ANNOTATION,
    OURSELVES,
    provisioned_for,
)
from linstor_affinity_events.model.manifest import (
    RETAIN,
    Manifest,
    Patch,
    annotations_of,
    claim_of,
    decides_otherwise,
    detached,
    disowned,
    is_marked,
    is_safe_to_go,
    is_terminating,
    kept,
    mark_on,
    mark_patch,
    marked_by_us,
    phase_of,
    rebound,
    skip_reclaim_of,
    taken_over,
    tombstone_for,
    tombstone_patch,
    uid_of,
    unmarking,
    wears_marks,
    with_claim_of,
    with_policy,
)
from linstor_affinity_events.model.note import Note, State
from linstor_affinity_events.model.policy import StorageClass


class Outcome(StrEnum):
    """How the unfinished business with a volume ended; stable, for metrics."""

    DONE = "done"
    KEPT = "kept"
    """Created again with policy Retain, since its claim had gone or moved on meanwhile."""
    STALE = "stale"
    """The note was of no use any more; the volume was not touched."""
    UNWOUND = "unwound"
    """Our marks were taken back: the volume had changed meanwhile."""
    THEIRS = "theirs"
    """Somebody deleted the volume before we did; it goes as they wanted."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Make deleting harmless: Retain, skip-reclaim and our finalizer."""

    patch: Patch


@dataclass(frozen=True, slots=True)
class Save:
    """Write the note down before anything that it has to survive."""

    note: Note


@dataclass(frozen=True, slots=True)
class Delete:
    """Ask for the deletion of exactly what was seen."""


@dataclass(frozen=True, slots=True)
class PointAway:
    """Let the claimRef name a tombstone, so that the binder forgets the real claim."""

    patch: Patch


@dataclass(frozen=True, slots=True)
class AwaitBinder:
    """Wait until the binder has written that the volume is Bound no longer."""


@dataclass(frozen=True, slots=True)
class LookAtClaim:
    """Read the claim: how the volume comes back depends on it."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Let go of the terminating volume."""


@dataclass(frozen=True, slots=True)
class Create:
    """Put its like in place."""

    body: Manifest


@dataclass(frozen=True, slots=True)
class Unmark:
    """Take our marks back."""

    patch: Patch
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget the note."""

    outcome: Outcome


Step = (
    Mark | Save | Delete | PointAway | AwaitBinder | LookAtClaim | Remove | Create | Unmark | Drop
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen last."""

    pv: Manifest | None
    """The volume of that name; None where there is none."""

    claim: Manifest | None = None
    claim_known: bool = False
    """Whether the claim was looked for."""

    guard_over: bool = False
    """Whether the binder had its time to write the phase."""

    taken: bool = True
    """Whether the note says that it is this very instance that goes on with it."""

    unpointable: bool = False
    """Whether the API server refused to let the claimRef point elsewhere."""

    begun_here: bool = False
    """Whether this very instance wrote the note and has not let go of the volume since."""

    original: Original | None = None
    """What this instance has seen of the volume that is replaced."""

    storage_class: StorageClass | None = None
    """The one that the volume names, where that may confirm what it asks for."""

    uninterrupted: bool = False
    """Whether it all happened in this very run, less than a minute ago: nobody can have relied on
    the marks in between.
    """

    created: bool = False
    """Whether this very run created the new volume: if that is absent, somebody deleted it."""


def next_step(note: Note, sight: Sight) -> Step:
    """Choose the next step. Every write it asks for is guarded by uid and version, so a choice
    made on an old sight ends in a conflict and a fresh look, never in damage.
    """
    pv = sight.pv
    if pv is None:
        return _absent(note, sight)
    if uid_of(pv) != note.uid:
        return Drop(_how_it_came_back(note, pv))
    if is_terminating(pv):
        return _terminating(note, pv, sight)
    return _alive(note, pv, sight)


def _how_it_came_back(note: Note, pv: Manifest) -> Outcome:
    """What became of a volume in whose place another incarnation stands."""
    if is_terminating(pv) or not made_by_us(pv):
        return Outcome.STALE
    added = annotations_of(pv).keys() - annotations_of(note.wanted).keys()
    named = claim_of(pv)
    apart = named is not None and named.name == tombstone_for(note.uid)
    return Outcome.KEPT if apart or ORIGINAL_POLICY_ANNOTATION in added else Outcome.DONE


def _absent(note: Note, sight: Sight) -> Step:
    if note.state is State.PREPARED or sight.created:
        return Drop(Outcome.THEIRS)
    if sight.uninterrupted:
        # What was there a moment ago comes back as it was. A claim that was deleted meanwhile has
        # the consequences that it always has.
        return Create(note.wanted)
    if note.user is None:
        return Create(detached(note.wanted, note.uid))
    if not sight.claim_known:
        return LookAtClaim()
    if is_entitled(note, sight.claim, original=sight.original, storage_class=sight.storage_class):
        # One that is being deleted was so after the marks, which say Retain.
        return Create(kept(note.wanted) if left(note, sight.claim) else note.wanted)
    if sight.claim is not None and uid_of(sight.claim) == note.user.uid:
        # It is there, and this volume is not, or no longer, the one that it asks for, or may have.
        return Create(detached(note.wanted, note.uid))
    if was_seen_as_its_own(note, sight.original):
        return Create(kept(note.wanted))
    return Create(disowned(note.wanted, note.uid))


def _alive(note: Note, pv: Manifest, sight: Sight) -> Step:
    whole = is_marked(pv)
    if whole and not _has_to_be_decided_again(note, pv):
        wanted = note.wanting(taken_over(note.wanted, pv))
        if note.state is State.PREPARED:
            return Save(wanted.deleting())
        # Who deletes writes the note first, so that others can tell a user's deletion from ours.
        return Delete() if sight.taken and wanted == note else Save(wanted)
    if whole or wears_marks(pv):
        # Somebody changed it, or took back a part of what makes the deletion harmless: take back
        # the rest. The note first: whoever deletes the volume from now on is not us.
        if note.state is State.DELETING:
            return Save(note.prepared())
        return _unmark(note, pv, sight, Outcome.UNWOUND)
    if note.state is State.PREPARED and sight.begun_here:
        return Mark(mark_patch(pv))
    return Drop(Outcome.STALE)


def _has_to_be_decided_again(note: Note, pv: Manifest) -> bool:
    merged = taken_over(note.wanted, pv)
    return claim_of(pv) != note.claim or decides_otherwise(note.wanted, merged) is not None


def _unmark(note: Note, pv: Manifest, sight: Sight, outcome: Outcome) -> Step:
    known = sight.uninterrupted or sight.claim_known or outcome is Outcome.THEIRS
    if note.user is not None and not known:
        return LookAtClaim()
    return taken_back(note, pv, sight, outcome)


def taken_back(note: Note, pv: Manifest, sight: Sight, outcome: Outcome) -> Unmark:
    """Our marks taken back. Where the claim went while they said Retain, and another run was at
    it, somebody may have relied on them: Retain stays. The claim is known unless it is all one run.
    """
    gone = note.user is not None and (phase_of(pv) != "Bound" or left(note, sight.claim))
    unmarked = unmarking(
        pv,
        keep=gone and not sight.uninterrupted and outcome is not Outcome.THEIRS,
        own=(note.policy, skip_reclaim_of(note.wanted)) if sight.uninterrupted else None,
        noted=note.policy,
    )
    return Unmark(unmarked.patch, Outcome.KEPT if unmarked.kept else outcome)


def left(note: Note, claim: Manifest | None) -> bool:
    """Whether the claim that the volume belonged to is gone, or is being deleted."""
    return not claim_is_as_noted(note, claim) or claim is None or is_terminating(claim)


def _terminating(note: Note, pv: Manifest, sight: Sight) -> Step:
    if note.state is State.PREPARED:
        if wears_marks(pv):
            return _unmark(note, pv, sight, Outcome.THEIRS)
        return Drop(Outcome.THEIRS)
    before = mark_on(pv) if marked_by_us(pv) else None
    if before is not None and before[0] == RETAIN != note.policy:
        # Note and volume both have to say otherwise before anything but Retain comes back.
        return Save(note.wanting(with_policy(note.wanted, RETAIN)))
    if not is_safe_to_go(pv):
        merged = note.wanting(taken_over(note.wanted, pv))
        return Save(merged) if merged != note else Mark(mark_patch(pv))
    if rebound(pv, note.claim):
        return Save(note.wanting(with_claim_of(note.wanted, pv)))
    if note.user is not None and not sight.unpointable:
        if claim_of(pv) == note.claim:
            return PointAway(tombstone_patch(pv))
        if phase_of(pv) == "Bound" and not sight.guard_over:
            return AwaitBinder()
    merged = note.wanting(taken_over(note.wanted, pv))
    if merged != note:
        return Save(merged)
    if note.user is not None and not sight.claim_known:
        return LookAtClaim()
    return Remove()


def claim_is_as_noted(note: Note, claim: Manifest | None) -> bool:
    """Whether the claim is the one that the volume belonged to, and still wants this volume."""
    return (
        note.user is not None
        and claim is not None
        and uid_of(claim) == note.user.uid
        and claim["spec"].get("volumeName") == note.pv
    )


def is_entitled(
    note: Note,
    claim: Manifest | None,
    *,
    original: Original | None,
    storage_class: StorageClass | None,
) -> bool:
    """Whether the claim may have the volume: it is as noted, the `original` was seen to be its own
    or, where that was not seen, a resource that was provisioned for a claim was so for this one,
    and the volume asks for nothing that the original did not ask for and its class does not give.
    """
    if not claim_is_as_noted(note, claim) or note.user is None:
        return False
    born_for = provisioned_for(note.key.resource)
    own = original.claim == note.user.uid if original else born_for in {None, note.user.uid}
    return own and not unconfirmed(
        demands_of(note.wanted),
        original=None if original is None else original.demands,
        storage_class=storage_class,
    )


def was_seen_as_its_own(note: Note, original: Original | None) -> bool:
    """Whether the volume was seen with the claimRef that the note has."""
    return original is not None and note.user is not None and original.claim == note.user.uid


def was_its_own(note: Note, original: Original | None) -> bool:
    """The same, or whether csi-provisioner named the resource after the claim."""
    named = note.user is not None and provisioned_for(note.key.resource) == note.user.uid
    return named or was_seen_as_its_own(note, original)


def left_by_the_reference(pv: Manifest) -> bool:
    """Whether a volume wears what the reference controller puts on it before it deletes it: both,
    in one write. It has no finalizer of its own.
    """
    return is_safe_to_go(pv) and not wears_marks(pv)


def made_by_us(pv: Manifest) -> bool:
    """Whether our field manager has written this incarnation, as it does when it creates one."""
    return any(
        entry.get("manager") == OURSELVES for entry in pv["metadata"].get("managedFields") or ()
    )
