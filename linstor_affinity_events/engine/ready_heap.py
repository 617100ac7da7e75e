"""What waits in one lane of the queue: until it is due by time, and from then on by its turn."""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_REMOVED = 64
"""How many entries that are over may lie about before they are swept out."""


@dataclass(slots=True, eq=False)
class Waiting(Generic[K]):
    """One wish for a turn."""

    key: K
    at: float
    order: int
    since: float
    source: str
    requested: float = 0.0
    """When it was wished for last."""

    unbatchable: bool = False
    """Whether a read that serves many can't answer it."""

    removed: bool = False
    """Handed out, or overtaken by another wish for its key."""


class ReadyHeap(Generic[K]):
    """Hands out by turns the one that waits longest and the one of the latest news.

    In the order of arrival alone a single move would wait behind the thousands that a node's
    evacuation brought just before; with the latest alone the first would wait for ever. Each
    operation costs O(log n).
    """

    def __init__(self) -> None:
        self._delayed: list[tuple[float, int, Waiting[K]]] = []
        self._oldest: list[tuple[float, int, Waiting[K]]] = []
        self._newest: list[tuple[float, int, Waiting[K]]] = []
        self._due = self._due_unbatchable = 0
        self._latest_next = False

    def due(self, now: float) -> int:
        """How many are due."""
        while self._delayed and (self._delayed[0][2].removed or self._delayed[0][0] <= now):
            _, _, waiting = heapq.heappop(self._delayed)
            if not waiting.removed:
                self._make_ready(waiting)
        return self._due

    def batchable(self, now: float) -> int:
        """How many of the due ones one read could answer."""
        return self.due(now) - self._due_unbatchable

    def next_at(self, now: float) -> float | None:
        """When the next one will be due that is not; None if nothing waits for its time."""
        self.due(now)
        return self._delayed[0][0] if self._delayed else None

    def put(self, waiting: Waiting[K], now: float) -> None:
        if waiting.at <= now:
            self._make_ready(waiting)
        else:
            heapq.heappush(self._delayed, (waiting.at, waiting.order, waiting))

    def drop(self, waiting: Waiting[K], now: float) -> None:
        """Let another wish take its place."""
        # What is due by now is counted as such, seen or not.
        self.due(now)
        waiting.removed = True
        if waiting.at <= now:
            self._count_removed(waiting)

    def take(self, now: float) -> Waiting[K] | None:
        """Hand out one that is due, if any is."""
        if not self.due(now):
            return None
        heap = self._newest if self._latest_next else self._oldest
        self._latest_next = not self._latest_next
        while (waiting := heapq.heappop(heap)[2]).removed:
            pass
        waiting.removed = True
        self._count_removed(waiting)
        return waiting

    def take_all(self, now: float, until: float) -> list[Waiting[K]]:
        """Hand out all that were due before `until`, oldest first, but for those that were wished
        for after it or are to be had alone.
        """
        if not self.batchable(now):
            return []
        found = [each for _, _, each in sorted(self._oldest) if not each.removed]
        # Strictly before: a loop's clock may stand still for a millisecond.
        taken = [w for w in found if w.requested < until and w.at <= until and not w.unbatchable]
        for waiting in taken:
            waiting.removed = True
        for waiting in taken:
            self._count_removed(waiting)
        return taken

    def _make_ready(self, waiting: Waiting[K]) -> None:
        heapq.heappush(self._oldest, (waiting.since, waiting.order, waiting))
        heapq.heappush(self._newest, (-waiting.since, -waiting.order, waiting))
        self._due += 1
        self._due_unbatchable += waiting.unbatchable

    def _count_removed(self, waiting: Waiting[K]) -> None:
        self._due -= 1
        self._due_unbatchable -= waiting.unbatchable
        if len(self._oldest) + len(self._newest) > 4 * self._due + MOST_REMOVED:
            for heap in (self._oldest, self._newest):
                heap[:] = [entry for entry in heap if not entry[2].removed]
                heapq.heapify(heap)
