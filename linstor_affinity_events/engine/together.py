"""Awaits several awaitables concurrently; when one fails, none continues."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, overload

A = TypeVar("A")
B = TypeVar("B")


@overload
async def together(first: Awaitable[A], second: Awaitable[B], /) -> tuple[A, B]: ...
@overload
async def together(*work: Awaitable[A]) -> tuple[A, ...]: ...


async def together(*work: Awaitable[Any]) -> tuple[Any, ...]:
    """Await all; when one fails the others are cancelled and awaited before its error is raised.

    As `asyncio.gather`, which leaves the others running, and `asyncio.TaskGroup`, which wraps the
    error. Of several errors the first by position is raised.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    if not tasks:
        return ()
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failed = (task for task in tasks if not task.cancelled() and task.exception() is not None)
    if (first := next(failed, None)) is not None:
        await first
    return tuple(task.result() for task in tasks)
