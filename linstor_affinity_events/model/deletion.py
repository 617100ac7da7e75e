"""Whose deletion it is that a run observes: one of this service, or its owner's."""

from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.manifest import Manifest, is_terminating, uid_of
from linstor_affinity_events.model.markers import has_any_marker, holder_of, is_marked_by_another
from linstor_affinity_events.model.names import Uid
from linstor_affinity_events.model.progress import Progress
from linstor_affinity_events.model.results import Observed


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
    return progress.deletion_requested or (progress.removed and not progress.begun)


def deleted_without_request(progress: Progress, pv: Manifest | None) -> bool:
    """Whether the volume is deleted, or is being deleted, and this run has not requested that."""
    return not may_have_deleted(progress) and is_deleted(pv, progress.entry.uid)


def begun_and_alive(progress: Progress, pv: Manifest | None) -> bool:
    """Whether this run began the replacement, and the volume is not being deleted."""
    return progress.begun and is_alive(pv, progress.entry.uid)


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
    if progress.begun and seen.led_throughout and seen.exclusive:
        return True
    before_any_other = progress.deleting_version != ""
    if before_any_other and progress.deleting_version == entry.version:
        return True
    if seen.pv is None:
        return before_any_other and entry.holder == progress.holder
    return _shows_no_other_instance(progress, seen, seen.pv)


def _shows_no_other_instance(progress: Progress, seen: Observed, pv: Manifest) -> bool:
    """Whether nothing on the terminating volume says that another instance deleted it."""
    if progress.begun and seen.led_throughout:
        # Without an election another instance may have marked it and had it deleted.
        return not is_marked_by_another(pv, progress.observation.holder)
    # Others may have rewritten the entry. Where they have removed the name, it may be anybody's;
    # without any marker, no instance has come to delete it.
    named = holder_of(pv) == progress.observation.holder or not has_any_marker(pv)
    return named and (progress.begun or progress.deleting_version != "")
