"""Observes a volume in replacement, and adds what this instance knows about its owner."""

from dataclasses import replace
from itertools import islice

from linstor_affinity_events.engine.run_dependencies import RunDependencies
from linstor_affinity_events.errors import BadEntry, Stalled, Unreachable
from linstor_affinity_events.model.deletion import (
    begun_and_alive,
    deleted_without_request,
    is_as_left,
    may_be_deleted_by_another,
)
from linstor_affinity_events.model.demands import Demands, demands_of
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest, uid_of
from linstor_affinity_events.model.markers import is_marked_by_another
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.observation import Observation
from linstor_affinity_events.model.ownership import was_seen_as_its_own
from linstor_affinity_events.model.progress import Progress
from linstor_affinity_events.model.results import Observed

MOST_ABSENT = 100
"""How many absent volumes for one LINSTOR volume are looked for. Others may have written thousands
of entries for it.
"""


async def observe(
    dependencies: RunDependencies, name: PvName
) -> tuple[Manifest | None, JournalEntry | None]:
    """Read the volume and its journal entry in an order that keeps them consistent.

    An entry read after the volume was gone is the last one written before that. A volume read
    after its entry said `deleting` shows everything done until then.
    """
    pv = await dependencies.volumes.read(name)
    entry = await dependencies.journal.read(name)
    if pv is None or entry is None or entry.state is State.PREPARED:
        return pv, entry
    pv = await dependencies.volumes.read(name)
    return pv, entry if pv is not None else await dependencies.journal.read(name)


async def observe_again(
    dependencies: RunDependencies, progress: Progress
) -> tuple[Manifest | None, JournalEntry | None]:
    """The same in a run. Where it has not deleted the volume, an entry that others made unreadable
    is as good as none.
    """
    name = progress.entry.pv
    try:
        return await observe(dependencies, name)
    except BadEntry:
        pv = await dependencies.volumes.read(name)
        if not begun_and_alive(progress, pv):
            raise
        return pv, None


async def observed_again(
    dependencies: RunDependencies, progress: Progress, *, first_hand: bool, same_term: bool
) -> Observed:
    """The same, with whether this instance leads. `same_term`: it has led since the run began."""
    leadership = dependencies.leadership
    pv, entry = await observe_again(dependencies, progress)
    # A Lease that others have written may be noticed only when it is renewed.
    doubted = may_be_deleted_by_another(progress, pv) or deleted_without_request(progress, pv)
    leads = leadership.leading and (not doubted or await leadership.confirmed())
    return Observed(
        pv,
        entry,
        first_hand=first_hand,
        leads=leads,
        leads_since_run_began=leads and same_term,
        deleted_by_others=dependencies.index.deleted_by_others(
            progress.entry.pv, progress.entry.uid
        ),
        exclusive=leadership.exclusive,
    )


async def knows_original(dependencies: RunDependencies, progress: Progress) -> bool:
    """Whether no other instance can have marked or deleted the volume since this run did. A Lease
    that others have written may be noticed only when it is renewed.
    """
    pv = progress.observation.pv
    if not progress.run.begun or is_as_left(progress, pv):
        return True
    if dependencies.leadership.exclusive:
        return await dependencies.leadership.confirmed()
    return pv is None or not is_marked_by_another(pv, progress.run.holder)


def with_knowledge(
    dependencies: RunDependencies,
    entry: JournalEntry,
    observation: Observation,
    *,
    owner_known: bool,
    begun: bool,
) -> Observation:
    """The same observation, with what this instance knows beside it: what confirms demands of the
    volume beyond holding data, and who else uses its data. With `owner_known`, the run knows whose
    it is, although not all journal entries may be listed.

    Raises Stalled and Unreachable if something is not known yet.
    """
    if observation.pv is not None and uid_of(observation.pv) == entry.uid:
        dependencies.unfinished.originals.observed(observation.pv)
    # A run that began the replacement knows which incarnation it is about, whatever the entry says.
    uid = entry.uid if begun or observation.pv is not None else None
    by_others = dependencies.index.deleted_by_others(entry.pv, uid)
    observation = replace(observation, deleted_by_others=by_others)
    demands, original = demands_of(entry.wanted), dependencies.unfinished.originals.of(entry)
    if observation.pv is None:
        # The label of an entry, or its name, may be anybody's: what it says itself counts.
        if not owner_known and not dependencies.unfinished.knows_owner(entry.pv, entry.key):
            raise Stalled(f"not all journal entries are listed yet, so {entry.pv} has to wait")
        unused = not was_seen_as_its_own(entry, original)
        others = used_by_others(dependencies, entry.key, but=entry.pv, unused=unused)
        observation = replace(observation, others=others)
    if demands in {Demands(), original and original.demands}:
        return replace(observation, original=original)
    if not dependencies.index.classes_known:
        raise Unreachable(f"the StorageClass of {entry.pv} has not been listed yet")
    name = str(entry.wanted["spec"].get("storageClassName") or "")
    return replace(
        observation, original=original, storage_class=dependencies.index.storage_class(name)
    )


def used_by_others(
    dependencies: RunDependencies, key: VolumeKey, *, but: PvName, unused: bool
) -> tuple[PvName, ...]:
    """All other volumes for this LINSTOR volume that claims use, or may use: those that are being
    deleted or replaced, and absent ones with a journal entry. `unused` ones too, whose data policy
    Retain may keep.
    """
    there = {
        other.name
        for other in dependencies.index.of_key(key)
        if other.name != but and (unused or other.in_use)
    }
    pending = dependencies.unfinished.pending_with(key, but=but)
    absent = islice((name for name in pending if dependencies.index.get(name) is None), MOST_ABSENT)
    replaced = dependencies.unfinished.originals.belonging_with(key, but=but)
    return tuple(sorted(there.union(absent, replaced)))
