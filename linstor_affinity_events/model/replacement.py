"""The order of a replacement: from what is seen, the one step to do next.

Whoever starts here after a crash, or beside another instance, sees the same things and so
takes the same steps; there is no code for resuming. docs/architecture.md has the whole order.
"""

from dataclasses import dataclass
from enum import StrEnum

from linstor_affinity_events.model.demands import Original, demands_of, unconfirmed
from linstor_affinity_events.model.journal_entry import JournalEntry, State
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
    changes_decision,
    claim_of,
    detached,
    disowned,
    has_any_marker,
    is_marked,
    is_safe_to_release,
    is_terminating,
    mark_patch,
    marked_by_us,
    marker_of,
    phase_of,
    rebound,
    skip_reclaim_of,
    taken_over,
    tombstone_for,
    tombstone_patch,
    uid_of,
    unmarking,
    with_claim_of,
    with_policy,
    with_retain,
)
from linstor_affinity_events.model.policy import StorageClass


class Outcome(StrEnum):
    """How the unfinished business with a volume ended; stable, for metrics."""

    DONE = "done"
    RECREATED_WITH_RETAIN = "kept"
    """Created again with policy Retain, since its claim had gone or moved on meanwhile."""
    SUPERSEDED = "stale"
    """The note was of no use any more; the volume was not touched."""
    ROLLED_BACK = "unwound"
    """Our marks were taken back: the volume had changed meanwhile."""
    DELETED_BY_USER = "theirs"
    """Somebody deleted the volume before we did; it goes as they wanted."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Make deleting harmless: Retain, skip-reclaim and our finalizer."""

    patch: Patch


@dataclass(frozen=True, slots=True)
class Save:
    """Write the note down before anything that it has to survive."""

    entry: JournalEntry


@dataclass(frozen=True, slots=True)
class Delete:
    """Ask for the deletion of exactly what was seen."""


@dataclass(frozen=True, slots=True)
class DetachClaimRef:
    """Let the claimRef name a tombstone, so that the binder forgets the real claim."""

    patch: Patch


@dataclass(frozen=True, slots=True)
class AwaitBinder:
    """Wait until the binder has written that the volume is Bound no longer."""


@dataclass(frozen=True, slots=True)
class ReadClaim:
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
    Mark
    | Save
    | Delete
    | DetachClaimRef
    | AwaitBinder
    | ReadClaim
    | Remove
    | Create
    | Unmark
    | Drop
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
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

    claim_ref_immutable: bool = False
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


def next_step(entry: JournalEntry, observation: Observation) -> Step:
    """Choose the next step. Every write it asks for is guarded by uid and version, so a choice
    made on an old sight ends in a conflict and a fresh look, never in damage.
    """
    pv = observation.pv
    if pv is None:
        return _absent(entry, observation)
    if uid_of(pv) != entry.uid:
        return Drop(_how_it_came_back(entry, pv))
    if is_terminating(pv):
        return _terminating(entry, pv, observation)
    return _alive(entry, pv, observation)


def _how_it_came_back(entry: JournalEntry, pv: Manifest) -> Outcome:
    """What became of a volume in whose place another incarnation stands."""
    if is_terminating(pv) or not made_by_us(pv):
        return Outcome.SUPERSEDED
    added = annotations_of(pv).keys() - annotations_of(entry.wanted).keys()
    named = claim_of(pv)
    apart = named is not None and named.name == tombstone_for(entry.uid)
    return (
        Outcome.RECREATED_WITH_RETAIN
        if apart or ORIGINAL_POLICY_ANNOTATION in added
        else Outcome.DONE
    )


def _absent(entry: JournalEntry, observation: Observation) -> Step:
    if entry.state is State.PREPARED:
        return Drop(Outcome.DELETED_BY_USER)
    if observation.uninterrupted:
        # What was there a moment ago comes back as it was. A claim that was deleted meanwhile has
        # the consequences that it always has.
        return Create(entry.wanted)
    if entry.user is None:
        return Create(detached(entry.wanted, entry.uid))
    if not observation.claim_known:
        return ReadClaim()
    if is_entitled(
        entry,
        observation.claim,
        original=observation.original,
        storage_class=observation.storage_class,
    ):
        # One that is being deleted was so after the marks, which say Retain.
        return Create(
            with_retain(entry.wanted)
            if claim_is_leaving(entry, observation.claim)
            else entry.wanted
        )
    if observation.claim is not None and uid_of(observation.claim) == entry.user.uid:
        # It is there, and this volume is not, or no longer, the one that it asks for, or may have.
        return Create(detached(entry.wanted, entry.uid))
    if was_seen_as_its_own(entry, observation.original):
        return Create(with_retain(entry.wanted))
    return Create(disowned(entry.wanted, entry.uid))


def _alive(entry: JournalEntry, pv: Manifest, observation: Observation) -> Step:
    whole = is_marked(pv)
    if whole and not _has_to_be_decided_again(entry, pv):
        wanted = entry.wanting(taken_over(entry.wanted, pv))
        if entry.state is State.PREPARED:
            return Save(wanted.deleting())
        # Who deletes writes the note first, so that others can tell a user's deletion from ours.
        return Delete() if observation.taken and wanted == entry else Save(wanted)
    if whole or has_any_marker(pv):
        # Somebody changed it, or took back a part of what makes the deletion harmless: take back
        # the rest. The note first: whoever deletes the volume from now on is not us.
        if entry.state is State.DELETING:
            return Save(entry.prepared())
        return _unmark(entry, pv, observation, Outcome.ROLLED_BACK)
    if entry.state is State.PREPARED and observation.begun_here:
        return Mark(mark_patch(pv))
    return Drop(Outcome.SUPERSEDED)


