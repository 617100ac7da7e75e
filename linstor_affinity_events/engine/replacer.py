"""Recreates a volume with another node affinity; can be interrupted and resumed at any step.

model/replacement.py defines the order of the steps; replacement_run.py takes them.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.dry_runs import rejection
from linstor_affinity_events.engine.interrupted_runs import InterruptedRuns
from linstor_affinity_events.engine.journal_lists import list_entries
from linstor_affinity_events.engine.lost_claims import LostClaims
from linstor_affinity_events.engine.observing import observe, used_by_others
from linstor_affinity_events.engine.ports import Ports, VolumeWatch
from linstor_affinity_events.engine.preemption import Preemption
from linstor_affinity_events.engine.replacement_run import ReplacementRun
from linstor_affinity_events.engine.run_dependencies import RunDependencies
from linstor_affinity_events.engine.stray_markers import unmark_without_entry
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import BadEntry, Conflict, Refused
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.decision import Deferred, Reason, Refusal
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest, is_terminating
from linstor_affinity_events.model.names import PvName, few
from linstor_affinity_events.model.observation import Observation
from linstor_affinity_events.model.obstacles import obstacle
from linstor_affinity_events.model.progress import Progress, begin
from linstor_affinity_events.model.steps import LeaveAlone, Outcome
from linstor_affinity_events.model.volume import Volume

BLOCKED_RETRY = 5.0
NOT_LEADING_RETRY = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished replacement, and the volume that exists now, if it is one of our driver."""

    outcome: Outcome
    volume: Volume | None
    different: tuple[str, ...] = ()
    """The parts of it that differ from what was requested."""


