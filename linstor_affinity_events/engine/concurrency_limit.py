"""Limits how many volumes are changed concurrently, adapted to the current bottleneck."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

QUEUED = 3.0
"""How many changes may queue at the bottleneck, so that it never idles."""

TOLERANCE = 1.5
"""How much longer than the fastest one an uncontended change may take."""

STEP = 0.2
"""How much the duration of one change moves the estimate."""

REMEMBERED = 32
"""Number of uncontended changes among which the fastest is the reference."""


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
    """Counts the changes in flight and estimates how many may run concurrently, up to `most`.

    The bottleneck, mostly the PersistentVolume controller, completes a fixed number of changes per
    second, however many it gets at once. More only wait in its queue, and so does a single volume
    that changes later. The length of that queue follows from the time that a change takes now,
    compared with the time of an uncontended one: what TCP Vegas does for packets. The first change
    runs alone, so that there is a reference.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._estimate = 1.0
        self._in_flight = 0
        self._uncontended = False
        """Whether no other change was in flight when the last one was acquired."""
        self._fastest: defaultdict[Hashable, deque[float]] = defaultdict(
            partial(deque, maxlen=REMEMBERED)
        )

    @property
    def limit(self) -> int:
        """How many changes may be in flight, as estimated so far."""
        return min(self._most, int(self._estimate))

    @property
    def in_flight(self) -> int:
        """How many changes are in flight now."""
        return self._in_flight

    @property
    def free(self) -> bool:
        return self._in_flight < self.limit

    def acquire(self) -> None:
        self._uncontended = self._in_flight == 0
        self._in_flight += 1

    def release(self) -> None:
        self._in_flight -= 1

    def observe(self, kind: Hashable, took: float) -> None:
        """Record how many seconds a change took, before it is released.

        Only changes of one kind are compared: a kind that waits for no other component must not
        make the others appear slow.
        """
        known = self._fastest[kind]
        if self._uncontended or not known or took < min(known):
            known.append(took)
        if self.free:
            # The limit was not reached, so this says nothing about a higher one.
            return
        share = min(1.0, TOLERANCE * min(known) / took) if took > 0 else 1.0
        estimate = self._estimate * share + QUEUED
        self._estimate = min(self._estimate + STEP * (estimate - self._estimate), float(self._most))
