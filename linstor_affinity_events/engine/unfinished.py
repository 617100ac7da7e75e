"""Which replacements are unfinished, and which volumes are absent or can't be recreated."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from linstor_affinity_events.engine.pending import Pending
from linstor_affinity_events.engine.ports import Listed, Notices, Telemetry
from linstor_affinity_events.engine.reporter import DEFERRED_FOR, REMIND_AFTER
from linstor_affinity_events.errors import Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.demands import Original, original_of
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import VolumeKey, provisioned_for
from linstor_affinity_events.model.manifest import Manifest, claim_of, name_of
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

UNFINISHED = (
    "The replacement of this volume has been unfinished for more than 3 minutes. "
    "Its data is safe, and it is retried until it completes; see the service's "
    "log for the cause"
)


class Unfinished:
    """What this instance knows about unfinished replacements; reports them."""

    def __init__(
        self,
        notices: Notices,
        telemetry: Telemetry,
        describe: Callable[[Manifest], Volume | None],
    ) -> None:
        self._notices, self._telemetry, self._describe = notices, telemetry, describe
        self._absent: set[PvName] = set()
        self._since: dict[PvName, float] = {}
        """Since when each is known to be unfinished, by the loop's clock."""
        self._lasting: set[PvName] = set()
        self._warned: dict[PvName, tuple[float, int]] = {}
        self.pending = Pending()
        """The volumes with a journal entry, and the LINSTOR volume of each."""
        self.complete = False
        """Whether all entries have been listed since this instance began to lead: only then is it
        known which other volumes are absent.
        """
        self.term = 0
        """Changes when this instance stops to lead."""
        self._from_first = False
        """Whether lists since have all entries, from the first one on."""
        self.stuck: dict[PvName, str] = {}
        """The volumes that can't be recreated, and the error of the API server."""
        self._originals: dict[PvName, Original] = {}
        """The volumes being replaced, as this instance last observed them. What others do to their
        entries changes nothing about it.
        """
        self._outdated: set[PvName] = set()
        """Those observed before another instance may have led, and replaced them again."""
        self._left_alone: dict[PvName, str] = {}
        self._tried: dict[PvName, float] = {}
        """When each was last resumed, by the loop's clock."""
        self.blocking: set[PvName] = set()
        """The stuck volumes that block all other replacements."""

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
        old = frozenset(before if listed.whole else ())
        for name in old - listed.volumes.keys():
            self.pending.discard(name)
        for name, key in listed.volumes.items():
            if name in old or name not in self.pending:
                self.pending.add(name, key)
        self._from_first = term == self.term and (listed.first or self._from_first)
        self.complete |= self._from_first and listed.last
        for name in (self._left_alone.keys() | self._tried.keys()) - self.pending.keys():
            self._left_alone.pop(name, None)
            self._tried.pop(name, None)
        for name, seen in tuple(self._originals.items()):
            there = volume_of(name)
            # The cache may show the volume that is removed by now, and an entry that others deleted
            # says nothing. A held volume is forgotten when it is read (`live_without_entry`).
            replaced = there is not None and (there.uid != seen.uid or not seen.held)
            if replaced and name not in self.pending:
                self._forget(name)
        self._clear((self.stuck.keys() | self._absent) - self.pending.keys())

    def review(self, volume_of: Callable[[PvName], Volume | None]) -> None:
        """Take stock, as a full reconcile does: which volumes are absent, whatever the reason, and
        which replacements have been unfinished for minutes. Those are reported, once each.
        """
        now = asyncio.get_running_loop().time()
        self._since = {name: self._since.get(name, now) for name in self.pending}
        for name in self.pending:
            if volume_of(name) is None and name not in self._absent:
                self.gone(name)
        lasting = {name for name, since in self._since.items() if now - since >= DEFERRED_FOR}
        for name in sorted(lasting - self._lasting):
            volume = volume_of(name)
            log.error(
                "replacement has been unfinished for minutes. It is retried "
                "until it completes; do not delete its journal entry. See "
                "docs/alerts.md",
                extra=facts(pv=name, resource=self.pending[name], absent=volume is None),
            )
            if volume is not None:
                self._notices.warn(volume, "VolumeReplacementUnfinished", UNFINISHED)
        self._lasting = lasting
        self._telemetry.unfinished(len(lasting))

    def leadership_lost(self) -> None:
        """Another instance leads, and reports what is absent or stuck."""
        self._clear(self.stuck.keys() | self._absent)
        self._since, self._lasting = {}, set()
        self._outdated |= self._originals.keys()
        self.term += 1
        self.complete = self._from_first = False
        self._telemetry.unfinished(0)

    def leadership_gained(self) -> None:
        """Another instance may have replaced any volume since this one observed it. A run that went
        on for a while after the leadership was lost observed it too.
        """
        self._outdated |= self._originals.keys()

    def _clear(self, names: Iterable[PvName]) -> None:
        for name in tuple(names):
            self.present(name)

    def observed(self, original: Manifest) -> None:
        """Remember which claim a volume belongs to, what it may demand when recreated, and that we
        hold it, whatever others take off it afterwards.
        """
        name, seen = name_of(original), original_of(original)
        before = self._originals.get(name)
        held = before is not None and before.uid == seen.uid and before.held
        self._originals[name] = replace(seen, held=held or seen.held)
        self._outdated.discard(name)

    def original(self, entry: JournalEntry) -> Original | None:
        """The original volume of an entry, as last observed; None if it was not observed. If it is
        another incarnation than that of the entry, somebody else wrote the entry.
        """
        seen = self._originals.get(entry.pv)
        if seen is not None and seen.uid != entry.uid and entry.pv in self._outdated:
            return None
        return seen

    def can_tell_owner(self, name: PvName, key: VolumeKey) -> bool:
        """Whether enough is known to tell whose an absent volume is. The only absent volume for a
        LINSTOR volume goes to the claim in its entry, so all entries must have been listed, unless
        it was observed, or csi-provisioner named the resource after the claim.
        """
        known = self.complete or name in self._originals
        return known or provisioned_for(key.resource) is not None

    def has_observed_any(self, names: Iterable[PvName]) -> bool:
        """Whether this instance observed one of these volumes before it was removed."""
        return not self._originals.keys().isdisjoint(names)

    def observed_with(self, key: VolumeKey, *, but: PvName) -> tuple[PvName, ...]:
        """All other volumes being replaced that refer to this LINSTOR volume and were observed to
        belong to a claim.
        """
        return tuple(
            name
            for name, seen in self._originals.items()
            if name != but and seen.claim and seen.key == key
        )

    def pending_with(self, key: VolumeKey, *, but: PvName) -> tuple[PvName, ...]:
        """All other volumes whose journal entry is for this LINSTOR volume."""
        return tuple(
            name for name in self.of(key.resource) if name != but and self.pending[name] == key
        )

    def left_alone(self, name: PvName, why: str) -> None:
        """Report, once for the same reason, that a journal entry is not followed."""
        if self._left_alone.get(name) == why:
            return
        self._left_alone[name] = why
        log.error(
            "unfinished replacement left alone: nothing confirms what its journal entry says, so "
            "you have to decide. If the volume is absent and should exist, create it; then delete "
            "the journal entry. See docs/reliability.md",
            extra=facts(pv=name, resource=self.pending.get(name), message=why),
        )

    def due(self, names: Iterable[PvName], *, pause: float) -> list[PvName]:
        """Those to resume: the ones that were observed first, then those for which it is longest
        ago. The ones that were left alone only after a `pause`.
        """
        now, never = asyncio.get_running_loop().time(), float("-inf")
        return sorted(
            (
                name
                for name in names
                if name not in self._left_alone or now - self._tried.get(name, never) >= pause
            ),
            key=lambda name: (name not in self._originals, self._tried.get(name, never)),
        )

    def trying(self, name: PvName) -> None:
        self._tried[name] = asyncio.get_running_loop().time()

    def waits(self, name: PvName) -> bool:
        """Whether it has never been resumed, or was left alone: nothing else brings it back."""
        return name not in self._tried or name in self._left_alone

    def all_left_alone(self, names: Iterable[PvName]) -> bool:
        return self._left_alone.keys() >= set(names)

    def ended(self, name: PvName) -> None:
        """This instance has dropped the entry."""
        self._forget(name)
        self.without_entry(name)

    def without_entry(self, name: PvName) -> None:
        """There is no entry, or no valid one. It may be back, and another one, by somebody else: so
        what was observed of the volume stays until the volume is there.
        """
        self.pending.discard(name)
        self._left_alone.pop(name, None)
        self._tried.pop(name, None)
        self.present(name)

    def live_without_entry(self, pv: Manifest) -> None:
        """The volume is not being replaced. If it is deleted later, somebody else deletes it."""
        self._forget(name_of(pv))

    def _forget(self, name: PvName) -> None:
        self._originals.pop(name, None)
        self._outdated.discard(name)

    def gone(self, name: PvName) -> None:
        """The volume is released and must be recreated."""
        self._absent.add(name)
        self._telemetry.absent(len(self._absent))

    def present(self, name: PvName) -> None:
        """The volume exists again, or is no longer our responsibility."""
        self._absent.discard(name)
        self.blocking.discard(name)
        self._telemetry.absent(len(self._absent))
        self._warned.pop(name, None)
        if self.stuck.pop(name, None) is not None:
            log.info(
                "volume is recreated at last; none of it is missing any more", extra=facts(pv=name)
            )
            self._telemetry.stuck(len(self.stuck))

    def mark_stuck(self, entry: JournalEntry, error: Refused, *, blocking: bool) -> None:
        """Kubernetes rejects its creation. Reported once per error, and again while it lasts."""
        if blocking:
            self.blocking.add(entry.pv)
        now = asyncio.get_running_loop().time()
        warned, times = self._warned.get(entry.pv, (float("-inf"), 0))
        if self.stuck.get(entry.pv) != str(error) or now - warned >= REMIND_AFTER:
            self._warned[entry.pv] = (now, times + 1)
            log.error(
                "PersistentVolume is missing: it was deleted to change its node "
                "affinity, and Kubernetes rejects the new one. Its data in "
                "LINSTOR is safe and running pods continue, but new ones cannot "
                "start. It is retried until it succeeds; fix the policy or "
                "webhook that the error names",
                extra=facts(pv=entry.pv, resource=entry.key, claim=entry.claim, error=error),
            )
            self._warn(
                entry.wanted,
                "VolumeRecreationFailing",
                f"PersistentVolume {entry.pv} was deleted to change its node "
                f"affinity, and Kubernetes rejects the new one: {error}. Its data "
                "in LINSTOR is safe and running pods continue, but new ones "
                "cannot start. It is retried until it succeeds; fix the policy "
                "or webhook that the error names.",
                reminder=times,
            )
        self.stuck[entry.pv] = str(error)
        self._telemetry.stuck(len(self.stuck))

    def retained(self, pv: Manifest) -> None:
        """Report a volume that keeps policy Retain, so that its data is not deleted."""
        claim = claim_of(pv)
        log.error(
            "volume was recreated with reclaim policy Retain to keep its data: "
            "its claim is gone or changed, or it has options that its "
            "StorageClass does not define. See docs/reliability.md before you "
            "bind it again",
            extra=facts(pv=name_of(pv), claim=claim),
        )
        self._warn(
            pv,
            "VolumeRetained",
            f"The replacement of this volume was interrupted. Its claim {claim} "
            "is gone or does not refer to it any more, or the volume has mount "
            "options, Secrets or an owner that nothing confirms. It was "
            "recreated with reclaim policy Retain, so that its data is not "
            "deleted. Its original policy, and its claim if it was detached from "
            "one, are in its annotations; see docs/reliability.md before you "
            "delete it or bind it again.",
        )

    def warn(self, pv: Manifest, reason: str, why: str) -> None:
        """Warn about a volume that may be absent, on its claim as well."""
        self._warn(pv, reason, why)

    def _warn(self, pv: Manifest, reason: str, why: str, *, reminder: int = 0) -> None:
        volume = self._describe(pv)
        if volume is not None:
            self._notices.warn(volume, reason, why, reminder=reminder)
