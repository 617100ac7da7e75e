"""How far a replacement has come, and what the result of each step means for it.

Pure, as `next_step` is: the engine only takes the steps. A result that is an error decides as well,
for example whether a deletion that is observed later can be this service's own.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from linstor_affinity_events.errors import Again, Conflict, Refused, Stalled
from linstor_affinity_events.model.changes import as_shown_by_dry_run, taken_over
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.keys import MARKER_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest, is_terminating, skip_reclaim_of, uid_of
from linstor_affinity_events.model.markers import (
    Before,
    has_any_marker,
    holder_of,
    is_marked,
    is_marked_by_another,
)
from linstor_affinity_events.model.names import Uid
from linstor_affinity_events.model.recreation import AFFINITY_FIELD, created_different
from linstor_affinity_events.model.replacement import Observation, next_step, rolled_back
from linstor_affinity_events.model.steps import (
    AwaitBinder,
    Create,
    Delete,
    DetachClaimRef,
    Drop,
    LeaveAlone,
    Mark,
    MarkAndSave,
    Observe,
    Outcome,
    ReadClaim,
    Remove,
    Save,
    Step,
    Unmark,
    UnmarkWithoutEntry,
)

_NAME_REMOVED = (
    f"an admission policy changes annotation {MARKER_ANNOTATION}, which says who deletes the "
    "volume. Exempt the field manager linstor-affinity-events from that policy"
)

_NOT_LEADING = "PersistentVolume {} was deleted, and another instance leads: it continues"

MAX_STEPS = 60
"""A replacement takes about twelve. Something that undoes our writes (an admission webhook that
strips finalizers, for example) must not cause an endless loop.
"""
MAX_CONFLICTS = 5
MAX_FAILURES = 8


@dataclass(frozen=True, slots=True)
class Written:
    """The volume as the API server returned it; None if it is gone."""

    pv: Manifest | None


@dataclass(frozen=True, slots=True)
class Saved:
    """The journal entry as stored."""

    entry: JournalEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedAndSaved:
    """What is known of two requests that were sent concurrently."""

    pv: Manifest | None
    """The marked volume; None if that request failed."""

    entry: JournalEntry | None
    """The journal entry as stored; None if that request failed."""

    error: Again | Refused | None
    """Why one of them failed; if one failed in a way in which it may have taken effect, that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinderAwaited:
    """The wait for the binder is over."""

    pv: Manifest | None
    """The volume that it released; None if it is gone, or if the time was over first."""

    in_time: bool
    claim: Manifest | None
    fresh: bool
    """Whether the claim was read a moment ago, and is at rest."""


@dataclass(frozen=True, slots=True)
class ClaimRead:
    """The claim as it is now; None if there is none."""

    claim: Manifest | None


@dataclass(frozen=True, slots=True)
class Postponed:
    """The removal was held back for a while, so the claim as last read is outdated."""

    restored: bool = False
    """Whether the volume is outdated too, since the binder restored its claimRef meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recreated:
    """The old volume was removed, or was absent, and this was asked for; None if not created."""

    pv: Manifest | None
    asked_for: Manifest


@dataclass(frozen=True, slots=True)
class Dropped:
    """The journal entry is deleted."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The volume and its journal entry as they are now."""

    pv: Manifest | None
    entry: JournalEntry | None
    first_hand: bool = False
    """Whether no other instance may have led since this run began, or only for a moment, and no
    later volume of that name was seen.
    """

    leads: bool = True
    """Whether this instance leads: if not, another one may have deleted the volume."""

    led_throughout: bool = False
    """Whether this instance has led since this run began, and no other one in between."""

    exclusive: bool = True
    """Whether none leads beside it; not without an election."""


@dataclass(frozen=True, slots=True)
class Done:
    """There is nothing more to do."""

    outcome: Outcome | LeaveAlone


@dataclass(frozen=True, slots=True)
class Failure:
    """The step raised this error, and may have taken effect."""

    error: Again | Refused


