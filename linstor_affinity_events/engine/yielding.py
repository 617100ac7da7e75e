"""Cooperative yields in long loops."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


LONGEST = 0.01
"""Seconds without a cooperative yield, unless one item takes longer."""


async def yielding(items: Iterable[T], *, every: int) -> AsyncIterator[T]:
    """Yield all items, and let other tasks run after every so many, or sooner if that takes long:
    reconciles must not wait.
    """
    clock, number = asyncio.get_running_loop().time, 0
    since = clock()
    for item in items:
        yield item
        number += 1
        if number >= every or clock() - since >= LONGEST:
            await asyncio.sleep(0)
            number, since = 0, clock()
