"""How many volumes are changed at a time: no more than get done sooner for it."""

from collections import defaultdict, deque
from collections.abc import Hashable
from functools import partial

FEW = 3.0
"""How many may wait for each other, so that whoever is the bottleneck never waits for us."""

USUAL = 1.5
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
        self._wish = 1.0
        self._taken = 0
        self._alone = False
        """Whether nobody came beside the one that took its place last, nor was there before."""
        self._short: defaultdict[Hashable, deque[float]] = defaultdict(
            partial(deque, maxlen=REMEMBERED)
        )

    @property
    def at_once(self) -> int:
        """How many may change something at a time, as found out so far."""
        return min(self._most, int(self._wish))

    @property
    def taken(self) -> int:
        """How many do so now."""
        return self._taken

    @property
    def free(self) -> bool:
        return self._taken < self.at_once

    def take(self) -> None:
        self._alone = self._taken == 0
        self._taken += 1

    def give_back(self) -> None:
        self._taken -= 1

    def learn(self, kind: Hashable, took: float) -> None:
        """Hear from one that still has its place how many seconds its change took.

        Only changes of one kind are compared: one that waits for nobody else must not make those
        look slow that have to.
        """
        known = self._short[kind]
        if self._alone or not known or took < min(known):
            known.append(took)
        if self.free:
            # Nobody waited for a place, so it does not tell what would become of more.
            return
        share = min(1.0, USUAL * min(known) / took) if took > 0 else 1.0
        wish = self._wish * share + FEW
        self._wish = min(self._wish + STEP * (wish - self._wish), float(self._most))
