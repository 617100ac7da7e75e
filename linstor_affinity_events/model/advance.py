"""The step that a run takes now, and what the result of each step means for it.

Pure, as `next_step` is: the engine only takes the steps. A result that is an error decides as well,
for example whether a deletion that is observed later can be this service's own.
"""

from dataclasses import replace
from typing import assert_never

from linstor_affinity_events.errors import Again, Conflict, Refused, Stalled
from linstor_affinity_events.model.after_observing import after_observing
from linstor_affinity_events.model.changes import as_shown_by_dry_run
from linstor_affinity_events.model.deletion import is_alive, is_deleted
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.keys import MARKER_ANNOTATION, ORIGINAL_POLICY_ANNOTATION
from linstor_affinity_events.model.manifest import (
    RETAIN,
    Manifest,
    annotations_of,
    is_terminating,
    uid_of,
    version_of,
)
from linstor_affinity_events.model.markers import holder_of, is_marked
from linstor_affinity_events.model.progress import Failed, Finished, Progress, having_seen
from linstor_affinity_events.model.recreation import AFFINITY_FIELD, created_different
from linstor_affinity_events.model.replacement import next_step, rolled_back
from linstor_affinity_events.model.results import (
    BinderAwaited,
    ClaimRead,
    Done,
    Dropped,
    Failure,
    MarkedAndSaved,
    Observed,
    Postponed,
    Recreated,
    Result,
    Saved,
    Written,
)
from linstor_affinity_events.model.steps import (
    AwaitBinder,
    Create,
    Delete,
    DetachClaimRef,
    Drop,
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

MAX_STEPS = 60
"""A replacement takes about twelve. Something that undoes our writes (an admission webhook that
strips finalizers, for example) must not cause an endless loop.
"""
MAX_CONFLICTS = 5
MAX_FAILURES = 8


def following(progress: Progress) -> Step:
    """The step to take now."""
    if progress.outdated:
        return Observe()
    if progress.then is not None:
        return progress.then
    if progress.rejected is not None:
        return _roll_back(progress)
    return next_step(progress.entry, progress.observation, progress.run)


def after_removal(progress: Progress) -> Step:
    """The step to take once the terminating volume is removed."""
    return next_step(progress.entry, replace(progress.observation, pv=None), progress.run)


def _roll_back(progress: Progress) -> Step:
    """Roll back, the entry first: a deletion from now on is not ours, even if the response to a
    later write is lost. But where one of our own may be on its way, the markers first: it needs the
    entry until the volume is unmarked.
    """
    entry, observation = progress.entry, progress.observation
    if entry.state is State.DELETING and not progress.deletion_unanswered:
        return Save(entry.prepared())
    pv = observation.pv
    if pv is None or not is_marked(pv):
        return Drop(Outcome.ROLLED_BACK)
    if entry.claim is not None and not observation.claim_known:
        return ReadClaim()
    return rolled_back(entry, pv, observation, progress.run, Outcome.ROLLED_BACK)


def advance(progress: Progress, step: Step, result: Result) -> Progress | Finished | Failed:
    """What the result of a step means."""
    if isinstance(result, Failure):
        return _after_failure(progress, step, result.error)
    progress = replace(progress, then=None)
    if isinstance(step, Observe) and isinstance(result, Observed):
        return after_observing(progress, result)
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
    if isinstance(step, Delete):
        accepted = is_deleted(result.pv, progress.entry.uid)
        progress = replace(_having_requested_deletion(progress), deletion_accepted=accepted)
    seen = _having_read(progress, result.pv)
    if isinstance(step, Unmark):
        return replace(seen, then=Drop(step.outcome, verified=True))
    if isinstance(step, Mark):
        lacking = _lacks_name(progress, result.pv)
        seen = _having_marked(seen, result.pv)
        return replace(seen, rejected=Refused(_NAME_REMOVED) if lacking else None)
    return seen


def _having_read(progress: Progress, pv: Manifest | None) -> Progress:
    observation = replace(progress.observation, pv=pv)
    return replace(having_seen(progress, pv), observation=observation)


def _having_marked(progress: Progress, pv: Manifest | None) -> Progress:
    version = "" if pv is None else version_of(pv)
    return replace(progress, run=replace(progress.run, marked=True), marked_version=version)


def _having_requested_deletion(progress: Progress) -> Progress:
    """Each request names the version of the volume that was observed."""
    pv, run = progress.observation.pv, replace(progress.run, deletion_requested=True)
    return replace(progress, run=run, deletion_version="" if pv is None else version_of(pv))


def _lacks_name(progress: Progress, pv: Manifest | None) -> bool:
    """Whether an admission policy has removed the name of this instance from the markers."""
    named = pv is None or holder_of(pv) == progress.run.holder
    return not named and is_alive(pv, progress.entry.uid)


def _marked_and_saved(
    progress: Progress, step: Step, result: MarkedAndSaved
) -> Progress | Finished | Failed:
    if result.entry is not None:
        progress = _saved(progress, step, result.entry)
    if result.pv is not None:
        progress = _having_marked(_having_read(progress, result.pv), result.pv)
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
    created = progress.run.created if result.pv is None else uid_of(result.pv)
    return replace(
        progress,
        removed=progress.removed or isinstance(step, Remove),
        removal_requested=progress.removal_requested or isinstance(step, Remove),
        asked_for=progress.asked_for if result.pv is None else result.asked_for,
        run=replace(progress.run, created=created, came_back=created is not None),
        observation=replace(progress.observation, pv=result.pv),
    )


def _saved(progress: Progress, step: Step, entry: JournalEntry) -> Progress:
    before = progress.entry
    # While the entry said `prepared`, nobody can have deleted the volume.
    first = before.state is State.PREPARED or progress.deleting_version == before.version
    in_doubt = progress.run.retained_in_doubt or _retains_in_doubt(before, entry)
    return replace(
        _having_tried(progress, step),
        entry=entry,
        run=replace(progress.run, retained_in_doubt=in_doubt),
        deleting_version=entry.version if first else progress.deleting_version,
        observation=replace(progress.observation, taken=True),
    )


def _retains_in_doubt(before: JournalEntry, after: JournalEntry) -> bool:
    """Whether Retain is new, or the annotation with what the volume may have had instead."""
    had = annotations_of(before.wanted).get(ORIGINAL_POLICY_ANNOTATION)
    has = annotations_of(after.wanted).get(ORIGINAL_POLICY_ANNOTATION)
    return has is not None and after.policy == RETAIN and (had, before.policy) != (has, RETAIN)


def _having_tried(progress: Progress, step: Step) -> Progress:
    """The same, knowing which entry may be stored now."""
    if not isinstance(step, Save | MarkAndSave):
        return progress
    tried = replace(step.entry, holder=progress.run.holder, version="")
    return replace(progress, tried=tried)


def _dropped(progress: Progress, step: Step) -> Finished | Failed:
    if progress.rejected is not None:
        return Failed(progress=progress, error=progress.rejected, rolled_back=True)
    if not isinstance(step, Drop):
        raise TypeError("only one step deletes the journal entry")
    ended = replace(progress, different=differences(progress, step))
    by_others = step.recreated and not step.verified and not _took_part(progress)
    return Finished(ended, Outcome.SUPERSEDED if by_others else step.outcome)


def _took_part(progress: Progress) -> bool:
    """Whether this run, or the one that it continues, has deleted or created the volume."""
    run = progress.run
    return run.deletion_requested or progress.removed or run.created is not None


def differences(progress: Progress, step: Drop) -> tuple[str, ...]:
    """The parts of the recreated volume that are not as requested. If another run created it,
    everything but the affinity may have been changed since.
    """
    made, asked_for = progress.observation.pv, progress.asked_for
    if step.verified or made is None or not step.recreated:
        return ()
    parts = created_different(progress.entry.wanted if asked_for is None else asked_for, made)
    return parts if asked_for else tuple(part for part in parts if part == AFFINITY_FIELD)


def _is_only_marked(progress: Progress) -> bool:
    """Whether this run began the replacement, and has done no more than to mark the volume."""
    return progress.run.begun and _is_marked_and_alive(progress)


def _is_marked_and_alive(progress: Progress) -> bool:
    pv = progress.observation.pv
    return pv is not None and is_marked(pv) and is_alive(pv, progress.entry.uid)


def _after_failure(
    progress: Progress, step: Step, error: Again | Refused
) -> Progress | Finished | Failed:
    progress = _having_failed(_having_tried(progress, step), step, error)
    match error:
        case Refused():
            return _after_rejection(replace(progress, then=None), step, error)
        case Stalled():
            return Failed(progress=progress, error=error)
        case Conflict():
            return _after_conflict(progress, step, error)
    # Keep trying once it may be deleted. Before that, a later reconcile starts again, and so soon
    # that a mark which is still on its way finds another version of the volume.
    failures = progress.failures + 1
    not_deleted = isinstance(step, MarkAndSave) or progress.entry.state is State.PREPARED
    if not_deleted or failures > MAX_FAILURES:
        return Failed(progress=progress, error=error)
    return replace(progress, outdated=True, then=None, failures=failures)


def _having_failed(progress: Progress, step: Step, error: Again | Refused) -> Progress:
    """The same, knowing what the step may have done, or may still do, in spite of the error. Only a
    conflict, and for a mark a rejection, proves that nothing happened.
    """
    conflict, rejected = isinstance(error, Conflict), isinstance(error, Refused)
    match step:
        case Remove():
            return replace(progress, removed=True, removal_requested=True)
        case Mark() | MarkAndSave() if not conflict and not rejected:
            return replace(progress, mark_unanswered=True)
        case Unmark() if not conflict and not rejected:
            # From now on only the volume itself says whether the markers are on it.
            return replace(progress, run=replace(progress.run, marked=False))
        case Delete() if not conflict:
            unanswered = progress.deletion_unanswered or not rejected
            return replace(_having_requested_deletion(progress), deletion_unanswered=unanswered)
        case _:
            return progress


def _after_conflict(progress: Progress, step: Step, error: Conflict) -> Progress | Failed:
    """Observe again, a few times."""
    conflicts = progress.conflicts + 1
    if conflicts <= MAX_CONFLICTS:
        return replace(progress, outdated=True, then=None, conflicts=conflicts)
    if isinstance(step, Save | MarkAndSave) and _is_only_marked(progress):
        # Another client keeps rewriting the entry. A later run would not know any more what the
        # volume was like, nor whether its owner deletes it.
        return replace(progress, then=UnmarkWithoutEntry())
    return Failed(progress=progress, error=error)


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
        case Mark() | Save() if _is_before_deletion(progress):
            return replace(progress, rejected=error)
        case Save(entry):
            return _after_rejected_save(progress, entry, error)
        case Create(body) if progress.own:
            return _after_rejected_creation(progress, body, error)
        case Create() | Remove() | Mark() | ReadClaim() | AwaitBinder():
            return Failed(progress=progress, error=error, stuck=True)
        case _:
            return Failed(progress=progress, error=error)


def _is_before_deletion(progress: Progress) -> bool:
    pv = progress.observation.pv
    live = pv is not None and not is_terminating(pv)
    return live or progress.entry.state is State.PREPARED


def _after_rejected_save(
    progress: Progress, entry: JournalEntry, error: Refused
) -> Progress | Failed:
    """Once the volume is deleted, what can't be saved is left out, or kept by this run alone."""
    observation = progress.observation
    if entry.state is State.PREPARED:
        # Another client may have made the entry immutable. The deletion is its owner's all the
        # same, and the entry is dropped with the markers.
        return replace(progress, entry=progress.entry.prepared())
    if not observation.cannot_merge:
        # The volume is recreated without what others changed, which is added as a late write.
        return replace(progress, observation=replace(observation, cannot_merge=True))
    return Failed(progress=progress, error=error, stuck=True)


def _after_rejected_creation(
    progress: Progress, body: Manifest, error: Refused
) -> Progress | Failed:
    """Kubernetes rejects a volume that this run has removed."""
    if body == progress.dry_run_result:
        # Only a volume that Kubernetes refuses as it would have accepted it before blocks other
        # replacements. Anything else may be caused by another client who writes journal entries or
        # annotations.
        return Failed(progress=progress, error=error, stuck=True, blocking=True)
    # What others changed since the dry run may be why. The volume exists first; what is left out is
    # added to it as a late write, which Kubernetes may refuse on its own.
    retreat = without_changes_of_others(progress)
    if retreat != progress.entry:
        return replace(progress, then=Save(retreat))
    return Failed(progress=progress, error=error, stuck=True)


def without_changes_of_others(progress: Progress) -> JournalEntry:
    """The entry that asks for what a dry run has shown that Kubernetes would create."""
    entry = progress.entry
    if progress.dry_run_result is None:
        return entry
    wanted = as_shown_by_dry_run(entry.wanted, progress.dry_run_result)
    return entry if wanted == entry.wanted else entry.wanting(wanted)
