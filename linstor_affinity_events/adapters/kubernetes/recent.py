"""Mappings that keep what was written last."""

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def remember(where: dict[K, V], key: K, value: V, *, most: int) -> None:
    """Keep the last `most` keys."""
    where.pop(key, None)
    where[key] = value
    if len(where) > most:
        del where[next(iter(where))]
