"""Requeues resources: what failed with growing delays, and what has to wait."""

import asyncio
import logging
import random

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.keyed_queue import KeyedQueue, Priority, WorkItem
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.rechecks import RECHECK_AFTER
from linstor_affinity_events.engine.reporter import DEFERRED_FOR, Reporter
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import Conflict, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.decision import Decision, Deferred, InSync, Reason, Refusal
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

FAILED_FIRST, FAILED_MOST = 0.5, 300.0
UNFINISHED_MOST = 10.0
USUALLY_UNFINISHED = 50
"""There are hardly more journal entries than --workers. If there are more than this, others write
them, and the more there are, the less often those that fail are retried.
"""
REFUSED_LEAST = 30.0
"""The shortest delay after a rejection or an unexpected error: a retry hardly ever helps."""

RETRY_MOST = 60.0

_UNFINISHED = (
    "reconcile failed while a replacement is unfinished, so a PersistentVolume of this resource "
    "may be missing. It is retried until the replacement is completed; no data is affected"
)
_FAILED = (
    "reconcile failed; it is retried, and the node affinities of its volumes stay as they are "
    "until then. No PersistentVolume is missing because of it"
)


class Retries:
    """Keeps the delays of resources that fail and of volumes that wait."""

    def __init__(
        self,
        ports: Ports,
        *,
        queue: KeyedQueue[ResourceName],
        unfinished: Unfinished,
        reporter: Reporter,
        chance: random.Random,
    ) -> None:
        self._queue, self._unfinished, self._reporter = queue, unfinished, reporter
        self._index, self._telemetry, self._chance = ports.index, ports.telemetry, chance
        self._failing: dict[ResourceName, Backoff] = {}
        self._failing_since: dict[ResourceName, float] = {}
        self._waiting: dict[PvName, Backoff] = {}

    def __len__(self) -> int:
        """Number of resources and volumes with a delay."""
        return len(self._failing) + len(self._waiting)

    def forget_gone(self) -> None:
        """Drop what is kept for volumes and resources that no longer exist."""
        for name in [name for name in self._waiting if self._index.get(name) is None]:
            del self._waiting[name]
        known = self._index.resources()
        for resource in [name for name in self._failing if name not in known]:
            if not self._unfinished.of(resource):
                self.succeeded(resource)

    def succeeded(self, resource: ResourceName) -> None:
        self._failing.pop(resource, None)
        self._failing_since.pop(resource, None)

    def volume_in_sync(self, name: PvName) -> None:
        """The volume needs nothing more."""
        self._waiting.pop(name, None)

    def failed(
        self, item: WorkItem[ResourceName], error: Exception | None, after: float | None
    ) -> None:
        """Requeue the item after `after` seconds or more; with no `error` it was unexpected."""
        first, now = item.key not in self._failing, asyncio.get_running_loop().time()
        since = self._failing_since.setdefault(item.key, now)
        delay = self._delay(item.key, least=after or 0.0)
        self._telemetry.reconcile_failed("Unexpected" if error is None else type(error).__name__)
        if error is not None:
            self._log_failure(item.key, error, first=first, delay=delay)
        self._queue.add(
            item.key,
            after=delay,
            since=item.since,
            source=item.source,
            priority=self._priority(item.key),
        )
        self._report_lasting(item.key, error, now - since)

    def _delay(self, resource: ResourceName, *, least: float) -> float:
        """Until the next attempt. Growing, but of unfinished replacements only up to a limit; if
        there are more of these than usual, always as long as the limit.
        """
        unfinished = bool(self._unfinished.of(resource))
        most = self.unfinished_most(resource) if unfinished else FAILED_MOST
        if resource not in self._failing:
            self._failing[resource] = Backoff(first=FAILED_FIRST, most=most, chance=self._chance)
        delay = max(self._failing[resource].next(), least)
        if not unfinished:
            return delay
        return most if most > UNFINISHED_MOST else min(delay, most)

    def _priority(self, resource: ResourceName) -> Priority:
        """Urgent only for a volume that is absent now: the owner of a claim can have any
        replacement of its volume fail before that. And others may have written the entry of one
        that was not observed. Neither must get in the way of changes.
        """
        unfinished = self._unfinished.of(resource)
        absent = [name for name in unfinished if self._index.get(name) is None]
        if self._unfinished.originals.has_any(absent):
            return Priority.URGENT
        return Priority.CHANGE if unfinished else Priority.RECONCILE

    def _log_failure(
        self, resource: ResourceName, error: Exception, *, first: bool, delay: float
    ) -> None:
        # A conflict is expected when another client writes first; a lasting failure was logged when
        # it began.
        expected = isinstance(error, Conflict) or not first
        log.log(
            logging.DEBUG if expected else logging.WARNING,
            _UNFINISHED if self._unfinished.of(resource) else _FAILED,
            extra=facts(resource=resource, error=error, retry_in_s=round(delay, 1)),
        )

    def _report_lasting(
        self, resource: ResourceName, error: Exception | None, since_age: float
    ) -> None:
        # An unreachable API is reported elsewhere, once for all volumes.
        if since_age < DEFERRED_FOR or isinstance(error, Unreachable):
            return
        why = f"reconciling it keeps failing: {error or 'unexpected error, see the log'}"
        for volume in self._index.of(resource):
            decision = Deferred(Reason.FAILING, why)
            self._reporter.report_lasting(volume, decision, since_age=since_age)

    def unfinished_most(self, resource: ResourceName) -> float:
        """The longest delay before unfinished replacements of a resource are retried: short for a
        volume that this instance has observed, and if there are no more than usual.
        """
        if self._unfinished.originals.has_any(self._unfinished.of(resource)):
            return UNFINISHED_MOST
        return UNFINISHED_MOST * max(1.0, len(self._unfinished.pending) / USUALLY_UNFINISHED)

    def not_changed(self, item: WorkItem[ResourceName], volume: Volume, decision: Decision) -> None:
        """Report a decision by which a volume is not changed after all, and requeue its resource
        where that may be different later.
        """
        self._reporter.report(volume, decision)
        if isinstance(decision, Deferred):
            self.defer(item, volume, decision)
        elif not isinstance(decision, Refusal | InSync):
            self._queue.add(item.key, after=RECHECK_AFTER, since=item.since)

    def defer(self, item: WorkItem[ResourceName], volume: Volume, decision: Deferred) -> None:
        """Requeue at the known time, else with growing delays: a claim that stays Lost must not be
        read frequently forever.
        """
        if decision.after is None:
            return
        if decision.reason is Reason.YOUNG:
            self._queue.add(item.key, after=decision.after, since=item.since)
        else:
            self.wait(item, volume, decision.after)

    def wait(self, item: WorkItem[ResourceName], volume: Volume, least: float) -> None:
        """Requeue the item with delays that grow while this volume has to wait."""
        if volume.name not in self._waiting:
            self._waiting[volume.name] = Backoff(first=least, most=RETRY_MOST, chance=self._chance)
        after = max(least, self._waiting[volume.name].next())
        self._queue.add(item.key, after=after, since=item.since)
