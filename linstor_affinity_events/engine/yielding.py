"""Long loops that leave the others their turn."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def yielding(items: Iterable[T], *, every: int) -> AsyncIterator[T]:
    """Yield them all and let other tasks run after each so many: a look must not be held up."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % every == 0:
            await asyncio.sleep(0)
