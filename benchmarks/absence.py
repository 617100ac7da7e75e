"""How long a volume that is replaced is not there, as a watch sees it."""

from collections.abc import Iterable
from itertools import pairwise

from tests.testbed.observer import Observer


def absences(observer: Observer, names: Iterable[str], since: float) -> list[float]:
    """Of each replacement since then, the seconds between the events of removal and creation."""
    found = []
    for name in names:
        history = [observed for observed in observer.history[name] if observed.at >= since]
        found += [
            later.at - sooner.at
            for sooner, later in pairwise(history)
            if sooner.kind == "DELETED" and later.kind == "ADDED"
        ]
    return found
