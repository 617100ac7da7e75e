"""Keys that want a look, each at most once, the most urgent changes first."""

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
    """The queue hands out nothing any more."""


class Priority(IntEnum):
    """What a key waits for."""

    RECONCILE = 0
    URGENT = 1
    """A change that lets pods start where the data is."""

    CHANGE = 2
    """A change that adds a choice or takes one away."""


@dataclass(slots=True)
class WorkItem(Generic[K]):
    """One key in a worker's hands."""

    key: K
    priority: Priority
    since: float
    """When the oldest hint that this turn answers was given, by the loop's clock."""

    source: str
    """Who told first what it answers; empty for our own wish to look."""

    changing: bool = False
    """Whether one of the places for changes is taken."""

    read_only: bool = False
    """Whether it must change nothing, whatever is found."""

    @property
    def trigger(self) -> bool:
        """Whether news led to it, rather than our own wish to look again."""
        return bool(self.source)


class KeyedQueue(Generic[K]):
    """Holds each key once and never gives one key to two workers.

    A key added while a worker holds it is handed out again afterwards, so the latest news is
    always followed by a look. At most `changes_at_once` turns change something at a time, fewer
    where `places` found that more would mostly wait for each other. Looks need no such place, so
    that a change found urgent is never kept waiting by a long row of others. Times are those of
    the running loop. Adding and claiming cost O(log n), and wake one worker at most.
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
        """The time that an alarm was set for: loops ring it a little early."""
        self.concurrency_limit = ConcurrencyLimit(changes_at_once)
        self._reading = 0
        self._read_limit = float("inf")
        self._backlog: tuple[Callable[[], int], asyncio.Future[None]] | None = None
        self.closed = False

    def __len__(self) -> int:
        """Keys waiting; those in a worker's hands do not count unless they are wanted again."""
        return len(self._waiting) + len(self._dirty)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting or key in self._dirty or key in self._processing

    @property
    def processing(self) -> int:
        return len(self._processing)

    def oldest(self) -> float | None:
        """When the longest waiting key that is due was asked for; None if none is due."""
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
        """Ask for a turn in `after` seconds. The earliest wish for a key wins.

        `since` is when the news came that it answers; without any, when it is due. `source` is who
        told it, and empty where nobody did. One to be had `alone` is left out by `claim_looks`.
        """
        now = self._now()
        at, since = now + after, now + after if since is None else since
        processing = key in self._processing
        where = self._dirty if processing else self._waiting
        if (found := where.get(key)) is not None:
            before, old = found
            unbatchable = unbatchable or old.unbatchable
            if old.at <= now and (now < at or before is Priority.URGENT):
                # Due already: a later wish changes nothing but what it is answered to. And what
                # waits to be changed at once is looked at afresh when its turn comes.
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
        """Hand out nothing more; turns already begun run to their end."""
        self.closed = True
        while self._idle:
            self._wake_one()

    @asynccontextmanager
    async def get(self) -> AsyncIterator[WorkItem[K]]:
        """Wait for the next due key and hold it for the length of the block.

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
        """Hold all keys that were due for a look before `until` and for which nothing came since,
        and hand them out, letting go of each when the next is asked for, and of the rest when the
        iterator is closed. None of these turns may change anything.
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
        """How many keys wait for a look that one read for many could answer."""
        return self._ready[Priority.RECONCILE].batchable(self._now())

    async def until_backlog(self, threshold: Callable[[], int]) -> None:
        """Wait until so many looks are due."""
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
        """Hand out no more than so many looks at a time for the length of the block, or so many
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
        """Take one of the places for changes, if one is free and nobody more urgent waits for it.

        On False, add the key again in the lane of its change.
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
            # One look less: another one may be had.
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
                # It was meant for somebody who goes on.
                self._wake_one()
            raise

    def _wake_one(self) -> None:
        while self._idle:
            woken = self._idle.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    def _schedule_next(self, now: float) -> None:
        """See to it that somebody is woken when the next key is due."""
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
        # Whoever was woken looks ahead only if it finds nothing.
        self._schedule_next(self._now())

    def _now(self) -> float:
        return max(asyncio.get_running_loop().time(), self._reached)
