"""How many volumes are changed at a time: no more than get done sooner for it."""

FEW = 4.0
"""How many may wait for each other, so that whoever is the bottleneck never waits for us."""

STEP = 0.2
"""How far one replacement, by the time it took, moves the number."""

REMEMBERED = 1000
"""After how many replacements the shortest is looked for anew: a cluster may have become slower."""


class Places:
    """Counts who changes something, and finds out how many may at once, up to `most`.

    Kubernetes' volume binder, or whatever else is slowest, replaces so many volumes a second,
    however many are given to it at once; more only wait in its row, and so does a volume that
    comes by itself. How long that row is follows from the time that a replacement takes now,
    beside the shortest that was seen: what TCP Vegas does for packets.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._wish = 1.0 + FEW
        self._taken = 0
        self._shortest = self._shortest_before = float("inf")
        self._seen = 0

    @property
    def at_once(self) -> int:
        """How many may change something at a time, as found out so far."""
        return min(self._most, int(self._wish))

    @property
    def free(self) -> bool:
        return self._taken < self.at_once

    def take(self) -> None:
        self._taken += 1

    def give_back(self) -> None:
        self._taken -= 1

    def replaced_in(self, took: float) -> None:
        """Learn how many seconds a replacement took, by one that still has its place."""
        self._remember(took)
        if self.free:
            # Nobody waited, so it tells nothing of what would become of more at a time.
            return
        shortest = min(self._shortest, self._shortest_before)
        share = shortest / took if took > 0 else 1.0
        self._wish += STEP * (self._wish * share + FEW - self._wish)
        self._wish = min(self._wish, float(self._most))

    def _remember(self, took: float) -> None:
        self._shortest = min(self._shortest, took)
        self._seen += 1
        if self._seen == REMEMBERED:
            self._shortest_before, self._shortest = self._shortest, float("inf")
            self._seen = 0
