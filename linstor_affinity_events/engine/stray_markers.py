"""Removes replacement markers from a live volume that has no journal entry."""

from linstor_affinity_events.engine.run_dependencies import RunDependencies
from linstor_affinity_events.model.decision import Reason, Refusal
from linstor_affinity_events.model.deletion import is_as_left, may_have_deleted
from linstor_affinity_events.model.keys import FINALIZER, MARKER_ANNOTATION
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    finalizers_of,
    is_terminating,
    name_of,
    phase_of,
    uid_of,
)
from linstor_affinity_events.model.markers import (
    Before,
    has_any_marker,
    is_marked,
    may_have_set_retain,
    recorded_values_of,
    unmarking,
)
from linstor_affinity_events.model.progress import Progress
from linstor_affinity_events.model.results import Done
from linstor_affinity_events.model.steps import LeaveAlone, Outcome


async def unmark_without_entry(
    dependencies: RunDependencies,
    pv: Manifest | None,
    *,
    own: Before | None = None,
    alone: bool = True,
    deleted_by_owner: bool = False,
) -> Outcome | Refusal:
    """Remove our replacement markers from a volume without a journal entry, if it is live, or known
    to be deleted by its owner.

    The markers say what was there before, but anybody who may write annotations can set them.
    Unless this run has set them (`own`) and no other instance can have done so since (`alone`),
    policy Retain stays, and an annotation holds the original.
    """
    if pv is None or not has_any_marker(pv):
        return Outcome.SUPERSEDED
    if is_terminating(pv) and FINALIZER not in finalizers_of(pv):
        # It goes by itself, or with a saved PV of the reference controller that is read next.
        return Outcome.SUPERSEDED
    if is_terminating(pv) and not deleted_by_owner:
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            f"it is being deleted and has finalizer {FINALIZER}, but the journal "
            "entry of its replacement is gone; read docs/reliability.md before "
            "you remove the finalizer",
        )
    if is_marked(pv) and recorded_values_of(pv) is None and own is None:
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            f"it has finalizer {FINALIZER}, but neither a journal entry nor "
            f"annotation {MARKER_ANNOTATION} says what to restore; see "
            "docs/reliability.md",
        )
    if not alone:
        own = None
    # If its claim went while it said Retain, a user may have relied on that.
    restored = own is not None and (deleted_by_owner or await _in_use(dependencies, pv))
    unmarked = unmarking(pv, keep=not restored, own=own)
    live = await dependencies.volumes.patch(name_of(pv), unmarked.patch)
    if name_of(pv) in dependencies.unfinished.originals:
        dependencies.unfinished.originals.observed(live)
    if not unmarked.retained:
        return Outcome.ROLLED_BACK
    dependencies.unfinished.absent.report_retained(pv)
    return Outcome.RECREATED_WITH_RETAIN


async def unmark_in_run(dependencies: RunDependencies, progress: Progress, *, alone: bool) -> Done:
    """The same in a run whose entry is gone, or somebody else's by now. `alone`: no other instance
    may have led since it began, or only for a moment.
    """
    pv, run = progress.observation.pv, progress.run
    ours = pv is not None and may_have_set_retain(pv, marked=run.marked)
    own = progress.original_values if run.begun and alone and ours else None
    # Else another instance may have marked or unmarked it since, and the policy may have changed.
    led_alone = dependencies.leadership.exclusive and run.led_throughout
    unchanged = is_as_left(progress, pv) or led_alone
    terminating = pv is not None and is_terminating(pv)
    deleted_by_owner = terminating and led_alone and not may_have_deleted(progress)
    ended = await unmark_without_entry(
        dependencies, pv, own=own, alone=unchanged, deleted_by_owner=deleted_by_owner
    )
    return Done(LeaveAlone(ended.why) if isinstance(ended, Refusal) else ended)


async def _in_use(dependencies: RunDependencies, pv: Manifest) -> bool:
    """Whether the claim of a live volume exists and stays; True if it names none."""
    named = claim_of(pv)
    if named is None or not named.uid:
        return True
    claim = await dependencies.volumes.read_claim(named)
    there = claim is not None and uid_of(claim) == named.uid and not is_terminating(claim)
    return there and phase_of(pv) == "Bound"
