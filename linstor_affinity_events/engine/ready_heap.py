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
        self._due = 0
        self._latest_next = False

    def due(self, now: float) -> int:
        """How many are due."""
        while self._delayed and (self._delayed[0][2].removed or self._delayed[0][0] <= now):
            _, _, waiting = heapq.heappop(self._delayed)
            if not waiting.removed:
                self._make_ready(waiting)
        return self._due

    def next_at(self, now: float) -> float | None:
        """When the next key becomes due; None if all waiting keys are due."""
        self.due(now)
        return self._delayed[0][0] if self._delayed else None

    def newest(self) -> float:
        """When the latest trigger of the due keys arrived; minus infinity if none is due."""
        while self._newest and self._newest[0][2].removed:
            heapq.heappop(self._newest)
        return -self._newest[0][0] if self._newest else float("-inf")

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
            self._count_removed()

    def take(self, now: float) -> Waiting[K] | None:
        """Remove and return a due request; None if none is due."""
        if not self.due(now):
            return None
        heap = self._newest if self._latest_next else self._oldest
        self._latest_next = not self._latest_next
        while (waiting := heapq.heappop(heap)[2]).removed:
            pass
        waiting.removed = True
        self._count_removed()
        return waiting

    def _make_ready(self, waiting: Waiting[K]) -> None:
        heapq.heappush(self._oldest, (waiting.since, waiting.order, waiting))
        heapq.heappush(self._newest, (-waiting.since, -waiting.order, waiting))
        self._due += 1

    def _count_removed(self) -> None:
        self._due -= 1
        if len(self._oldest) + len(self._newest) > 4 * self._due + MOST_REMOVED:
            for heap in (self._oldest, self._newest):
                heap[:] = [entry for entry in heap if not entry[2].removed]
                heapq.heapify(heap)