Result = (
    Written
    | Saved
    | MarkedAndSaved
    | BinderAwaited
    | ClaimRead
    | Postponed
    | Recreated
    | Dropped
    | Observed
    | Done
    | Failure
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A replacement between two steps."""

    entry: JournalEntry
    observation: Observation
    holder: str
    """The name that this instance writes into journal entries."""

    begun: bool = False
    """Whether this run began it: then it knows what the journal entry says, whoever rewrites it."""

    own: bool = False
    """Whether everything so far was done in this run."""

    dry_run_result: Manifest | None = None
    """What a dry run has shown that Kubernetes would create, if this run began it."""

    tried: JournalEntry | None = None
    """The entry that this run tried to write last, without version: it may be stored."""

    mark_unanswered: bool = False
    """Whether markers that this run requested may still be set, whenever that request arrives."""

    deletion_requested: bool = False
    """Whether a deletion that this run requested may have taken effect."""

    deleting_version: str = ""
    """The version of the entry with which this run, before any other, is about to delete."""

    removed: bool = False
    """Whether a release of the finalizers that this run requested may have taken effect."""

    asked_for: Manifest | None = None
    """What this run created the volume from."""

    created: Uid | None = None
    """The uid that it got."""

    claim_before: Manifest | None = None
    """The claim as last read before the volume was removed."""

    different: tuple[str, ...] = ()
    """The parts of the new volume that differ from what was requested."""

    outdated: bool = False
    """Whether the last observation may be outdated."""

    then: Step | None = None
    """The next step, if the last result decided it."""

    rejected: Refused | None = None
    """Why Kubernetes does not let this replacement begin, while it is rolled back."""

    steps: int = 0
    conflicts: int = 0
    failures: int = 0

    def taking(self, entry: JournalEntry) -> JournalEntry:
        """The entry with our name as holder, so that others see who continues."""
        return replace(entry, holder=self.holder)

    @property
    def original_values(self) -> Before:
        """Reclaim policy and skip-reclaim of the volume before it was marked."""
        return self.entry.policy, skip_reclaim_of(self.entry.wanted)


@dataclass(frozen=True, slots=True)
class Finished:
    """The replacement has ended; with None, another instance has ended it."""

    progress: Progress
    outcome: Outcome | LeaveAlone | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The replacement can't go on in this run. A later reconcile starts again."""

    progress: Progress
    error: Again | Refused
    stuck: bool = False
    """Whether the volume may be absent until Kubernetes accepts what it rejects."""

    blocking: bool = False
    """Whether it is so because of this service alone: no other replacement begins before."""

    rolled_back: bool = False
    """Whether nothing of the replacement is left."""


def begin(
    entry: JournalEntry, observation: Observation, *, holder: str, own: bool = False
) -> Progress:
    """The progress of a replacement that this run begins (`own`), or continues."""
    return Progress(
        entry=entry,
        observation=observation,
        holder=holder,
        begun=own,
        own=own,
        dry_run_result=entry.wanted,
        tried=replace(entry, version=""),
    )


def continued(progress: Progress) -> Progress:
    """The progress of a later run that continues one which this instance began. Others may have
    relied on the replacement markers in between.
    """
    return replace(progress, own=False, outdated=True, then=None, steps=0, conflicts=0, failures=0)


def following(progress: Progress) -> Step:
    """The step to take now."""
    if progress.outdated:
        return Observe()
    if progress.then is not None:
        return progress.then
    if progress.rejected is not None:
        return _roll_back(progress)
    requested = progress.deletion_requested
    observation = replace(
        progress.observation,
        deleted_here=requested,
        # A run that another one may have preceded does not know whether that one requested it.
        deletion_requested=requested or not progress.begun,
    )
    return next_step(progress.entry, observation)


def _roll_back(progress: Progress) -> Step:
    """Roll back, the entry first: a deletion from now on is not ours, even if the response to a
    later write is lost.
    """
    entry, observation = progress.entry, progress.observation
    if entry.state is State.DELETING:
        return Save(entry.prepared())
    pv = observation.pv
    if pv is None or not is_marked(pv):
        return Drop(Outcome.ROLLED_BACK)
    if entry.claim is not None and not observation.claim_known:
        return ReadClaim()
    return rolled_back(entry, pv, observation, Outcome.ROLLED_BACK)


def advance(progress: Progress, step: Step, result: Result) -> Progress | Finished | Failed:
    """What the result of a step means."""
    if isinstance(result, Failure):
        return _after_failure(progress, step, result.error)
    progress = replace(progress, then=None)
    if isinstance(step, Observe) and isinstance(result, Observed):
        return _after_observing(progress, result)
    after = _after_success(progress, step, result)
    if not isinstance(after, Progress):
        return after
    if after.steps >= MAX_STEPS:
        name = type(step).__name__
        stalled = (
            f"the replacement of {after.entry.pv} makes no progress: step {name} has no effect"
        )
        return Failed(progress=after, error=Stalled(stalled))
    return replace(after, steps=after.steps + 1)


def _after_success(progress: Progress, step: Step, result: Result) -> Progress | Finished | Failed:
    match result:
        case Written():
            return _written(progress, step, result)
        case Saved(entry):
            return _saved(progress, step, entry)
        case MarkedAndSaved():
            return _marked_and_saved(progress, step, result)
        case BinderAwaited() | ClaimRead() | Postponed():
            return _waited(progress, result)
        case Recreated():
            return _recreated(progress, step, result)
        case Dropped():
            return _dropped(progress, step)
        case Done(outcome):
            return Finished(progress, outcome)
        case Observed() | Failure():
            raise AssertionError("these are told apart before")
        case _:
            assert_never(result)


def _written(progress: Progress, step: Step, result: Written) -> Progress:
    seen = replace(progress, observation=replace(progress.observation, pv=result.pv))
    if isinstance(step, Unmark):
        return replace(seen, then=Drop(step.outcome, verified=True))
    if isinstance(step, Mark) and _lacks_name(progress, result.pv):
        return replace(seen, rejected=Refused(_NAME_REMOVED))
    return replace(seen, deletion_requested=True) if isinstance(step, Delete) else seen


def _lacks_name(progress: Progress, pv: Manifest | None) -> bool:
    """Whether an admission policy has removed the name of this instance from the markers."""
    named = pv is None or holder_of(pv) == progress.observation.holder
    return not named and _is_alive(pv, progress.entry.uid)


def _marked_and_saved(
    progress: Progress, step: Step, result: MarkedAndSaved
) -> Progress | Finished | Failed:
    if result.entry is not None:
        progress = _saved(progress, step, result.entry)
    if result.pv is not None:
        progress = replace(progress, observation=replace(progress.observation, pv=result.pv))
    if result.error is not None:
        return _after_failure(progress, step, result.error)
    return progress


def _waited(progress: Progress, result: BinderAwaited | ClaimRead | Postponed) -> Progress:
    seen = progress.observation
    match result:
        case BinderAwaited(in_time=in_time, claim=claim):
            pv, known = result.pv if in_time else seen.pv, result.fresh
            seen = replace(seen, pv=pv, guard_over=not in_time, claim=claim, claim_known=known)
            return replace(progress, observation=seen, claim_before=claim)
        case ClaimRead(claim):
            return replace(
                progress,
                claim_before=progress.claim_before if progress.removed else claim,
                observation=replace(seen, claim=claim, claim_known=True),
            )
        case Postponed(restored):
            return replace(
                progress,
                outdated=restored,
                observation=replace(seen, claim_known=False),
            )


def _recreated(progress: Progress, step: Step, result: Recreated) -> Progress:
    created = progress.created if result.pv is None else uid_of(result.pv)
    return replace(
        progress,
        removed=progress.removed or isinstance(step, Remove),
        asked_for=progress.asked_for if result.pv is None else result.asked_for,
        created=created,
        observation=replace(progress.observation, pv=result.pv, created=created),
    )


def _saved(progress: Progress, step: Step, entry: JournalEntry) -> Progress:
    before = progress.entry
    # While the entry said `prepared`, nobody can have deleted the volume.
    first = before.state is State.PREPARED or progress.deleting_version == before.version
    return replace(
        _having_tried(progress, step),
        entry=entry,
        deleting_version=entry.version if first else progress.deleting_version,
        observation=replace(progress.observation, taken=True),
    )


def _having_tried(progress: Progress, step: Step) -> Progress:
    """The same, knowing which entry may be stored now."""
    if not isinstance(step, Save | MarkAndSave):
        return progress
    tried = replace(step.entry, holder=progress.holder, version="")
    return replace(progress, tried=tried)


def _dropped(progress: Progress, step: Step) -> Finished | Failed:
    if progress.rejected is not None:
        return Failed(progress=progress, error=progress.rejected, rolled_back=True)
    if not isinstance(step, Drop):
        raise TypeError("only one step deletes the journal entry")
    ended = replace(progress, different=differences(progress, step))
    by_others = step.outcome is Outcome.DONE and not _took_part(progress)
    return Finished(ended, Outcome.SUPERSEDED if by_others else step.outcome)


def _took_part(progress: Progress) -> bool:
    """Whether this run, or the one that it continues, has deleted or created the volume."""
    return progress.deletion_requested or progress.removed or progress.created is not None


def differences(progress: Progress, step: Drop) -> tuple[str, ...]:
    """The parts of the recreated volume that are not as requested. If another run created it,
    everything but the affinity may have been changed since.
    """
    made, asked_for = progress.observation.pv, progress.asked_for
    if step.verified or made is None or not step.recreated:
        return ()
    parts = created_different(progress.entry.wanted if asked_for is None else asked_for, made)
    return parts if asked_for else tuple(part for part in parts if part == AFFINITY_FIELD)


def has_deleted(progress: Progress) -> bool:
    """Whether a request of this run to delete the volume may have taken effect, or one to remove
    it, which only who continues a replacement sends without the other.
    """
    return progress.deletion_requested or (progress.removed and not progress.begun)


def deleted_without_request(progress: Progress, pv: Manifest | None) -> bool:
    """Whether the volume is deleted, or is being deleted, and this run has not requested that."""
    return not has_deleted(progress) and _is_deleted(pv, progress.entry.uid)


def _after_observing(progress: Progress, seen: Observed) -> Progress | Finished | Failed:
    """Continue from what was observed: nothing from an older observation is kept."""
    pv, entry = seen.pv, seen.entry
    progress = replace(progress, outdated=False, rejected=None)
    if entry is None and _is_taken_away(progress, seen):
        ours = replace(progress.entry, version="")
        observation = Observation(pv=pv, taken=False)
        return replace(
            progress, entry=ours, own=False, removed=True, observation=observation, then=Save(ours)
        )
    if entry is None or _is_forged(progress, pv, entry):
        # Another instance finished it, or dropped our new entry as superseded; or another client
        # rewrote it, as no instance does while the volume is not deleted.
        if not _exists(pv, progress.entry.uid):
            return Finished(progress, None)
        return replace(
            progress,
            observation=replace(progress.observation, pv=pv),
            then=UnmarkWithoutEntry(),
        )
    if _is_for_later_volume(progress, seen, entry):
        observation = Observation(pv=pv, taken=entry.holder == progress.holder)
        return replace(
            begin(entry, observation, holder=progress.holder),
            steps=progress.steps,
            conflicts=progress.conflicts,
            failures=progress.failures,
        )
    # An entry that is neither what was stored nor what we tried to store is another client's.
    known = replace(entry, version="") in (replace(progress.entry, version=""), progress.tried)
    # The uid in the entry of a volume that this run is replacing may be anybody's.
    uid = progress.entry.uid if progress.begun else entry.uid
    another = _deleted_by_another(progress, seen, entry, uid)
    if not seen.leads and (another or _is_let_go(progress, pv, entry, uid)):
        # What is written on the volume or in its entry can be anybody's, so that the leader decides
        # whose deletion it is. This run has nothing to finish.
        return Failed(progress=progress, error=Conflict(_NOT_LEADING.format(entry.pv)))
    observation = Observation(
        pv=pv,
        taken=entry.holder == progress.holder,
        holder=progress.observation.holder,
        created=progress.created,
    )
    gone = not _exists(pv, uid)
    entry = entry if known else _corrected(progress, pv, entry)
    return replace(
        progress,
        entry=entry,
        own=progress.own and known and not another,
        # If another instance removed the volume, only its last version has the late writes.
        removed=progress.removed or (progress.begun and gone),
        observation=observation,
        then=Save(entry.prepared()) if another else None,
    )


def _corrected(progress: Progress, pv: Manifest | None, stored: JournalEntry) -> JournalEntry:
    """The entry as another client has rewritten it, with what this run knows better."""
    if progress.begun:
        return _as_begun(progress, stored)
    if has_deleted(progress) and _is_deleted(pv, progress.entry.uid):
        return replace(stored, uid=progress.entry.uid, state=State.DELETING)
    return stored


def _as_begun(progress: Progress, stored: JournalEntry) -> JournalEntry:
    """What this run has in its journal entry, with the version of what another client wrote there.

    Other instances write into it what they see on the volume, and this run sees that as well. But
    whether the deletion was a user's is known to who did not request it.
    """
    ours = progress.entry
    state = ours.state if progress.deletion_requested else stored.state
    return replace(ours, version=stored.version, state=state)


def _is_taken_away(progress: Progress, seen: Observed) -> bool:
    """Whether the entry of a volume that this run deletes is gone, although the volume is not there
    again: another client deleted it, or another instance that saw it before the markers.
    """
    mine = has_deleted(progress) and progress.asked_for is None
    return mine and seen.first_hand and _is_deleted(seen.pv, progress.entry.uid)


def _is_for_later_volume(progress: Progress, seen: Observed, entry: JournalEntry) -> bool:
    """Whether another instance has recreated the volume and replaces it again. For a volume that
    is there, or was a moment ago, another client wrote such an entry.
    """
    if entry.uid == progress.entry.uid:
        return False
    there = _exists(seen.pv, progress.entry.uid) or (seen.pv is None and seen.first_hand)
    return not ((progress.begun or has_deleted(progress)) and there)


def _is_forged(progress: Progress, pv: Manifest | None, entry: JournalEntry) -> bool:
    """Whether the entry of a volume that this run is replacing, and has not deleted, is for another
    incarnation or LINSTOR volume by now, or asks for something that no instance takes from the
    volume: another claim, node affinity or policy, for example.
    """
    own = progress.entry
    if pv is None or not is_not_deleted(progress, pv):
        return False
    return (entry.uid, entry.key) != (own.uid, own.key) or (
        taken_over(entry.wanted, pv) != taken_over(own.wanted, pv)
    )


def is_not_deleted(progress: Progress, pv: Manifest | None) -> bool:
    """Whether this run began the replacement, and the volume is not being deleted."""
    return progress.begun and _is_alive(pv, progress.entry.uid)


def _is_only_marked(progress: Progress) -> bool:
    """Whether this run began the replacement, and has done no more than to mark the volume."""
    return progress.begun and _is_marked_and_alive(progress)


def _is_marked_and_alive(progress: Progress) -> bool:
    pv = progress.observation.pv
    return pv is not None and is_marked(pv) and _is_alive(pv, progress.entry.uid)


def _is_let_go(progress: Progress, pv: Manifest | None, entry: JournalEntry, uid: Uid) -> bool:
    """Whether the volume is deleted, and the entry says that its owner did that."""
    prepared = entry.state is State.PREPARED and not has_deleted(progress)
    return prepared and _is_deleted(pv, uid)


def _deleted_by_another(progress: Progress, seen: Observed, entry: JournalEntry, uid: Uid) -> bool:
    """Whether an observed deletion can't be ours: all our requests were conflicts, and no other
    instance has written its name into the entry and on the volume since, as each does before it
    deletes it.
    """
    pv = seen.pv
    if not _is_deleted(pv, uid) or entry.state is not State.DELETING:
        return False
    if has_deleted(progress):
        return False
    led = progress.begun and seen.led_throughout
    if led and seen.exclusive:
        return True
    before_any_other = progress.deleting_version != ""
    if before_any_other and progress.deleting_version == entry.version:
        return True
    if pv is None:
        return before_any_other and entry.holder == progress.holder
    if led:
        # Without an election another instance may have marked it and had it deleted.
        return not is_marked_by_another(pv, progress.observation.holder)
    # Others may have rewritten the entry. Where they have removed the name, it may be anybody's;
    # without any marker, no instance has come to delete it.
    named = holder_of(pv) == progress.observation.holder or not has_any_marker(pv)
    return named and (progress.begun or before_any_other)


def _exists(pv: Manifest | None, uid: Uid) -> bool:
    """Whether this incarnation of the volume exists, terminating or not."""
    return pv is not None and uid_of(pv) == uid


def _is_alive(pv: Manifest | None, uid: Uid) -> bool:
    """Whether this incarnation of the volume exists and is not terminating."""
    return _exists(pv, uid) and not _is_deleted(pv, uid)


def _is_deleted(pv: Manifest | None, uid: Uid) -> bool:
    """Whether this incarnation of the volume is terminating, or there is no volume."""
    return pv is None or (uid_of(pv) == uid and is_terminating(pv))


def _after_failure(
    progress: Progress, step: Step, error: Again | Refused
) -> Progress | Finished | Failed:
    progress = _having_tried(progress, step)
    if isinstance(step, Remove):
        progress = replace(progress, removed=True)
    if isinstance(step, Mark | MarkAndSave) and not isinstance(error, Conflict | Refused):
        progress = replace(progress, mark_unanswered=True)
    if isinstance(step, Delete) and not isinstance(error, Conflict):
        # Only a conflict proves that nothing happened.
        progress = replace(progress, deletion_requested=True)
    if isinstance(error, Refused):
        return _after_rejection(replace(progress, then=None), step, error)
    if isinstance(error, Stalled):
        return Failed(progress=progress, error=error)
    observing = replace(progress, outdated=True, then=None)
    if isinstance(error, Conflict):
        conflicts = progress.conflicts + 1
        if conflicts <= MAX_CONFLICTS:
            return replace(observing, conflicts=conflicts)
        if isinstance(step, Save | MarkAndSave) and _is_only_marked(progress):
            # Another client keeps rewriting the entry. A later run would not know any more what
            # the volume was like, nor whether its owner deletes it.
            return replace(progress, then=UnmarkWithoutEntry())
        return Failed(progress=progress, error=error)
    # Keep trying once it may be deleted. Before that, a later reconcile starts again, and so soon
    # that a mark which is still on its way finds another version of the volume.
    failures = progress.failures + 1
    not_deleted = isinstance(step, MarkAndSave) or progress.entry.state is State.PREPARED
    if not_deleted or failures > MAX_FAILURES:
        return Failed(progress=progress, error=error)
    return replace(observing, failures=failures)


def _after_rejection(progress: Progress, step: Step, error: Refused) -> Progress | Failed:
    """Roll back before the deletion, continue after it."""
    observation = progress.observation
    if progress.rejected is not None:
        if isinstance(step, Save) and _is_marked_and_alive(progress):
            # Another client may have made the entry immutable. Without our markers it is not
            # followed, whatever it says.
            return replace(progress, rejected=None, then=UnmarkWithoutEntry())
        return Failed(progress=progress, error=error)
    match step:
        case DetachClaimRef():
            return replace(progress, observation=replace(observation, claim_ref_immutable=True))
        case Delete() | MarkAndSave():
            return replace(progress, rejected=error)
        case Mark() | Save() if progress.entry.state is State.PREPARED:
            return replace(progress, rejected=error)
        case Mark() | Save() if observation.pv and not is_terminating(observation.pv):
            return replace(progress, rejected=error)
        case Save() if not observation.cannot_merge:
            # The volume is recreated without what others changed, which is added as a late write.
            return replace(progress, observation=replace(observation, cannot_merge=True))
        case Create(body) if progress.own and body != progress.dry_run_result:
            # What others changed since the dry run may be why. The volume exists first; what is
            # left out is added to it as a late write, which Kubernetes may refuse on its own.
            retreat = without_changes_of_others(progress)
            if retreat != progress.entry:
                return replace(progress, then=Save(retreat))
            return Failed(progress=progress, error=error, stuck=True)
        case Create() if progress.own:
            # Only a volume that this run removed, and that Kubernetes refuses as it would have
            # accepted it before, blocks other replacements. Anything else may be caused by
            # another client who writes journal entries or annotations.
            return Failed(progress=progress, error=error, stuck=True, blocking=True)
        case Create() | Remove() | Mark() | Save() | ReadClaim() | AwaitBinder():
            return Failed(progress=progress, error=error, stuck=True)
        case _:
            return Failed(progress=progress, error=error)


def without_changes_of_others(progress: Progress) -> JournalEntry:
    """The entry that asks for what a dry run has shown that Kubernetes would create."""
    entry = progress.entry
    if progress.dry_run_result is None:
        return entry
    wanted = as_shown_by_dry_run(entry.wanted, progress.dry_run_result)
    return entry if wanted == entry.wanted else entry.wanting(wanted)
