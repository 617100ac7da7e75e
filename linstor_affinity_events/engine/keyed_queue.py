"""The work queue: each key at most once, the most urgent changes first."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Generic, TypeVar

from linstor_affinity_events.engine.concurrency_limit import ConcurrencyLimit
from linstor_affinity_events.engine.ready_heap import ReadyHeap, Waiting

K = TypeVar("K", bound=Hashable)


class QueueClosed(Exception):
    """The queue is shut down and returns no more work items."""


class Priority(IntEnum):
    """What kind of work a key waits for."""

    RECONCILE = 0
    URGENT = 1
    """A change without which no pod can start where the data is."""

    CHANGE = 2
    """A change that adds or removes nodes to choose from."""


@dataclass(slots=True)
class WorkItem(Generic[K]):
    """One key that a worker is processing."""

    key: K
    priority: Priority
    since: float
    """When the oldest trigger of this work item arrived, by the loop's clock."""

    source: str
    """The source of the first trigger; empty if the service requeued the key itself."""

    changing: bool = False
    """Whether it counts against the concurrency limit of changes."""

    read_only: bool = False
    """Whether it must not change anything, whatever the decision."""

    @property
    def trigger(self) -> bool:
        """Whether an event led to it, and not a recheck of our own."""
        return bool(self.source)


