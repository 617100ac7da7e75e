"""Whose deletion it is that a run observes: one of this service, or its owner's."""

from enum import Enum, auto

from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.manifest import (
    Manifest,
    finalizers_of,
    is_terminating,
    uid_of,
    version_of,
)
from linstor_affinity_events.model.markers import (
    has_any_marker,
    holder_of,
    is_marked_by_another,
    is_marked_otherwise,
    is_ours_to_delete,
    says_deletion,
)
from linstor_affinity_events.model.names import Uid, few
from linstor_affinity_events.model.observation import Observation, RunFacts
from linstor_affinity_events.model.obstacles import GARBAGE_COLLECTORS, unknown_finalizers
from linstor_affinity_events.model.ownership import left_by_the_reference
from linstor_affinity_events.model.progress import Progress
from linstor_affinity_events.model.results import Observed
from linstor_affinity_events.model.steps import LeaveAlone


class DeletedBy(Enum):
    """Who deleted a terminating volume, as far as is known."""

    US = auto()
    """This service, for its replacement."""
    OWNER = auto()
    REFERENCE = auto()
    """The reference controller, for its replacement."""


def exists(pv: Manifest | None, uid: Uid) -> bool:
    """Whether this incarnation of the volume exists, terminating or not."""
    return pv is not None and uid_of(pv) == uid


def is_alive(pv: Manifest | None, uid: Uid) -> bool:
    """Whether this incarnation of the volume exists and is not terminating."""
    return exists(pv, uid) and not is_deleted(pv, uid)


def is_deleted(pv: Manifest | None, uid: Uid) -> bool:
    """Whether this incarnation of the volume is terminating, or there is no volume."""
    return pv is None or (uid_of(pv) == uid and is_terminating(pv))


def may_have_deleted(progress: Progress) -> bool:
    """Whether a request of this run to delete the volume may have taken effect, or one to remove
    it, which only who continues a replacement sends without the other.
    """
    return progress.run.deletion_requested or (progress.removed and not progress.run.begun)


def deleted_without_request(progress: Progress, pv: Manifest | None) -> bool:
    """Whether the volume is deleted, or is being deleted, and this run has not requested that."""
    return not may_have_deleted(progress) and is_deleted(pv, progress.entry.uid)


def begun_and_alive(progress: Progress, pv: Manifest | None) -> bool:
    """Whether this run began the replacement, and the volume is not being deleted."""
    return progress.run.begun and is_alive(pv, progress.entry.uid)


def is_as_left(progress: Progress, pv: Manifest | None) -> bool:
    """Whether nobody has changed the volume since this run wrote or deleted it, as far as the
    volume shows: no other instance can have replaced it in between.
    """
    run = progress.run
    if pv is None:
        return progress.removal_requested
    if is_alive(pv, progress.entry.uid):
        return not has_any_marker(pv) or version_of(pv) == progress.marked_version
    if progress.deletion_accepted and is_deleted(pv, progress.entry.uid):
        return True
    same = not is_marked_otherwise(pv, run.holder, progress.original_values)
    return run.deletion_requested and same


def may_be_deleted_by_another(progress: Progress, pv: Manifest | None) -> bool:
    """Whether the volume of a replacement that this run began is deleted, not as this run does."""
    deleted = progress.run.begun and is_deleted(pv, progress.entry.uid)
    return deleted and not is_as_left(progress, pv)


def left_to_its_owner(progress: Progress, pv: Manifest | None, entry: JournalEntry) -> bool:
    """Whether the volume is deleted, and the entry says that its owner did that."""
    return entry.state is State.PREPARED and deleted_without_request(progress, pv)


def is_by_another(progress: Progress, seen: Observed, entry: JournalEntry) -> bool:
    """Whether an observed deletion can't be ours: all our requests were conflicts, and no other
    instance has written its name into the entry and on the volume since, as each does before it
    deletes it.
    """
    if entry.state is not State.DELETING or not deleted_without_request(progress, seen.pv):
        return False
    if progress.run.begun and seen.leads_since_run_began and seen.exclusive:
        return True
    before_any_other = progress.deleting_version != ""
    if before_any_other and progress.deleting_version == entry.version:
        return True
    if seen.pv is None:
        return before_any_other and entry.holder == progress.run.holder
    return _shows_no_other_instance(progress, seen, seen.pv)


def _shows_no_other_instance(progress: Progress, seen: Observed, pv: Manifest) -> bool:
    """Whether nothing on the terminating volume says that another instance deleted it."""
    if progress.run.begun and seen.leads_since_run_began:
        # Without an election another instance may have marked it and had it deleted.
        return not is_marked_by_another(pv, progress.run.holder)
    # Others may have rewritten the entry. Where they have removed the name, it may be anybody's;
    # without any marker, no instance has come to delete it.
    named = holder_of(pv) == progress.run.holder or not has_any_marker(pv)
    return named and (progress.run.begun or progress.deleting_version != "")


def deleted_by(
    entry: JournalEntry, pv: Manifest, observation: Observation, run: RunFacts
) -> DeletedBy | LeaveAlone:
    """Who deleted this terminating volume; or why that cannot be told from entry and volume."""
    if entry.state is State.DELETING:
        return _deleted_since_entry_says_so(pv, observation, run)
    alone = run.led_throughout or holder_of(pv) == run.holder
    known = not run.deletion_may_be_ours and alone
    if says_deletion(pv) and not known:
        return LeaveAlone(
            "this service had the volume deleted, but the entry says that it had not yet "
            "requested that: another client rewrote the entry"
        )
    return DeletedBy.REFERENCE if left_by_the_reference(pv) else DeletedBy.OWNER


def _deleted_since_entry_says_so(
    pv: Manifest, observation: Observation, run: RunFacts
) -> DeletedBy | LeaveAlone:
    """Who deleted it, if the entry says that this service may have: anybody may have written it."""
    if observation.deleted_by_others:
        # It was not marked then, and this service deletes marked volumes only.
        return DeletedBy.OWNER
    if run.deletion_requested:
        return DeletedBy.US
    allowed = (*run.allowed_finalizers, *GARBAGE_COLLECTORS)
    if unknown := unknown_finalizers(finalizers_of(pv), allowed):
        # Nobody can add one to a volume that is being deleted.
        return LeaveAlone(
            f"the volume is being deleted and has finalizer {few(unknown)}, with which this "
            "service deletes none: another client deleted it"
        )
    original = observation.original
    if is_ours_to_delete(pv) or (original is not None and original.held):
        return DeletedBy.US
    return LeaveAlone(
        "the volume is being deleted, and nothing on it confirms that this service deleted it"
    )


def absent_by_others(entry: JournalEntry, observation: Observation, run: RunFacts) -> bool:
    """Whether another client deleted the volume, or the one that this run created for it."""
    if entry.state is State.PREPARED or run.came_back:
        return True
    # Of its own volume, the run knows the very incarnation that the watch saw.
    return observation.deleted_by_others and (run.begun or not run.deletion_requested)
