"""Limits how many volumes are changed concurrently, by how long they wait for the binder."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

TARGET = 0.25
"""How many seconds a change may wait for the binder before fewer run concurrently."""

FEWEST = 3
"""Changes that keep the binder busy: one waits for it while others do the rest."""

STEP = 0.2
"""How much the wait of one change moves the limit."""


class Limit(Protocol):
    """How many of one kind may be in flight."""

    @property
    def free(self) -> bool:
        """Whether one more may start."""

    def acquire(self) -> None: ...
    def release(self) -> None: ...


class ReadLimit:
    """Counts the reads in flight; any number may be, except while it is lowered."""

    def __init__(self) -> None:
        self._most, self._in_flight = float("inf"), 0
        self.on_lifted: Callable[[], None] = lambda: None

    @property
    def free(self) -> bool:
        return self._in_flight < self._most

    def acquire(self) -> None:
        self._in_flight += 1

    def release(self) -> None:
        self._in_flight -= 1

    @contextmanager
    def lowered(self, *, for_at_most: float) -> Iterator[None]:
        """Let one more start at a time than there are now, for the length of the block or at most
        so many seconds.
        """
        self._most = 2
        end = asyncio.get_running_loop().call_later(for_at_most, self._lift)
        try:
            yield
        finally:
            end.cancel()
            self._lift()

    def _lift(self) -> None:
        self._most = float("inf")
        self.on_lifted()


class ConcurrencyLimit:
    """Counts the changes in flight and adapts how many may run concurrently, up to `most`.

    The volume binder handles a fixed number of volumes per second, however many wait. More only
    wait in its queue, and so does a single volume that changes later. How long changes wait for it
    is observed: the limit grows while that is short, and shrinks in proportion when it is not.
    """

    def __init__(self, most: int) -> None:
        self._most, self._fewest = most, min(FEWEST, most)
        self._exact = float(self._fewest)
        self._in_flight = 0
        self._queue_seen = False

    @property
    def limit(self) -> int:
        """How many changes may be in flight now."""
        return int(self._exact)

    @property
    def in_flight(self) -> int:
        """How many changes are in flight now."""
        return self._in_flight

    @property
    def free(self) -> bool:
        return self._in_flight < self.limit

    def acquire(self) -> None:
        self._in_flight += 1

    def release(self) -> None:
        self._in_flight -= 1

    def observe(self, waited: float) -> None:
        """Record how many seconds a change in flight waited for the binder; 0 if it did not."""
        if waited > TARGET:
            self._queue_seen = True
            less = self._exact * (1 - STEP * (1 - TARGET / waited))
            self._exact = max(less, float(self._fewest))
        elif not self.free:
            # If the limit was not reached, this says nothing about a higher one.
            more = 1 / self._exact if self._queue_seen else 1.0
            self._exact = min(self._exact + more, float(self._most))
