"""Keys that want a look, each at most once, the most urgent changes first."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class QueueClosed(Exception):
    """The queue hands out nothing any more."""


class Lane(IntEnum):
    """What a key waits for."""

    LOOK = 0
    URGENT = 1
    """A change that lets pods start where the data is."""

    CHANGE = 2
    """A change that adds a choice or takes one away."""


@dataclass(slots=True)
class _Waiting:
    at: float
    lane: Lane
    order: int
    since: float
    source: str


@dataclass(slots=True)
class Turn(Generic[K]):
    """One key in a worker's hands."""

    key: K
    lane: Lane
    since: float
    """When the oldest hint that this turn answers was given, by the loop's clock."""

    source: str
    """Who told first what it answers; empty for our own wish to look."""

    changing: bool = False
    """Whether one of the places for changes is taken."""

    @property
    def hinted(self) -> bool:
        """Whether news led to it, rather than our own wish to look again."""
        return bool(self.source)


class KeyedQueue(Generic[K]):
    """Holds each key once and never gives one key to two workers.

    A key added while a worker holds it is handed out again afterwards, so the latest news is
    always followed by a look. At most `changes_at_once` turns change something at a time; looks
    need no such place, so that a change found urgent is never kept waiting by a long row of
    others. Times are those of the running loop. Adding and claiming cost O(log n).
    """

    def __init__(self, *, changes_at_once: int = 10) -> None:
        self._waiting: dict[K, _Waiting] = {}
        self._heaps: dict[Lane, list[tuple[float, int, K]]] = {lane: [] for lane in Lane}
        self._held: set[K] = set()
        self._blocked: dict[K, _Waiting] = {}
        self._order = count()
        self._changed = asyncio.Event()
        self._places = changes_at_once
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
        now = asyncio.get_running_loop().time()
        return min((w.since for w in self._waiting.values() if w.at <= now), default=None)

    def add(
        self,
        key: K,
        *,
        after: float = 0.0,
        lane: Lane = Lane.LOOK,
        source: str = "",
        since: float | None = None,
    ) -> None:
        """Ask for a turn in `after` seconds. The earliest wish for a key wins.

        `since` is when the news came that it answers; without any, when it is due. `source` is who
        told it, and empty where nobody did.
        """
        now = asyncio.get_running_loop().time()
        asked = now + after if since is None else since
        new = _Waiting(now + after, lane, next(self._order), asked, source)
        where = self._blocked if key in self._held else self._waiting
        if (old := where.get(key)) is not None:
            new.since = min(old.since, new.since)
            new.source = old.source or new.source
            if old.at <= new.at and old.lane == new.lane:
                old.since, old.source = new.since, new.source
                return
            if old.at <= now < new.at:
                # Due already: a later wish changes nothing but what it is answered to.
                old.since, old.source = new.since, new.source
                return
            new.at = min(old.at, new.at)
        where[key] = new
        if where is self._waiting:
            self._push(key, new)

    def close(self) -> None:
        """Hand out nothing more; turns already begun run to their end."""
        self.closed = True
        self._changed.set()

    @asynccontextmanager
    async def claim(self) -> AsyncIterator[Turn[K]]:
        """Wait for the next due key and hold it for the length of the block.

        Raises QueueClosed once `close` was called.
        """
        turn = await self._take()
        try:
            yield turn
        finally:
            self._held.discard(turn.key)
            if turn.changing:
                self._places += 1
            if (again := self._blocked.pop(turn.key, None)) is not None:
                self._waiting[turn.key] = again
                self._push(turn.key, again)
            self._changed.set()

    def may_change(self, turn: Turn[K], *, urgent: bool) -> bool:
        """Take one of the places for changes, if one is free and nobody more urgent waits for it.

        On False, add the key again in the lane of its change.
        """
        if turn.changing:
            return True
        if self._places <= 0 or (not urgent and self._first(Lane.URGENT) is not None):
            return False
        self._places -= 1
        turn.changing = True
        return True

    def _push(self, key: K, waiting: _Waiting) -> None:
        heapq.heappush(self._heaps[waiting.lane], (waiting.at, waiting.order, key))
        self._changed.set()

    def _first(self, lane: Lane) -> _Waiting | None:
        """What is due next in a lane, whenever that is; entries overtaken by others are dropped."""
        heap = self._heaps[lane]
        while heap:
            _, order, key = heap[0]
            waiting = self._waiting.get(key)
            if waiting is not None and waiting.order == order:
                return waiting
            heapq.heappop(heap)
        return None

    async def _take(self) -> Turn[K]:
        clock = asyncio.get_running_loop().time
        while not self.closed:
            lanes = [Lane.URGENT, Lane.LOOK, Lane.CHANGE] if self._places > 0 else [Lane.LOOK]
            wait: float | None = None
            now = clock()
            for lane in lanes:
                first = self._first(lane)
                if first is None:
                    continue
                if first.at <= now:
                    return self._hand_out(lane, first)
                wait = min(first.at - now, wait) if wait is not None else first.at - now
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
        raise QueueClosed

    def _hand_out(self, lane: Lane, waiting: _Waiting) -> Turn[K]:
        _, _, key = heapq.heappop(self._heaps[lane])
        del self._waiting[key]
        self._held.add(key)
        turn = Turn(key, lane, waiting.since, waiting.source)
        if lane is not Lane.LOOK:
            self._places -= 1
            turn.changing = True
        # Other workers may have slept through news that this one took.
        self._changed.set()
        return turn
