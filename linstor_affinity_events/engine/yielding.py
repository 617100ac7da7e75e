"""Cooperative yields in long loops."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def yielding(items: Iterable[T], *, every: int) -> AsyncIterator[T]:
    """Yield all items, and let other tasks run after every so many: reconciles must not wait."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % every == 0:
            await asyncio.sleep(0)