class Replacer:
    """Every step may be interrupted before or after it took effect; `resume` does the rest."""

    def __init__(
        self,
        ports: Ports,
        *,
        delays: Callable[[], Backoff],
        holder: str,
        may_begin: Callable[[], bool],
        guard_timeout: float = 2.0,
        on_binder_wait: Callable[[float], None] = lambda _: None,
        preemption: Preemption | None = None,
        allowed_finalizers: Iterable[str] = (),
    ) -> None:
        volumes, telemetry = ports.volumes, ports.telemetry
        self._volumes, self._journal = volumes, ports.journal
        self._may_begin, self._allowed_finalizers = may_begin, tuple(allowed_finalizers)
        self._rejected = set[PvName]()
        """The volumes whose replacement Kubernetes rejected when it was tried last."""
        self.unfinished = Unfinished(ports.notices, telemetry, volumes.describe)
        guard = ClaimGuard(volumes, telemetry, timeout=guard_timeout, on_binder_wait=on_binder_wait)
        self.lost_claims = LostClaims(volumes, telemetry, guard, delays, timeout=guard_timeout)
        self._dependencies = RunDependencies(
            volumes=volumes,
            index=ports.index,
            journal=ports.journal,
            guard=guard,
            lost_claims=self.lost_claims,
            unfinished=self.unfinished,
            preemption=preemption or Preemption(),
            delays=delays,
            leadership=ports.leadership,
            allowed_finalizers=self._allowed_finalizers,
            holder=holder,
        )
        self._interrupted = InterruptedRuns(self._dependencies)

    def forget_gone(self) -> None:
        """Drop what is kept for volumes that no longer exist, or are not being replaced."""
        known = self._dependencies.index.get
        self._rejected = {name for name in self._rejected if known(name) is not None}
        self._interrupted.forget(but=self.unfinished.pending)

    async def load(self) -> None:
        """List the unfinished replacements again, to the last one unless there are very many."""
        volume_of = self._dependencies.index.get
        await list_entries(self._journal, self.unfinished, self._interrupted, volume_of)

    async def replace(
        self,
        pv: Manifest,
        claim: Manifest | None,
        key: VolumeKey,
        affinity: NodeAffinity,
        *,
        urgent: bool = False,
    ) -> Ended | Deferred | Refusal:
        """Replace a volume that was just read, or return why not.

        Raises Conflict if another worker or instance replaces it; Unreachable if it was
        interrupted, with a journal entry to resume from if anything was begun.
        """
        if self.unfinished.absent.blocking:
            return _blocked_by(self.unfinished.absent.blocking)
        against = obstacle(pv, claim, allowed_finalizers=self._allowed_finalizers, urgent=urgent)
        if against is not None:
            return against
        entry = JournalEntry.begin(pv, key, affinity, holder=self._dependencies.holder)
        with self._interrupted.alone(entry.pv), self._volumes.follow(entry.pv) as volume_watch:
            prepared = await self._prepared(pv, entry)
            if not isinstance(prepared, Progress):
                return prepared
            if not self._may_begin():
                await self._withdraw(prepared.entry)
                return Deferred(
                    Reason.NOT_LEADING,
                    "this instance is not the leader any more, or is shutting down; the "
                    "next leader changes the volume",
                    NOT_LEADING_RETRY,
                )
            return await self._carried_out(prepared, volume_watch)

    async def _prepared(self, pv: Manifest, entry: JournalEntry) -> Progress | Refusal:
        """Try all writes in a dry run, and create the journal entry meanwhile: alone it changes
        nothing, and whoever finds it drops it. But where Kubernetes rejected the last attempt, no
        entry is created before it accepts one.
        """
        stored: JournalEntry | BaseException | None = None
        against: Refusal | BaseException | None
        if entry.pv in self._rejected:
            against = await rejection(self._volumes, pv, entry)
        else:
            against, stored = await asyncio.gather(
                rejection(self._volumes, pv, entry),
                self._create_entry(entry),
                return_exceptions=True,
            )
            if against is not None and isinstance(stored, JournalEntry):
                await self._withdraw(stored)
        if isinstance(against, BaseException):
            raise against
        if against is not None:
            self._rejected.add(entry.pv)
            return against
        self._rejected.discard(entry.pv)
        try:
            if stored is None:
                stored = await self._create_entry(entry)
            elif isinstance(stored, BaseException):
                raise stored
        except BadEntry as error:
            return Refusal(Reason.BAD_JOURNAL_ENTRY, f"its journal entry is not valid: {error}")
        observation = Observation(pv=pv, entry_is_new=True)
        return begin(stored, observation, holder=self._dependencies.holder, own=True)

    async def _withdraw(self, entry: JournalEntry) -> None:
        """Delete an entry for which nothing was done yet."""
        await self._journal.drop(entry)
        self.unfinished.ended(entry.pv)

    async def _carried_out(self, prepared: Progress, volume_watch: VolumeWatch) -> Ended | Refusal:
        pv = prepared.entry.pv
        run = ReplacementRun(self._dependencies, prepared, volume_watch)
        try:
            outcome = await self._interrupted.take(run)
        except Refused as error:
            if pv in self.unfinished.pending:
                raise
            # Everything was rolled back.
            return Refusal(
                Reason.NOT_ALLOWED,
                "Kubernetes rejected its replacement, so it was rolled back and the volume "
                f"exists: {error}",
            )
        if isinstance(outcome, LeaveAlone):
            self.unfinished.leave_alone(pv, outcome.why)
            return Refusal(Reason.BAD_JOURNAL_ENTRY, outcome.why)
        progress = run.progress
        made = progress.observation.pv
        now_there = None if made is None else self._volumes.describe(made)
        return Ended(outcome, now_there, progress.different)

    async def _create_entry(self, entry: JournalEntry) -> JournalEntry:
        """Raises Conflict if there is an entry already, and BadEntry if that is not valid."""
        try:
            entry = await self._journal.create(entry)
        except Conflict:
            # It may be our own, if the response to its creation was lost: the retry resumes it.
            if (found := await self._journal.read(entry.pv)) is not None:
                self.unfinished.record(found)
            raise
        self.unfinished.record(entry)
        return entry

    async def resume(self, name: PvName) -> Outcome | Refusal | LeaveAlone:
        """Finish the replacement of this volume, whoever began it; fine if there is no entry.

        Raises Conflict if another worker replaces it.
        """
        with self._interrupted.alone(name), self._volumes.follow(name) as volume_watch:
            earlier = self._interrupted.continuing(name, volume_watch)
            try:
                if earlier is not None:
                    return await self._interrupted.take(earlier)
                pv, entry = await observe(self._dependencies, name)
            except BadEntry as error:
                self.unfinished.absent.blocking.discard(name)
                if earlier is None:
                    self.unfinished.without_entry(name)
                return Refusal(Reason.BAD_JOURNAL_ENTRY, str(error))
            if entry is None:
                self.unfinished.without_entry(name)
                if pv is not None and not is_terminating(pv):
                    self.unfinished.originals.forget(name)
                own = None if pv is None else self._interrupted.values_before_late_markers(pv)
                return await unmark_without_entry(self._dependencies, pv, own=own)
            self.unfinished.record(entry)
            holder = self._dependencies.holder
            observation = Observation(pv=pv, taken=entry.holder == holder)
            progress = begin(entry, observation, holder=holder)
            run = ReplacementRun(self._dependencies, progress, volume_watch)
            return await self._interrupted.take(run)

    async def adopt(self, entry: JournalEntry) -> JournalEntry:
        """Create a journal entry from a saved PV of the reference controller."""
        return await self._create_entry(entry)

    def others_for(self, key: VolumeKey, *, but: PvName) -> tuple[PvName, ...]:
        """All other volumes for this LINSTOR volume, including absent ones with a journal entry."""
        return used_by_others(self._dependencies, key, but=but, unused=True)


def _blocked_by(absent: Iterable[PvName]) -> Deferred:
    why = (
        f"PersistentVolume {few(sorted(absent))} is missing because Kubernetes rejects its "
        "recreation; no other replacement begins until that is fixed"
    )
    return Deferred(Reason.BLOCKED, why, BLOCKED_RETRY)
