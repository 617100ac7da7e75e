"""Several things at the same time, none of which outlives the others' failure."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from linstor_affinity_events.errors import AffinityEventsError

T = TypeVar("T")


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Do all of it side by side and return the results, in the order given.

    Where one fails, the others are cancelled and have ended before its error is raised; that of
    `asyncio.gather` is raised while they go on, owned by nobody.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except* AffinityEventsError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
