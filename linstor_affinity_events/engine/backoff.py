"""Retry delays that grow with each failure."""

import random


class Backoff:
    """Doubles from `first` up to `most`; each delay is shortened at random by up to a third."""

    def __init__(self, *, first: float, most: float, chance: random.Random) -> None:
        self._first, self._most, self._chance = first, most, chance
        self._delay = first

    def next(self) -> float:
        delay, self._delay = self._delay, min(self._delay * 2, self._most)
        return delay * self._chance.uniform(2 / 3, 1)

    def reset(self) -> None:
        self._delay = self._first
