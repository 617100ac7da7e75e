"""The work queue: each key at most once, the most urgent changes first."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from typing import Generic, TypeVar

from linstor_affinity_events.engine.concurrency_limit import Limit
from linstor_affinity_events.engine.idle_workers import IdleWorkers
from linstor_affinity_events.engine.ready_heap import ReadyHeap, Waiting

K = TypeVar("K", bound=Hashable)

ALONE_AFTER = 1.0
"""How many seconds newer than the others' the trigger of a change is that has nothing to do with
them. Those of one evacuated node arrive closer together.
"""


class QueueClosed(Exception):
    """The queue is shut down and returns no more work items."""


class Priority(Enum):
    """What kind of work a key waits for, in the order in which workers get it."""

    URGENT = auto()
    """A change without which no pod can start where the data is."""

    RECONCILE = auto()
    CHANGE = auto()
    """A change that adds or removes nodes to choose from."""


@dataclass(slots=True)
class WorkItem(Generic[K]):
    """One key that a worker is processing."""

    key: K
    since: float
    """When the oldest trigger of this work item arrived, by the loop's clock."""

    source: str
    """The source of the first trigger; empty if the service requeued the key itself."""

    requested: float
    """When it was requested last, or due if that is later: what was read before may be outdated."""

    limit: Limit
    """The limit that it counts against."""

    @property
    def trigger(self) -> bool:
        """Whether an event led to it, and not a recheck of our own."""
        return bool(self.source)


