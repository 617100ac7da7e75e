"""How many volumes are changed at a time: no more than get done sooner for it."""

from collections import defaultdict, deque
from collections.abc import Hashable
from functools import partial

QUEUED = 3.0
"""How many may wait for each other, so that whoever is the bottleneck never waits for us."""

TOLERANCE = 1.5
"""How much longer than the shortest one a change may take without anybody in its way."""

STEP = 0.2
"""How far one change, by the time it took, moves the number."""

REMEMBERED = 32
"""Of how many changes that had nobody beside them the shortest is taken."""


class ConcurrencyLimit:
    """Counts who changes something, and finds out how many may at once, up to `most`.

    Kubernetes' volume binder, or whatever else is slowest, gets through so many changes a second,
    however many are given to it at once; more only wait in its row, and so does a volume that
    comes by itself. How long that row is follows from the time that a change takes now, beside
    the time that its like took alone: what TCP Vegas does for packets. The first is alone, so
    that there is something to compare with.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._estimate = 1.0
        self._in_flight = 0
        self._uncontended = False
        """Whether nobody came beside the one that took its place last, nor was there before."""
        self._fastest: defaultdict[Hashable, deque[float]] = defaultdict(
            partial(deque, maxlen=REMEMBERED)
        )

    @property
    def limit(self) -> int:
        """How many may change something at a time, as found out so far."""
        return min(self._most, int(self._estimate))

    @property
    def in_flight(self) -> int:
        """How many do so now."""
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
        """Hear from one that still has its place how many seconds its change took.

        Only changes of one kind are compared: one that waits for nobody else must not make those
        look slow that have to.
        """
        known = self._fastest[kind]
        if self._uncontended or not known or took < min(known):
            known.append(took)
        if self.free:
            # Nobody waited for a place, so it does not tell what would become of more.
            return
        share = min(1.0, TOLERANCE * min(known) / took) if took > 0 else 1.0
        estimate = self._estimate * share + QUEUED
        self._estimate = min(self._estimate + STEP * (estimate - self._estimate), float(self._most))
