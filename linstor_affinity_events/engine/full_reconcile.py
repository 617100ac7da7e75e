"""The full reconcile: finds volumes whose events were missed, and queues them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.causes import PERIOD, Causes, still_open
from linstor_affinity_events.engine.components import Components
from linstor_affinity_events.engine.keyed_queue import KeyedQueue, Priority
from linstor_affinity_events.engine.ports import Index
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.engine.reporter import kind_of, reason_of
from linstor_affinity_events.engine.tuning import Tuning
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.decision import (
    Change,
    Decision,
    Deferred,
    Refusal,
    Resume,
    decide,
)
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

YIELD_EVERY = 200
"""Number of decisions before a cooperative yield to other tasks."""

SPACING = 1.0


@dataclass(frozen=True, slots=True)
class FullReconcile:
    """A full reconcile that succeeded."""

    ended: float
    """By the loop's clock."""

    took: float
    cause: str
    volumes: int
    bulk: bool
    """Whether one bulk read returned all placements."""


class FullReconciler:
    """Decides on all volumes periodically, and immediately when events may have been missed."""

    def __init__(
        self,
        components: Components,
        tuning: Tuning,
        *,
        delays: Backoff,
        forget_gone: Callable[[], None],
        after_full_reconcile: Callable[[], None],
    ) -> None:
        self._queue, self._cluster_view, self._index = (
            components.queue,
            components.cluster_view,
            components.ports.index,
        )
        self._reader, self._placement_reader = components.reader, components.placement_reader
        self._replacer, self._leadership = components.replacer, components.ports.leadership
        self._reporter, self._telemetry = components.reporter, components.ports.telemetry
        self._delays, self._every = delays, tuning.full_reconcile_every
        self._timeout = tuning.full_reconcile_timeout
        self._forget_gone, self._after_full_reconcile = forget_gone, after_full_reconcile
        self._causes = Causes()
        self._read_since = 0.0
        self.failure: str | None = "no full reconcile has completed yet"
        """Why the last full reconcile failed; None if it succeeded."""
        self.last: FullReconcile | None = None

    def request(self, cause: str) -> None:
        """Request a full reconcile now."""
        self._causes.add({cause: asyncio.get_running_loop().time()})

    async def run(self) -> None:
        """Run full reconciles forever. Retry a failed one with growing delays."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            causes = await self._causes.next(until=begun + self._every)
            cause, begun = ",".join(causes), clock()
            if not self._leadership.leading and self.failure is None:
                # Once all reads have succeeded, only the leader runs full reconciles.
                continue
            failed = await self._tried(cause)
            if failed is None:
                self._delays.reset()
                if self.failure is not None:
                    log.info(
                        "full reconcile completed: all volumes were checked, and those "
                        "with a wrong node affinity are queued",
                        extra=facts(started_by=cause),
                    )
                self.failure = None
                delay = min(SPACING, self._every / 2)
                again = still_open(causes, self._read_since)
            else:
                delay = self._failed(cause, *failed)
                again = causes
            self._after_full_reconcile()
            await asyncio.sleep(delay)
            if again:
                self._causes.add(again)

    async def _tried(self, cause: str) -> tuple[str, str] | None:
        """Run a full reconcile. Returns the kind of failure and its message; None on success.

        No reference to the data that it read remains afterwards.
        """
        before = self._placement_reader.read_so_far
        try:
            async with asyncio.timeout(self._timeout):
                await self.reconcile_all(cause)
        except TimeoutError:
            read = self._placement_reader.read_so_far
            if read == before:
                return "TimeoutError", f"timed out after {self._timeout:g} s"
            # It makes progress, so the delay need not grow.
            self._delays.reset()
            return "TimeoutError", (
                f"timed out after {self._timeout:g} s with {read} of "
                f"{len(self._index.resources())} resources read one by one; the "
                "next one continues there"
            )
        except (Again, Refused) as error:
            return type(error).__name__, str(error)
        return None

    def _failed(self, cause: str, kind: str, why: str) -> float:
        """Report a failure. Returns the delay until the retry."""
        self._telemetry.full_reconcile_failed(kind)
        delay = self._delays.next()
        if why != self.failure:
            log.warning(
                "full reconcile failed; it is retried until it succeeds. Until then, only "
                "changes for which an event arrives are found. No volume is missing "
                "because of it",
                extra=facts(started_by=cause, error=why, retry_in_s=round(delay, 1)),
            )
        self.failure = why
        return delay

    async def reconcile_all(self, cause: str) -> None:
        """Decide on every volume from a few bulk reads, and queue those that need work."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        if self._leadership.leading:
            await queue_unfinished(self._replacer, self._queue, self._index)
        everything = await self._reader.read_everything(self._index.resources())
        definitions = everything.definitions
        await self._queue_saved(definitions)
        found = await self._decide_all(cause, definitions, everything.placements)
        changes = sum(number for (kind, _), number in found.items() if kind == "change")
        if changes and cause != PERIOD:
            # Nobody was there to receive events for them.
            log.info(
                "full reconcile found volumes with a wrong node affinity; the leader "
                "updates them next",
                extra=facts(started_by=cause, volumes_to_update=changes),
            )
        self._report_unmanaged(found)
        self._telemetry.census(found)
        self._telemetry.deferred(self._reporter.deferred())
        bulk = everything.bulk
        self.last = FullReconcile(clock(), clock() - begun, cause, sum(found.values()), bulk)
        self._telemetry.fully_reconciled(cause, self.last.took, self.last.volumes, bulk=bulk)
        self._read_since = min(begun, everything.since)

    async def _queue_saved(self, definitions: Mapping[ResourceName, Definition]) -> None:
        """Queue the resources with a saved PV of the reference controller."""
        found = yielding(definitions.values(), every=YIELD_EVERY)
        saved = frozenset({each.resource async for each in found if each.may_have_saved})
        self._cluster_view.saved = saved
        async for resource in yielding(saved, every=YIELD_EVERY):
            self._queue.add(resource)

    async def _decide_all(
        self,
        cause: str,
        definitions: Mapping[ResourceName, Definition],
        placements: Mapping[ResourceName, Placement],
    ) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        volumes = (
            (resource, volume)
            for resource in tuple(self._index.resources())
            for volume in tuple(self._index.of(resource))
        )
        async for resource, volume in yielding(volumes, every=YIELD_EVERY):
            definition = definitions.get(resource)
            placement = None if definition is None else placements.get(resource)
            if definition is not None and placement is None:
                placement = Placement(resource)
            decision = decide(self._cluster_view.case(volume, definition, placement))
            found[kind_of(decision), reason_of(decision)] += 1
            self._follow_up(cause, resource, volume, decision)
        self._reporter.forget_gone(self._index)
        self._forget_gone()
        return found

    def _follow_up(
        self, cause: str, resource: ResourceName, volume: Volume, decision: Decision
    ) -> None:
        match decision:
            case Change():
                if resource not in self._queue and volume.name not in self._reporter.out_of_sync:
                    self._telemetry.drift_without_event(cause)
                    log.log(
                        logging.INFO if cause == PERIOD else logging.DEBUG,
                        "full reconcile found a change for which no event was received: "
                        "the node affinity of this volume is wrong, and is updated next",
                        extra=facts(pv=volume.name, resource=resource, started_by=cause),
                    )
                self._queue.add(resource)
            case Resume():
                if self._leadership.leading:
                    self._queue.add(resource, priority=Priority.URGENT)
            case Deferred(_, _, after) if after is not None:
                self._queue.add(resource, after=after)
            case Refusal() if not self._reporter.is_reported(volume, decision):
                # The data may be outdated by now: a single reconcile reports it.
                self._queue.add(resource)
            case _:
                self._reporter.report(volume, decision)

    def _report_unmanaged(self, found: Counter[tuple[str, str]]) -> None:
        for volume in self._index.unmanaged():
            decision = decide(self._cluster_view.case(volume, None, None))
            found[kind_of(decision), reason_of(decision)] += 1
            self._reporter.report(volume, decision)


async def queue_unfinished(
    replacer: Replacer, queue: KeyedQueue[ResourceName], index: Index
) -> None:
    """List the unfinished replacements again, and queue their resources."""
    unfinished = replacer.unfinished
    known = set(unfinished.pending.values())
    await replacer.load()
    async for resource in yielding(tuple(unfinished.pending.resources()), every=YIELD_EVERY):
        names = unfinished.of(resource)
        at_its_own_pace = resource in queue and all(
            unfinished.pending[name] in known for name in names
        )
        if names and not at_its_own_pace:
            urgent = unfinished.is_urgent(names)
            queue.add(resource, priority=Priority.URGENT if urgent else Priority.CHANGE)
    unfinished.review(index.get)
