"""What was begun ends when the service stops, whatever else fails."""

import asyncio

import pytest

from linstor_affinity_events.app.drain import Drain
from linstor_affinity_events.engine.concurrency_limit import ConcurrencyLimit, ReadLimit
from linstor_affinity_events.engine.keyed_queue import KeyedQueue
from linstor_affinity_events.model.names import ResourceName

pytestmark = pytest.mark.virtual_clock

GRACE = 25.0


class Failed(Exception):
    """A background task's end."""


async def stopped(*, takes: float, fails_after: float | None) -> tuple[bool, float]:
    """Stop while one worker is busy, as the service does, with a background task that fails or not;
    returns whether the worker came to its end, and when all was over.
    """
    queue = KeyedQueue[ResourceName](changes=ConcurrencyLimit(1), reads=ReadLimit())
    ended = False

    async def work() -> None:
        nonlocal ended
        await asyncio.sleep(takes)
        ended = True

    async def background() -> None:
        if fails_after is not None:
            await asyncio.sleep(fails_after)
            raise Failed
        await asyncio.Event().wait()

    drain = Drain(queue, grace=GRACE)
    try:
        async with asyncio.TaskGroup() as workforce:
            workers = [workforce.create_task(work())]
            try:
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(background())
                    await drain.wait(workers)
                    task.cancel()
            finally:
                await drain.wait(workers)
    except* Failed:
        pass
    assert queue.closed
    return ended, asyncio.get_running_loop().time()


@pytest.mark.parametrize("fails_after", [None, 1.0])
async def test_running_work_is_finished_although_a_background_task_fails(
    fails_after: float | None,
) -> None:
    assert await stopped(takes=10.0, fails_after=fails_after) == (True, 10.0)


@pytest.mark.parametrize("fails_after", [None, 20.0])
async def test_no_failure_extends_the_grace_period(fails_after: float | None) -> None:
    assert await stopped(takes=1000.0, fails_after=fails_after) == (False, GRACE)
