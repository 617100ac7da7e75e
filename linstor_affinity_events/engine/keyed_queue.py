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

    LOOK = 0
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

    looks_only: bool = False
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
        self._rows: dict[Priority, ReadyHeap[K]] = {priority: ReadyHeap() for priority in Priority}
        self._held: set[K] = set()
        self._blocked: dict[K, tuple[Priority, Waiting[K]]] = {}
        self._order = count()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._alarm: tuple[float, asyncio.TimerHandle] | None = None
        self._reached = float("-inf")
        """The time that an alarm was set for: loops ring it a little early."""
        self.concurrency_limit = ConcurrencyLimit(changes_at_once)
        self._looking = 0
        self._looks_at_once = float("inf")
        self._batches: tuple[Callable[[], int], asyncio.Future[None]] | None = None
        self.closed = False

    def __len__(self) -> int:
        """Keys waiting; those in a worker's hands do not count unless they are wanted again."""
        return len(self._waiting) + len(self._blocked)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting or key in self._blocked or key in self._held

    @property
    def held(self) -> int:
        return len(self._held)

    def oldest(self) -> float | None:
        """When the longest waiting key that is due was asked for; None if none is due."""
        now = self._now()
        return min((w.since for _, w in self._waiting.values() if w.at <= now), default=None)

    def add(
        self,
        key: K,
        *,
        after: float = 0.0,
        priority: Priority = Priority.LOOK,
        source: str = "",
        since: float | None = None,
        alone: bool = False,
    ) -> None:
        """Ask for a turn in `after` seconds. The earliest wish for a key wins.

        `since` is when the news came that it answers; without any, when it is due. `source` is who
        told it, and empty where nobody did. One to be had `alone` is left out by `claim_looks`.
        """
        now = self._now()
        at, since = now + after, now + after if since is None else since
        held = key in self._held
        where = self._blocked if held else self._waiting
        if (found := where.get(key)) is not None:
            before, old = found
            alone = alone or old.alone
            if old.at <= now and (now < at or before is Priority.URGENT):
                # Due already: a later wish changes nothing but what it is answered to. And what
                # waits to be changed at once is looked at afresh when its turn comes.
                priority = before
            at, since, source = min(old.at, at), min(old.since, since), old.source or source
            wanted = (at, since, source, priority, alone)
            if wanted == (old.at, old.since, old.source, before, old.alone):
                old.asked = now
                return
            if not held:
                self._rows[before].drop(old, now)
        new = Waiting(key, at, next(self._order), since, source, now, alone)
        where[key] = (priority, new)
        if not held:
            self._put(priority, new, now)

    def close(self) -> None:
        """Hand out nothing more; turns already begun run to their end."""
        self.closed = True
        while self._idle:
            self._wake_one()

    @asynccontextmanager
    async def claim(self) -> AsyncIterator[WorkItem[K]]:
        """Wait for the next due key and hold it for the length of the block.

        Raises QueueClosed once `close` was called.
        """
        item = await self._take()
        self._looking += item.priority is Priority.LOOK
        try:
            yield item
        finally:
            if item.changing:
                self.concurrency_limit.give_back()
            else:
                self._looking -= 1
            self._let_go(item.key)
            if item.changing or self._looks_at_once < float("inf"):
                self._wake_one()

    def _let_go(self, key: K) -> None:
        self._held.discard(key)
        if (again := self._blocked.pop(key, None)) is not None:
            self._waiting[key] = again
            self._put(*again, self._now())

    def claim_looks(self, *, until: float) -> Generator[WorkItem[K], None, None]:
        """Hold all keys that were due for a look before `until` and for which nothing came since,
        and hand them out, letting go of each when the next is asked for, and of the rest when the
        iterator is closed. None of these turns may change anything.
        """
        found = self._rows[Priority.LOOK].take_all(self._now(), until)
        items = deque(
            WorkItem(waiting.key, Priority.LOOK, waiting.since, waiting.source, looks_only=True)
            for waiting in found
        )
        for item in items:
            del self._waiting[item.key]
            self._held.add(item.key)
        try:
            while items:
                yield items[0]
                self._let_go(items.popleft().key)
        finally:
            for item in items:
                self._let_go(item.key)

    def due_looks(self) -> int:
        """How many keys wait for a look that one read for many could answer."""
        return self._rows[Priority.LOOK].shareable(self._now())

    async def until_crowded(self, big: Callable[[], int]) -> None:
        """Wait until so many looks are due."""
        if self.due_looks() >= big():
            return
        crowded = asyncio.get_running_loop().create_future()
        self._batches = (big, crowded)
        try:
            await crowded
        finally:
            self._batches = None

    @contextmanager
    def few_looks(self, at_once: int = 1, *, for_at_most: float) -> Iterator[None]:
        """Hand out no more than so many looks at a time for the length of the block, or so many
        seconds.
        """
        self._looks_at_once = at_once
        end = asyncio.get_running_loop().call_later(for_at_most, self._as_many_looks_as_wished)
        try:
            yield
        finally:
            end.cancel()
            self._as_many_looks_as_wished()

    def _as_many_looks_as_wished(self) -> None:
        self._looks_at_once = float("inf")
        self._wake_one()

    def may_change(self, item: WorkItem[K], *, urgent: bool) -> bool:
        """Take one of the places for changes, if one is free and nobody more urgent waits for it.

        On False, add the key again in the lane of its change.
        """
        if item.changing:
            return True
        if item.looks_only:
            return False
        if not self.concurrency_limit.free or (
            not urgent and self._rows[Priority.URGENT].due(self._now())
        ):
            return False
        self.concurrency_limit.take()
        self._looking -= 1
        item.changing = True
        if self._looks_at_once < float("inf"):
            # One look less: another one may be had.
            self._wake_one()
        return True

    def _put(self, priority: Priority, waiting: Waiting[K], now: float) -> None:
        self._rows[priority].put(waiting, now)
        if waiting.at <= now:
            self._wake_one()
            self._see_crowd()
        else:
            self._set_alarm(waiting.at)

    def _see_crowd(self) -> None:
        if self._batches is not None:
            big, crowded = self._batches
            if not crowded.done() and self.due_looks() >= big():
                crowded.set_result(None)

    def _open_lanes(self) -> tuple[Priority, ...]:
        lanes = (
            (Priority.URGENT, Priority.LOOK, Priority.CHANGE)
            if self.concurrency_limit.free
            else (Priority.LOOK,)
        )
        if self._looking < self._looks_at_once:
            return lanes
        return tuple(priority for priority in lanes if priority is not Priority.LOOK)

    async def _take(self) -> WorkItem[K]:
        while not self.closed:
            now = self._now()
            for priority in self._open_lanes():
                if (waiting := self._rows[priority].take(now)) is not None:
                    return self._hand_out(priority, waiting, now)
            self._look_ahead(now)
            await self._until_woken()
        raise QueueClosed

    def _hand_out(self, priority: Priority, waiting: Waiting[K], now: float) -> WorkItem[K]:
        del self._waiting[waiting.key]
        self._held.add(waiting.key)
        item = WorkItem(waiting.key, priority, waiting.since, waiting.source)
        if priority is not Priority.LOOK:
            self.concurrency_limit.take()
            item.changing = True
        if any(self._rows[other].due(now) for other in self._open_lanes()):
            self._wake_one()
        self._see_crowd()
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

    def _look_ahead(self, now: float) -> None:
        """See to it that somebody is woken when the next key is due."""
        ahead = (row.next_at(now) for row in self._rows.values())
        if (soonest := min((at for at in ahead if at is not None), default=None)) is not None:
            self._set_alarm(soonest)

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            before, timer = self._alarm
            if before <= at:
                return
            timer.cancel()
        self._alarm = at, asyncio.get_running_loop().call_at(at, self._ring, at)

    def _ring(self, at: float) -> None:
        self._alarm, self._reached = None, at
        self._wake_one()
        # Whoever was woken looks ahead only if it finds nothing.
        self._look_ahead(self._now())

    def _now(self) -> float:
        return max(asyncio.get_running_loop().time(), self._reached)
