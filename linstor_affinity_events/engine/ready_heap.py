"""The waiting keys of one priority: first until they are due, then until a worker is free."""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_REMOVED = 64
"""How many removed entries may stay in the heaps before they are compacted."""


@dataclass(slots=True, eq=False)
class Waiting(Generic[K]):
    """One request to process a key."""

    key: K
    at: float
    order: int
    since: float
    source: str
    requested: float = 0.0
    """When it was requested last."""

    unbatchable: bool = False
    """Whether a bulk read must not serve it."""

    removed: bool = False
    """Taken, or replaced by another request for its key."""


class ReadyHeap(Generic[K]):
    """Returns alternately the key that waits longest and the key with the latest trigger.

    In order of arrival only, a single move would wait behind the thousands from a node evacuation
    just before; with the latest first only, the oldest would wait forever. Each operation costs
    O(log n).
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
        """How many of the due keys a bulk read could serve."""
        return self.due(now) - self._due_unbatchable

    def next_at(self, now: float) -> float | None:
        """When the next key becomes due; None if all waiting keys are due."""
        self.due(now)
        return self._delayed[0][0] if self._delayed else None

    def put(self, waiting: Waiting[K], now: float) -> None:
        if waiting.at <= now:
            self._make_ready(waiting)
        else:
            heapq.heappush(self._delayed, (waiting.at, waiting.order, waiting))

    def drop(self, waiting: Waiting[K], now: float) -> None:
        """Remove a request that another one replaces."""
        # Count everything that is due by now first.
        self.due(now)
        waiting.removed = True
        if waiting.at <= now:
            self._count_removed(waiting)

    def take(self, now: float) -> Waiting[K] | None:
        """Remove and return a due request; None if none is due."""
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
        """Remove and return all that were due before `until`, oldest first, except those that were
        requested after it or are unbatchable.
        """
        if not self.batchable(now):
            return []
        found = [each for _, _, each in sorted(self._oldest) if not each.removed]
        # Strictly before: the loop's clock may not advance for a millisecond.
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
