"""A single urgent change goes ahead of the many in progress."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from linstor_affinity_events.engine.keyed_queue import ALONE_AFTER
from linstor_affinity_events.engine.preemption import AT_MOST, Preemption
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.steps import Outcome
from tests.engine.setup import (
    PV,
    Setup,
    bind,
    cluster_with,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.fakes.linstor import FakeLinstor

FIRST, SECOND = PvName("pvc-a"), PvName("pvc-b")
MANY = [f"pvc-{number:03}" for number in range(150)]
SINGLE = "pvc-single"
AT_ONCE = 5
REQUEST_TAKES = 0.02


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_others_wait_until_the_change_ahead_has_ended() -> None:
    preemption, began = Preemption(), now()
    with preemption.ahead(FIRST):
        other = asyncio.create_task(preemption.give_way(SECOND))
        await preemption.give_way(FIRST)
        await asyncio.sleep(AT_MOST / 2)
        assert not other.done()
    await other

    assert now() - began == pytest.approx(AT_MOST / 2)
    await preemption.give_way(SECOND)
    assert now() - began == pytest.approx(AT_MOST / 2)


async def test_others_wait_for_a_limited_time() -> None:
    """But no other change goes ahead until the one that did has ended."""
    preemption, began = Preemption(), now()
    with preemption.ahead(FIRST):
        await preemption.give_way(SECOND)

        assert now() - began == pytest.approx(AT_MOST)
        await asyncio.sleep(10 * AT_MOST)
        assert not preemption.is_free
        with preemption.ahead(SECOND):
            await preemption.give_way(FIRST)
    assert now() - began == pytest.approx(11 * AT_MOST)


async def test_others_continue_as_long_as_they_waited() -> None:
    preemption = Preemption()
    with preemption.ahead(FIRST):
        assert not preemption.is_free
        with preemption.ahead(SECOND):
            await preemption.give_way(FIRST)
        assert not preemption.is_free
        await asyncio.sleep(AT_MOST / 2)

    assert not preemption.is_free
    with preemption.ahead(SECOND):
        await preemption.give_way(FIRST)
    await asyncio.sleep(AT_MOST / 2)
    assert preemption.is_free


@asynccontextmanager
async def evacuation() -> AsyncIterator[Setup]:
    """Many volumes with a replica elsewhere, of which a few are changed at a time; every second one
    could wait. Each request takes its time.
    """
    async with cluster_with(*MANY) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3", "n4")
        for number, name in enumerate(MANY):
            linstor.place(name, "n2", *(("n1",) if number % 2 else ()))
        bind(cluster, SINGLE, "n3")
        linstor.place(SINGLE, "n3")
        setup = setup_on(cluster, linstor, at_once=AT_ONCE)
        _slow_down(setup)
        async with setup.at_work(workers=AT_ONCE + 4):
            for name in MANY:
                setup.queue.add(ResourceName(name), source="replica")
            yield setup


def _slow_down(setup: Setup) -> None:
    def slower(request: Any) -> Any:
        async def made(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(REQUEST_TAKES)
            return await request(*args, **kwargs)

        return made

    for port, names in (
        (setup.volumes, ("read", "patch", "delete", "create")),
        (setup.journal, ("create", "save", "drop")),
    ):
        instead(port, **{name: slower(getattr(port, name)) for name in names})


def moved(setup: Setup) -> int:
    return sum("n2" in setup.nodes(name) for name in MANY if _is_there(setup, name))


def _is_there(setup: Setup, name: str) -> bool:
    return setup.cluster.get("persistentvolumes", name) is not None


def is_moved(setup: Setup, name: str) -> bool:
    return _is_there(setup, name) and setup.nodes(name) == {"n4"}


async def single_goes_ahead(setup: Setup, after: float = ALONE_AFTER) -> None:
    await asyncio.sleep(after + REQUEST_TAKES)
    setup.linstor.place(SINGLE, "n4")
    setup.queue.add(ResourceName(SINGLE), source="replica")
    await asyncio.sleep(REQUEST_TAKES / 2)


@pytest.mark.parametrize("after", [ALONE_AFTER, 3 * ALONE_AFTER])
async def test_a_single_volume_is_changed_while_the_others_wait(after: float) -> None:
    """Whether those that wait are urgent, or could wait."""
    async with evacuation() as setup:
        await single_goes_ahead(setup, after)

        assert AT_ONCE < moved(setup) < len(MANY) - 2 * AT_ONCE
        begun = moved(setup)
        # What was being removed ends.
        await asyncio.sleep(2 * REQUEST_TAKES)
        paused = moved(setup)
        assert begun <= paused <= begun + AT_ONCE
        await until(lambda: is_moved(setup, SINGLE))

        assert moved(setup) == paused
        await until(lambda: moved(setup) == len(MANY))


async def test_of_volumes_that_move_together_none_goes_ahead() -> None:
    async with evacuation() as setup:
        seen = set[int]()
        while moved(setup) < len(MANY):
            seen.add(setup.engine.changes.in_flight)
            await asyncio.sleep(REQUEST_TAKES / 10)

        assert max(seen) == AT_ONCE


async def recreated_after(setup: Setup, method: str, *, lost: bool = False) -> float:
    """Replace a volume. Another one goes ahead as soon as the method is called for a volume that is
    terminating or absent; that request is `lost`, or not. Returns how long after that the
    volume was recreated.
    """
    before, began, ahead = setup.pv()["metadata"]["uid"], list[float](), ExitStack()
    request = getattr(setup.volumes, method)

    def here() -> dict[str, Any]:
        found = setup.cluster.get("persistentvolumes", PV)
        return {} if found is None else found["metadata"]

    async def made(*args: Any) -> Any:
        if not began and (not here() or "deletionTimestamp" in here()):
            began.append(now())
            ahead.enter_context(setup.engine.preemption.ahead(SECOND))
            if lost:
                raise Unreachable("the request was lost")
        return await request(*args)

    instead(setup.volumes, **{method: made})
    with ahead:
        running = asyncio.create_task(replace(setup, "n2"))
        await until(lambda: began and here().get("uid", before) != before)
        took = now() - began[0]
        assert await running is Outcome.DONE
    return took


async def test_an_absent_volume_is_recreated_whatever_goes_ahead() -> None:
    async with one_setup() as setup, setup.volumes.watching():
        assert await recreated_after(setup, "create", lost=True) < AT_MOST


async def test_a_volume_whose_removal_has_no_response_is_recreated_whatever_goes_ahead() -> None:
    """It was there when it was observed last."""
    async with one_setup() as setup, setup.volumes.watching():
        remove, create = setup.volumes.remove, setup.volumes.create
        gone, back = list[float](), list[float]()
        with ExitStack() as ahead:

            async def removed(pv: Manifest) -> None:
                # The creation is sent meanwhile.
                await asyncio.sleep(REQUEST_TAKES)
                await remove(pv)
                gone.append(now())
                ahead.enter_context(setup.engine.preemption.ahead(SECOND))
                raise Unreachable("the response was lost")

            async def created(body: Manifest) -> Manifest:
                if not gone:
                    await until(lambda: gone)
                    raise Unreachable("the request was lost with the connection")
                made = await create(body)
                back.append(now())
                return made

            instead(setup.volumes, remove=removed, create=created)
            assert await replace(setup, "n2") is Outcome.DONE

        assert [at - gone[0] < AT_MOST for at in back] == [True]


async def test_nothing_comes_between_the_read_claim_and_the_removal() -> None:
    async with one_setup() as setup, setup.volumes.watching():
        assert await recreated_after(setup, "read_claim") < AT_MOST
