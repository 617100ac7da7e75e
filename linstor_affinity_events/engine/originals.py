"""The volumes being replaced, as this instance observed them before they were removed."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from linstor_affinity_events.model.demands import Original, original_of
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest, is_terminating, name_of
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.volume import Volume

MOST_GONE = 1_000
"""How many volumes are remembered that are gone, have no entry, and were not removed by us."""


class Originals:
    """What others do to journal entries changes nothing about what was observed."""

    def __init__(self) -> None:
        self._known: dict[PvName, Original] = {}
        self._outdated: set[PvName] = set()
        """Those observed before another instance may have led, and replaced them again."""
        self._removed: set[PvName] = set()

    def __contains__(self, name: PvName) -> bool:
        return name in self._known and name not in self._outdated

    def observed(self, original: Manifest) -> None:
        """Remember which claim a volume belongs to, what it may demand when recreated, what kept
        its data, and that we hold it, whatever others take off it afterwards.
        """
        name, seen = name_of(original), original_of(original)
        before = self._known.get(name)
        if before is not None and before.uid != seen.uid:
            self._removed.discard(name)
        if name in self and before is not None and before.uid == seen.uid:
            # Without our markers, while it is not being deleted, we hold it no more.
            held = seen.held or (before.held and is_terminating(original))
            seen = replace(seen, held=held, before=seen.before or before.before)
        self._known[name] = seen
        self._outdated.discard(name)

    def removing(self, name: PvName) -> None:
        """This instance removes the volume: it is remembered until it is there again, whatever
        others do to its entry.
        """
        self._removed.add(name)

    def of(self, entry: JournalEntry) -> Original | None:
        """The original volume of an entry, as last observed; None if it was not observed since this
        instance leads, as after a restart: another one may have changed it, or whose it is. If it
        is another incarnation than that of the entry, another client wrote the entry.
        """
        return None if entry.pv in self._outdated else self._known.get(entry.pv)

    def has_any(self, names: Iterable[PvName]) -> bool:
        """Whether this instance observed one of these volumes before it was removed."""
        return not self._known.keys().isdisjoint(names)

    def belonging_with(self, key: VolumeKey, *, but: PvName) -> tuple[PvName, ...]:
        """All other volumes being replaced that refer to this LINSTOR volume and were observed to
        belong to a claim, or to have what this service sets before it deletes a volume: then it is
        the service that keeps its data from its owner, be that a claim or nobody yet.
        """
        return tuple(
            name
            for name, seen in self._known.items()
            if name != but and (seen.claim or seen.held) and seen.key == key
        )

    def outdate(self) -> None:
        """Another instance may have replaced any of them meanwhile."""
        self._outdated |= self._known.keys()

    def keep(
        self, pending: Collection[PvName], volume_of: Callable[[PvName], Volume | None]
    ) -> None:
        """Forget those that are not `pending` and that exist again, as the cache has it."""
        gone = list[PvName]()
        for name, seen in tuple(self._known.items()):
            if name in pending:
                continue
            there = volume_of(name)
            if there is None and name not in self._removed:
                gone.append(name)
            # The cache may show the volume that is removed by now, and an entry that others deleted
            # says nothing. A held volume is forgotten when it is read.
            replaced = there is not None and (
                there.uid != seen.uid or not seen.held or name in self._outdated
            )
            if replaced:
                self.forget(name)
        # Anybody may have set what shows that a volume was held, but few can set it on many.
        gone.sort(key=lambda name: self._known[name].held)
        for name in gone[: max(0, len(gone) - MOST_GONE)]:
            self.forget(name)

    def forget(self, name: PvName) -> None:
        """The volume is not being replaced. If it is deleted later, another client deletes it."""
        self._known.pop(name, None)
        self._outdated.discard(name)
        self._removed.discard(name)
