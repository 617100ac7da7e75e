"""Which replacements are unfinished, and which volumes are absent or can't be recreated."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from linstor_affinity_events.engine.absent import AbsentVolumes
from linstor_affinity_events.engine.attempts import Attempts
from linstor_affinity_events.engine.long_unfinished import LongUnfinished
from linstor_affinity_events.engine.originals import Originals
from linstor_affinity_events.engine.pending import Pending
from linstor_affinity_events.engine.ports import Listed, Notices, Telemetry
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import VolumeKey, provisioned_for
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.volume import Volume

FORGOTTEN_AT_ONCE = 5_000
"""Whose entries are gone. Of more, those that are left are forgotten after the next list."""


class Unfinished:
    """What this instance knows about unfinished replacements; reports them."""

    def __init__(
        self,
        notices: Notices,
        telemetry: Telemetry,
        describe: Callable[[Manifest], Volume | None],
    ) -> None:
        self.originals = Originals()
        self.absent = AbsentVolumes(notices, telemetry, describe)
        self.attempts = Attempts(self.originals)
        self._long_unfinished = LongUnfinished(notices, telemetry)
        self.pending = Pending()
        """The volumes with a journal entry, and the LINSTOR volume of each."""
        self.complete = False
        """Whether all entries have been listed since this instance began to lead: only then is it
        known which other volumes are absent.
        """
        self.term = 0
        """Changes when this instance begins or stops to lead."""
        self._from_first = False
        """Whether lists since have all entries, from the first one on."""
        self._later: set[PvName] = set()
        """Those whose entry was listed first when all had been listed before: no crash left it."""

    def of(self, resource: ResourceName) -> list[PvName]:
        """The volumes of one resource that have a journal entry."""
        return self.pending.of(resource)

    def record(self, entry: JournalEntry) -> None:
        self.pending.add(entry.pv, entry.key)

    def know(
        self,
        listed: Listed,
        *,
        before: Iterable[PvName],
        term: int,
        volume_of: Callable[[PvName], Volume | None],
    ) -> None:
        """Take over a list of journal entries. `before` are the volumes known when the list was
        requested, in this `term`, so that replacements begun meanwhile stay.
        """
        # A partial list does not show which known entries are gone.
        gone = (name for name in (before if listed.whole else ()) if name not in listed.volumes)
        for name in islice(gone, FORGOTTEN_AT_ONCE):
            self.pending.discard(name)
        if self.complete:
            self._later.update(listed.volumes.keys() - self.pending.keys())
        for name, key in listed.volumes.items():
            # What is known was read from an entry; a list has what others may have written beside.
            if name not in self.pending:
                self.pending.add(name, key)
        self._from_first = term == self.term and (listed.first or self._from_first)
        self.complete |= self._from_first and listed.last
        self.attempts.keep(self.pending)
        self._later &= self.pending.keys()
        self.originals.keep(self.pending, volume_of)
        self.absent.clear(but=self.pending)

    def review(self, volume_of: Callable[[PvName], Volume | None]) -> None:
        """Take stock, as a full reconcile does: which volumes are absent, whatever the reason, and
        which replacements have been unfinished for minutes.
        """
        self.absent.gone(*(name for name in self.pending if volume_of(name) is None))
        self._long_unfinished.review(self.pending, volume_of)

    def leadership_lost(self) -> None:
        """Another instance leads, and reports what is absent or stuck."""
        self.absent.clear()
        self._long_unfinished.clear()
        self._begin_term()

    def leadership_gained(self) -> None:
        """Another instance may have replaced any volume since this one observed it. A run that went
        on for a while after the leadership was lost observed it too, and so may a list.
        """
        self._begin_term()

    def _begin_term(self) -> None:
        """Whatever was observed or listed so far may be outdated."""
        self.originals.outdate()
        self.term += 1
        self.complete = self._from_first = False
        self._later.clear()

    def knows_owner(self, name: PvName, key: VolumeKey) -> bool:
        """Whether enough is known to decide whose an absent volume is. The only absent volume for a
        LINSTOR volume goes to the claim in its entry, so all entries must have been listed, unless
        it was observed, or csi-provisioner named the resource after the claim.
        """
        known = self.complete or name in self.originals
        return known or provisioned_for(key.resource) is not None

    def pending_with(self, key: VolumeKey, *, but: PvName) -> Iterator[PvName]:
        """All other volumes whose journal entry is for this LINSTOR volume."""
        return (name for name in self.pending.of_key(key) if name != but)

    def leave_alone(self, name: PvName, why: str) -> None:
        """The journal entry of this volume is not followed."""
        self.attempts.leave_alone(name, self.pending.get(name), why)

    def is_urgent(self, names: Iterable[PvName]) -> bool:
        """Whether one of these may be absent because of this service: this instance observed it, or
        its entry was there when this instance began to lead. Others write entries later, and those
        must not get in the way of changes; nor must the ones that were left alone.
        """
        followed = self.attempts.followed(names)
        with_entry = (name for name in followed if name in self.pending)
        return self.originals.has_any(followed) or not self._later.issuperset(with_entry)

    def ended(self, name: PvName) -> None:
        """This instance has dropped the entry."""
        self.originals.forget(name)
        self.without_entry(name)

    def without_entry(self, name: PvName) -> None:
        """There is no entry, or no valid one. It may be back, and another one, by another client:
        so what was observed of the volume stays until the volume is there.
        """
        self.pending.discard(name)
        self.attempts.forget(name)
        self._later.discard(name)
        self.absent.forget(name)