class KeyedQueue(Generic[K]):
    """Holds each key once and never gives one key to two workers.

    A key that is added while a worker processes it is returned again afterwards, so a reconcile
    always follows the latest event. At most `changes_at_once` work items change something at a
    time; fewer if `concurrency_limit` found that more would mostly wait for each other. Reading is
    not limited this way, so a long backlog of changes never delays finding an urgent one. Times
    are those of the running loop. `add` and `get` cost O(log n) and wake at most one worker.
    """

    def __init__(self, *, changes_at_once: int = 10) -> None:
        self._waiting: dict[K, tuple[Priority, Waiting[K]]] = {}
        self._ready: dict[Priority, ReadyHeap[K]] = {priority: ReadyHeap() for priority in Priority}
        self._processing: set[K] = set()
        self._dirty: dict[K, tuple[Priority, Waiting[K]]] = {}
        self._order = count()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._wakeup: tuple[float, asyncio.TimerHandle] | None = None
        self._reached = float("-inf")
        """The time that the last timer was set for: event loops fire timers a little early."""
        self.concurrency_limit = ConcurrencyLimit(changes_at_once)
        self._reading = 0
        self._read_limit = float("inf")
        self._backlog: tuple[Callable[[], int], asyncio.Future[None]] | None = None
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
        unbatchable: bool = False,
    ) -> None:
        """Add a key that is due in `after` seconds. The earliest request for a key wins.

        `since` is when its trigger arrived; by default, when it is due. `source` is the source of
        the trigger, empty if there was none. `take_reads` skips an `unbatchable` key.
        """
        now = self._now()
        at, since = now + after, now + after if since is None else since
        processing = key in self._processing
        where = self._dirty if processing else self._waiting
        if (found := where.get(key)) is not None:
            before, old = found
            unbatchable = unbatchable or old.unbatchable
            if old.at <= now and (now < at or before is Priority.URGENT):
                # Already due: a later request only adds its trigger. And a waiting urgent change
                # reads everything again when it is processed.
                priority = before
            at, since, source = min(old.at, at), min(old.since, since), old.source or source
            wanted = (at, since, source, priority, unbatchable)
            if wanted == (old.at, old.since, old.source, before, old.unbatchable):
                old.requested = now
                return
            if not processing:
                self._ready[before].drop(old, now)
        new = Waiting(key, at, next(self._order), since, source, now, unbatchable)
        where[key] = (priority, new)
        if not processing:
            self._put(priority, new, now)

    def close(self) -> None:
        """Return no more work items. Those in progress run to their end."""
        self.closed = True
        while self._idle:
            self._wake_one()

    @asynccontextmanager
    async def get(self) -> AsyncIterator[WorkItem[K]]:
        """Wait for the next due key and process it within the block.

        Raises QueueClosed once `close` was called.
        """
        item = await self._take()
        self._reading += item.priority is Priority.RECONCILE
        try:
            yield item
        finally:
            if item.changing:
                self.concurrency_limit.release()
            else:
                self._reading -= 1
            self._done(item.key)
            if item.changing or self._read_limit < float("inf"):
                self._wake_one()

    def _done(self, key: K) -> None:
        self._processing.discard(key)
        if (again := self._dirty.pop(key, None)) is not None:
            self._waiting[key] = again
            self._put(*again, self._now())

    def take_reads(self, *, until: float) -> Generator[WorkItem[K], None, None]:
        """Take all keys that were due for a reconcile before `until` and had no trigger since.

        Each is done when the next one is requested, the rest when the iterator is closed. None of
        these work items may change anything.
        """
        found = self._ready[Priority.RECONCILE].take_all(self._now(), until)
        items = deque(
            WorkItem(waiting.key, Priority.RECONCILE, waiting.since, waiting.source, read_only=True)
            for waiting in found
        )
        for item in items:
            del self._waiting[item.key]
            self._processing.add(item.key)
        try:
            while items:
                yield items[0]
                self._done(items.popleft().key)
        finally:
            for item in items:
                self._done(item.key)

    def due_reads(self) -> int:
        """How many due keys a bulk read could serve."""
        return self._ready[Priority.RECONCILE].batchable(self._now())

    async def until_backlog(self, threshold: Callable[[], int]) -> None:
        """Wait until so many keys are due that a bulk read could serve."""
        if self.due_reads() >= threshold():
            return
        reached = asyncio.get_running_loop().create_future()
        self._backlog = (threshold, reached)
        try:
            await reached
        finally:
            self._backlog = None

    @contextmanager
    def limit_reads(self, at_once: int = 1, *, for_at_most: float) -> Iterator[None]:
        """Limit how many reconciles run at a time, for the length of the block or at most so many
        seconds.
        """
        self._read_limit = at_once
        end = asyncio.get_running_loop().call_later(for_at_most, self._lift_read_limit)
        try:
            yield
        finally:
            end.cancel()
            self._lift_read_limit()

    def _lift_read_limit(self) -> None:
        self._read_limit = float("inf")
        self._wake_one()

    def may_change(self, item: WorkItem[K], *, urgent: bool) -> bool:
        """Acquire the concurrency limit, unless it is reached or a more urgent change waits.

        If False, add the key again with the priority of its change.
        """
        if item.changing:
            return True
        if item.read_only:
            return False
        if not self.concurrency_limit.free or (
            not urgent and self._ready[Priority.URGENT].due(self._now())
        ):
            return False
        self.concurrency_limit.acquire()
        self._reading -= 1
        item.changing = True
        if self._read_limit < float("inf"):
            # One reconcile less is reading: another one may start.
            self._wake_one()
        return True

    def _put(self, priority: Priority, waiting: Waiting[K], now: float) -> None:
        self._ready[priority].put(waiting, now)
        if waiting.at <= now:
            self._wake_one()
            self._notify_backlog()
        else:
            self._schedule_wakeup(waiting.at)

    def _notify_backlog(self) -> None:
        if self._backlog is not None:
            threshold, reached = self._backlog
            if not reached.done() and self.due_reads() >= threshold():
                reached.set_result(None)

    def _open_priorities(self) -> tuple[Priority, ...]:
        priorities = (
            (Priority.URGENT, Priority.RECONCILE, Priority.CHANGE)
            if self.concurrency_limit.free
            else (Priority.RECONCILE,)
        )
        if self._reading < self._read_limit:
            return priorities
        return tuple(priority for priority in priorities if priority is not Priority.RECONCILE)

    async def _take(self) -> WorkItem[K]:
        while not self.closed:
            now = self._now()
            for priority in self._open_priorities():
                if (waiting := self._ready[priority].take(now)) is not None:
                    return self._start(priority, waiting, now)
            self._schedule_next(now)
            await self._until_woken()
        raise QueueClosed

    def _start(self, priority: Priority, waiting: Waiting[K], now: float) -> WorkItem[K]:
        del self._waiting[waiting.key]
        self._processing.add(waiting.key)
        item = WorkItem(waiting.key, priority, waiting.since, waiting.source)
        if priority is not Priority.RECONCILE:
            self.concurrency_limit.acquire()
            item.changing = True
        if any(self._ready[other].due(now) for other in self._open_priorities()):
            self._wake_one()
        self._notify_backlog()
        return item

    async def _until_woken(self) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        try:
            await woken
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                # Pass the wakeup on to a worker that is not cancelled.
                self._wake_one()
            raise

    def _wake_one(self) -> None:
        while self._idle:
            woken = self._idle.popleft()
            if not woken.done():
                woken.set_result(None)
                return

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
        self._wake_one()
        # The worker that was woken schedules the next wakeup only if it finds nothing.
        self._schedule_next(self._now())

    def _now(self) -> float:
        return max(asyncio.get_running_loop().time(), self._reached)