class KeyedQueue(Generic[K]):
    """Holds each key once and never gives one key to two workers.

    A key that is added while a worker processes it is returned again afterwards, so a reconcile
    always follows the latest event. `changes` limits how many work items change something at a
    time, and `reads` how many others there are: so a long backlog of changes never delays finding
    an urgent one. Times are the running loop's. `add` and `get` cost O(log n), and wake one worker.
    """

    def __init__(self, *, changes: Limit, reads: Limit) -> None:
        self.changes, self.reads = changes, reads
        self._waiting: dict[K, tuple[Priority, Waiting[K]]] = {}
        self._ready: dict[Priority, ReadyHeap[K]] = {priority: ReadyHeap() for priority in Priority}
        self._processing: set[K] = set()
        self._dirty: dict[K, tuple[Priority, Waiting[K]]] = {}
        self._order = count()
        self._idle = IdleWorkers()
        self._wakeup: tuple[float, asyncio.TimerHandle] | None = None
        self._reached = float("-inf")
        """The time that the last timer was set for: event loops fire timers a little early."""
        self.closed = False

    def __len__(self) -> int:
        """Number of waiting keys. Keys that are processed count only if they were added again."""
        return len(self._waiting) + len(self._dirty)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting or key in self._dirty or key in self._processing

    @property
    def processing(self) -> int:
        return len(self._processing)

    def oldest(self) -> float | None:
        """When the longest waiting due key was triggered; None if no key is due."""
        now = self._now()
        return min((w.since for _, w in self._waiting.values() if w.at <= now), default=None)

    def add(
        self,
        key: K,
        *,
        after: float = 0.0,
        priority: Priority = Priority.RECONCILE,
        source: str = "",
        since: float | None = None,
        requested: float | None = None,
    ) -> None:
        """Add a key that is due in `after` seconds. The earliest request for a key wins.

        `since` is when its trigger arrived, from `source` (empty if there was none), and what was
        read before `requested` is outdated for it; both are, by default, when it is due.
        """
        now = self._now()
        at = now + after
        since, requested = at if since is None else since, at if requested is None else requested
        processing = key in self._processing
        where = self._dirty if processing else self._waiting
        if (found := where.get(key)) is not None:
            before, old = found
            if old.at <= now and (now < at or before is Priority.URGENT):
                # Already due: a later request only adds its trigger. And a waiting urgent change
                # reads everything again when it is processed.
                priority = before
            at, since, source = min(old.at, at), min(old.since, since), old.source or source
            requested = min(max(old.requested, requested), max(now, at))
            if (at, since, source, priority) == (old.at, old.since, old.source, before):
                old.requested = requested
                return
            if not processing:
                self._ready[before].drop(old, now)
        new = Waiting(key, at, next(self._order), since, source, requested)
        where[key] = (priority, new)
        if not processing:
            self._put(priority, new, now)

    def close(self) -> None:
        """Return no more work items. Those in progress run to their end."""
        self.closed = True
        self._idle.wake_all()

    @asynccontextmanager
    async def get(self) -> AsyncIterator[WorkItem[K]]:
        """Wait for the next due key and process it within the block.

        Raises QueueClosed once `close` was called.
        """
        item = await self._take()
        try:
            yield item
        finally:
            was_full = not item.limit.free
            item.limit.release()
            self._done(item.key)
            if was_full:
                self.wake()

    def _done(self, key: K) -> None:
        self._processing.discard(key)
        if (again := self._dirty.pop(key, None)) is not None:
            self._waiting[key] = again
            self._put(*again, self._now())

    def due_reads(self) -> int:
        """The number of keys that are due for a reconcile."""
        return self._ready[Priority.RECONCILE].due(self._now())

    def may_change(self, item: WorkItem[K], *, urgent: bool, ahead: bool = False) -> bool:
        """Let the item count as a change, unless that limit is reached or a more urgent one waits.

        If False, add the key again with the priority of its change. One that goes `ahead` exceeds
        the limit, by one: the others give way to it.
        """
        if item.limit is self.changes:
            return True
        if not ahead and not self._may_start(urgent=urgent):
            return False
        was_full = not self.reads.free
        self.changes.acquire()
        self.reads.release()
        item.limit = self.changes
        if was_full:
            self.wake()
        return True

    def is_alone(self, item: WorkItem[K]) -> bool:
        """Whether an urgent change comes on top of many: others wait, and the urgent ones among
        them were triggered longer ago.
        """
        now, urgent = self._now(), self._ready[Priority.URGENT]
        waiting = urgent.due(now) or self._ready[Priority.CHANGE].due(now)
        return waiting > 0 and urgent.newest() + ALONE_AFTER < item.since

    def wake(self) -> None:
        """Let a waiting worker look for work: there is some, or a limit was raised."""
        self._idle.wake()

    def _may_start(self, *, urgent: bool) -> bool:
        return self.changes.free and (urgent or not self._ready[Priority.URGENT].due(self._now()))

    def _put(self, priority: Priority, waiting: Waiting[K], now: float) -> None:
        self._ready[priority].put(waiting, now)
        if waiting.at <= now:
            self.wake()
        else:
            self._schedule_wakeup(waiting.at)

    def _limit(self, priority: Priority) -> Limit:
        return self.reads if priority is Priority.RECONCILE else self.changes

    def _open_priorities(self) -> list[Priority]:
        return [priority for priority in Priority if self._limit(priority).free]

    async def _take(self) -> WorkItem[K]:
        while not self.closed:
            now = self._now()
            for priority in self._open_priorities():
                if (waiting := self._ready[priority].take(now)) is not None:
                    return self._start(priority, waiting, now)
            self._schedule_next(now)
            await self._idle.wait()
        raise QueueClosed

    def _start(self, priority: Priority, waiting: Waiting[K], now: float) -> WorkItem[K]:
        del self._waiting[waiting.key]
        self._processing.add(waiting.key)
        limit = self._limit(priority)
        limit.acquire()
        item = WorkItem(waiting.key, waiting.since, waiting.source, waiting.requested, limit)
        if any(self._ready[other].due(now) for other in self._open_priorities()):
            self.wake()
        return item

    def _schedule_next(self, now: float) -> None:
        """Schedule a wakeup for when the next key is due."""
        ahead = (heap.next_at(now) for heap in self._ready.values())
        if (soonest := min((at for at in ahead if at is not None), default=None)) is not None:
            self._schedule_wakeup(soonest)

    def _schedule_wakeup(self, at: float) -> None:
        if self._wakeup is not None:
            before, timer = self._wakeup
            if before <= at:
                return
            timer.cancel()
        self._wakeup = at, asyncio.get_running_loop().call_at(at, self._on_wakeup, at)

    def _on_wakeup(self, at: float) -> None:
        self._wakeup, self._reached = None, at
        self.wake()
        # The worker that was woken schedules the next wakeup only if it finds nothing.
        self._schedule_next(self._now())

    def _now(self) -> float:
        return max(asyncio.get_running_loop().time(), self._reached)
