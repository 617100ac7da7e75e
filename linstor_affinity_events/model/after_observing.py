"""What a new observation means for a run: others may have changed volume and entry meanwhile."""

from dataclasses import replace

from linstor_affinity_events.errors import Conflict
from linstor_affinity_events.model.changes import taken_over
from linstor_affinity_events.model.deletion import (
    begun_and_alive,
    exists,
    is_by_another,
    is_deleted,
    left_to_its_owner,
    may_be_deleted_by_another,
    may_have_deleted,
)
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.observation import Observation
from linstor_affinity_events.model.progress import (
    Failed,
    Finished,
    Progress,
    begin,
    having_seen,
)
from linstor_affinity_events.model.results import Observed
from linstor_affinity_events.model.steps import Save, UnmarkWithoutEntry

_NOT_LEADING = "PersistentVolume {} was deleted, and another instance leads: it continues"


def after_observing(progress: Progress, seen: Observed) -> Progress | Finished | Failed:
    """Continue from what was observed: nothing from an older observation is kept."""
    progress, entry = replace(progress, outdated=False, rejected=None), seen.entry
    progress = having_seen(progress, seen.pv)
    if entry is None:
        ours = _is_taken_away(progress, seen)
        return _with_entry_again(progress, seen) if ours else _without_entry(progress, seen.pv)
    if _is_forged(progress, seen.pv, entry):
        return _without_entry(progress, seen.pv)
    if _is_for_later_volume(progress, seen, entry):
        return _with_later_volume(progress, seen.pv, entry)
    return _with_entry(progress, seen, entry)


def _with_entry_again(progress: Progress, seen: Observed) -> Progress:
    """The entry was taken away from a run that needs it: write it again."""
    ours = replace(progress.entry, version="")
    return replace(
        progress,
        entry=ours,
        own=False,
        removed=True,
        observation=Observation(pv=seen.pv, taken=False),
        then=Save(ours),
    )


def _without_entry(progress: Progress, pv: Manifest | None) -> Progress | Finished:
    """Another instance finished it, or dropped our new entry as superseded; or another client
    rewrote it, as no instance does while the volume is not deleted.
    """
    if not exists(pv, progress.entry.uid):
        return Finished(progress, None)
    seen = replace(progress.observation, pv=pv)
    return replace(progress, observation=seen, then=UnmarkWithoutEntry())


def _with_later_volume(progress: Progress, pv: Manifest | None, entry: JournalEntry) -> Progress:
    """Continue the replacement of the volume that another instance has recreated."""
    observation = Observation(pv=pv, taken=entry.holder == progress.run.holder)
    return replace(
        begin(entry, observation, holder=progress.run.holder),
        steps=progress.steps,
        conflicts=progress.conflicts,
        failures=progress.failures,
    )


def _with_entry(progress: Progress, seen: Observed, entry: JournalEntry) -> Progress | Failed:
    """Go on with this replacement, unless the deletion that is observed is its owner's."""
    # An entry that is neither what was stored nor what we tried to store is another client's.
    known = replace(entry, version="") in (replace(progress.entry, version=""), progress.tried)
    another = is_by_another(progress, seen, entry)
    continues = may_be_deleted_by_another(progress, seen.pv)
    if not seen.leads and (another or continues or left_to_its_owner(progress, seen.pv, entry)):
        # What is written on the volume or in its entry can be anybody's, so that the leader decides
        # whose deletion it is. This run has nothing to finish.
        return Failed(progress=progress, error=Conflict(_NOT_LEADING.format(entry.pv)))
    observation = Observation(pv=seen.pv, taken=entry.holder == progress.run.holder)
    entry = entry if known else _corrected(progress, seen.pv, entry)
    gone = not exists(seen.pv, progress.entry.uid)
    return replace(
        progress,
        entry=entry,
        own=progress.own and known and not another,
        # If another instance removed the volume, only its last version has the late writes.
        removed=progress.removed or (progress.run.begun and gone),
        observation=observation,
        then=Save(entry.prepared()) if another else None,
    )


def _corrected(progress: Progress, pv: Manifest | None, stored: JournalEntry) -> JournalEntry:
    """The entry as another client has rewritten it, with what this run knows better."""
    ours = progress.entry
    if progress.run.begun:
        # Other instances write into it what they see on the volume, and this run sees that as well.
        # But whether the deletion was a user's is known to who did not request it.
        state = ours.state if progress.run.deletion_requested else stored.state
        return replace(ours, version=stored.version, state=state)
    if may_have_deleted(progress) and is_deleted(pv, ours.uid):
        return replace(stored, uid=ours.uid, state=State.DELETING)
    return stored


def _is_taken_away(progress: Progress, seen: Observed) -> bool:
    """Whether the entry of a volume that this run deletes is gone, although the volume is not there
    again: another client deleted it, or another instance that saw it before the markers.
    """
    over = progress.run.came_back or seen.deleted_by_others
    mine = may_have_deleted(progress) and not over
    return mine and seen.first_hand and is_deleted(seen.pv, progress.entry.uid)


def _is_for_later_volume(progress: Progress, seen: Observed, entry: JournalEntry) -> bool:
    """Whether another instance has recreated the volume and replaces it again. For a volume that
    is there, or was a moment ago, another client wrote such an entry.
    """
    if entry.uid == progress.entry.uid:
        return False
    a_moment_ago = seen.pv is None and seen.first_hand and not progress.run.came_back
    there = exists(seen.pv, progress.entry.uid) or a_moment_ago
    return not ((progress.run.begun or may_have_deleted(progress)) and there)


def _is_forged(progress: Progress, pv: Manifest | None, entry: JournalEntry) -> bool:
    """Whether the entry of a volume that this run is replacing, and has not deleted, is for another
    incarnation or LINSTOR volume by now, or asks for something that no instance takes from the
    volume: another claim, node affinity or policy, for example.
    """
    own = progress.entry
    if pv is None or not begun_and_alive(progress, pv):
        return False
    return (entry.uid, entry.key) != (own.uid, own.key) or (
        taken_over(entry.wanted, pv) != taken_over(own.wanted, pv)
    )