def _has_to_be_decided_again(entry: JournalEntry, pv: Manifest) -> bool:
    merged = taken_over(entry.wanted, pv)
    return claim_of(pv) != entry.claim or changes_decision(entry.wanted, merged) is not None


def _unmark(entry: JournalEntry, pv: Manifest, observation: Observation, outcome: Outcome) -> Step:
    known = (
        observation.uninterrupted or observation.claim_known or outcome is Outcome.DELETED_BY_USER
    )
    if entry.user is not None and not known:
        return ReadClaim()
    return rolled_back(entry, pv, observation, outcome)


def rolled_back(
    entry: JournalEntry, pv: Manifest, observation: Observation, outcome: Outcome
) -> Unmark:
    """Our marks taken back. Where the claim went while they said Retain, and another run was at
    it, somebody may have relied on them: Retain stays. The claim is known unless it is all one run.
    """
    gone = entry.user is not None and (
        phase_of(pv) != "Bound" or claim_is_leaving(entry, observation.claim)
    )
    unmarked = unmarking(
        pv,
        keep=gone and not observation.uninterrupted and outcome is not Outcome.DELETED_BY_USER,
        own=(entry.policy, skip_reclaim_of(entry.wanted)) if observation.uninterrupted else None,
        noted=entry.policy,
    )
    return Unmark(unmarked.patch, Outcome.RECREATED_WITH_RETAIN if unmarked.retained else outcome)


def claim_is_leaving(entry: JournalEntry, claim: Manifest | None) -> bool:
    """Whether the claim that the volume belonged to is gone, or is being deleted."""
    return not claim_is_as_recorded(entry, claim) or claim is None or is_terminating(claim)


def _terminating(entry: JournalEntry, pv: Manifest, observation: Observation) -> Step:
    if entry.state is State.PREPARED:
        if has_any_marker(pv):
            return _unmark(entry, pv, observation, Outcome.DELETED_BY_USER)
        return Drop(Outcome.DELETED_BY_USER)
    before = marker_of(pv) if marked_by_us(pv) else None
    if before is not None and before[0] == RETAIN != entry.policy:
        # Note and volume both have to say otherwise before anything but Retain comes back.
        return Save(entry.wanting(with_policy(entry.wanted, RETAIN)))
    if not is_safe_to_release(pv):
        merged = entry.wanting(taken_over(entry.wanted, pv))
        return Save(merged) if merged != entry else Mark(mark_patch(pv))
    if rebound(pv, entry.claim):
        return Save(entry.wanting(with_claim_of(entry.wanted, pv)))
    if entry.user is not None and not observation.claim_ref_immutable:
        if claim_of(pv) == entry.claim:
            return DetachClaimRef(tombstone_patch(pv))
        if phase_of(pv) == "Bound" and not observation.guard_over:
            return AwaitBinder()
    merged = entry.wanting(taken_over(entry.wanted, pv))
    if merged != entry:
        return Save(merged)
    if entry.user is not None and not observation.claim_known:
        return ReadClaim()
    return Remove()


def claim_is_as_recorded(entry: JournalEntry, claim: Manifest | None) -> bool:
    """Whether the claim is the one that the volume belonged to, and still wants this volume."""
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
    """Whether the claim may have the volume: it is as noted, the `original` was seen to be its own
    or, where that was not seen, a resource that was provisioned for a claim was so for this one,
    and the volume asks for nothing that the original did not ask for and its class does not give.
    """
    if not claim_is_as_recorded(entry, claim) or entry.user is None:
        return False
    born_for = provisioned_for(entry.key.resource)
    own = original.claim == entry.user.uid if original else born_for in {None, entry.user.uid}
    return own and not unconfirmed(
        demands_of(entry.wanted),
        original=None if original is None else original.demands,
        storage_class=storage_class,
    )


def was_seen_as_its_own(entry: JournalEntry, original: Original | None) -> bool:
    """Whether the volume was seen with the claimRef that the note has."""
    return original is not None and entry.user is not None and original.claim == entry.user.uid


def was_its_own(entry: JournalEntry, original: Original | None) -> bool:
    """The same, or whether csi-provisioner named the resource after the claim."""
    named = entry.user is not None and provisioned_for(entry.key.resource) == entry.user.uid
    return named or was_seen_as_its_own(entry, original)


def left_by_the_reference(pv: Manifest) -> bool:
    """Whether a volume wears what the reference controller puts on it before it deletes it: both,
    in one write. It has no finalizer of its own.
    """
    return is_safe_to_release(pv) and not has_any_marker(pv)


def made_by_us(pv: Manifest) -> bool:
    """Whether our field manager has written this incarnation, as it does when it creates one."""
    return any(
        entry.get("manager") == OURSELVES for entry in pv["metadata"].get("managedFields") or ()
    )
