"""Placements resource by resource, while a satellite hangs; cut off, it continues where it was."""

import asyncio
import tracemalloc
from collections import Counter

import pytest

from linstor_affinity_events.engine.placement_reader import REUSE_FOR, PlacementReader
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.names import ResourceName, resource_name
from linstor_affinity_events.model.placement import Placement
from tests.engine.setup import Setup, cluster_with, setup_on, until
from tests.fakes.kube_server import FakeCluster
from tests.fakes.linstor import FakeLinstor

HUNG = 0.3
"""How long a controller waits for a hung satellite before the bulk read fails."""

LIMIT = 0.7
"""How long a full reconcile may take. Reading NAMES alone, 4 at a time and 20 ms each, takes 1 s.
"""

NAMES = [f"pvc-{number:03}" for number in range(200)]


class Slow(FakeLinstor):
    """Single placements take a while, and the bulk read fails after a long one."""

    def __init__(self, *nodes: str, takes: float) -> None:
        super().__init__(*nodes)
        self.takes = takes
        self.read: Counter[ResourceName] = Counter()

    async def placement(self, resource: ResourceName) -> Placement | None:
        # As it is when LINSTOR takes the request.
        found = await super().placement(resource)
        await asyncio.sleep(self.takes)
        self.read[resource] += 1
        return found

    async def placements(self) -> dict[ResourceName, Placement]:
        await asyncio.sleep(HUNG)
        raise Unreachable("a satellite hangs")


def slow(names: list[str], *, takes: float = 0.02) -> Slow:
    linstor = Slow("n1", "n2", takes=takes)
    for name in names:
        linstor.place(name, "n1")
    return linstor


async def cut_off(view: PlacementReader, linstor: Slow, *, after: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after):
            await view.one_by_one(tuple(linstor.placed))


async def test_12000_slow_resources_are_read_within_minutes_however_often_interrupted() -> None:
    linstor = slow([f"pvc-{number}" for number in range(12_000)])
    view = PlacementReader(linstor, readers=4)
    attempts = 0
    while attempts < 5:
        attempts += 1
        try:
            async with asyncio.timeout(25.0):
                found = await view.one_by_one(tuple(linstor.placed))
            break
        except TimeoutError:
            pass

    assert attempts == 3
    assert found.placements == linstor.placed
    # The few that were under way when it was cut off were begun once more.
    assert linstor.read.total() == 12_000


async def test_more_readers_read_faster() -> None:
    async def took(readers: int) -> float:
        linstor = slow(NAMES)
        begun = asyncio.get_running_loop().time()
        await PlacementReader(linstor, readers=readers).one_by_one(tuple(linstor.placed))
        return asyncio.get_running_loop().time() - begun

    assert await took(20) == pytest.approx(await took(4) / 5)


async def test_a_failed_read_resumes_where_it_was() -> None:
    linstor = slow(NAMES)
    view = PlacementReader(linstor, readers=4)
    asyncio.get_running_loop().call_later(
        0.5, setattr, linstor, "broken", Unreachable("LINSTOR restarts")
    )
    with pytest.raises(Unreachable):
        await view.one_by_one(tuple(linstor.placed))
    linstor.broken = None

    await view.one_by_one(tuple(linstor.placed))

    assert linstor.read.total() == len(NAMES)


async def test_after_a_complete_read_the_next_one_starts_from_scratch() -> None:
    linstor = slow(NAMES)
    view = PlacementReader(linstor, readers=4)
    await view.one_by_one(tuple(linstor.placed))

    await view.one_by_one(tuple(linstor.placed))

    assert set(linstor.read.values()) == {2}


async def test_outdated_placements_are_read_again() -> None:
    linstor = slow(NAMES)
    view = PlacementReader(linstor, readers=4)
    await cut_off(view, linstor, after=0.5)
    early = set(linstor.read)
    await asyncio.sleep(REUSE_FOR)
    for name in NAMES:
        linstor.place(name, "n2")

    found = await view.one_by_one(tuple(linstor.placed))

    assert early
    assert found.placements == linstor.placed


async def test_a_resource_triggered_after_it_was_read_is_read_again() -> None:
    linstor = slow(NAMES)
    view = PlacementReader(linstor, readers=4)
    await cut_off(view, linstor, after=0.5)
    moved = next(iter(linstor.read))
    linstor.place(moved, "n2")
    view.invalidate(moved)

    found = await view.one_by_one(tuple(linstor.placed))

    assert found.placements[moved] == linstor.placed[moved]
    assert linstor.read[moved] == 2


async def test_a_resource_triggered_while_others_are_read_is_read_again() -> None:
    linstor = slow(NAMES)
    view = PlacementReader(linstor, readers=4)
    moved = resource_name(NAMES[0])

    async def move() -> None:
        await asyncio.sleep(0.5)
        linstor.place(moved, "n2")
        view.invalidate(moved)

    _, found = await asyncio.gather(move(), view.one_by_one(tuple(linstor.placed)))

    assert found.placements[moved] == linstor.placed[moved]


async def test_events_about_ever_new_names_take_no_memory_while_placements_are_read() -> None:
    linstor = slow(NAMES)
    view = PlacementReader(linstor, readers=4)
    reading = asyncio.create_task(view.one_by_one(tuple(linstor.placed)))
    await asyncio.sleep(0.1)

    tracemalloc.start()
    for number in range(10_000):
        view.invalidate(resource_name(f"made-up-{number}".ljust(255, "x")))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert used < 100_000
    assert (await reading).placements == linstor.placed


async def test_a_resource_unknown_to_linstor_is_read_once() -> None:
    linstor = slow(NAMES)
    gone = resource_name("pvc-gone")

    found = await PlacementReader(linstor, readers=4).one_by_one((*linstor.placed, gone))

    assert gone not in found.placements
    assert linstor.read[gone] == 1


def slow_setup(cluster: FakeCluster, linstor: Slow) -> Setup:
    return setup_on(cluster, linstor, limit=LIMIT, readers=4)


async def test_a_full_reconcile_slower_than_its_timeout_completes() -> None:
    linstor = slow(NAMES)
    linstor.place(NAMES[-1], "n2")
    async with cluster_with(*NAMES) as cluster:
        setup = slow_setup(cluster, linstor)
        async with setup.at_work():
            passing = asyncio.create_task(setup.full_reconciler.run())
            setup.full_reconciler.request("start")

            await until(lambda: setup.full_reconciler.last is not None, within=120.0)
            await until(lambda: setup.nodes(NAMES[-1]) == {"n2"}, within=30.0)
            passing.cancel()

        assert setup.telemetry.counted["full reconcile one by one"] >= 1
        assert setup.telemetry.counted["failed full reconcile TimeoutError"] >= 1


async def test_events_missed_during_a_resumed_full_reconcile_cause_another_one() -> None:
    linstor = slow(NAMES)
    async with cluster_with(*NAMES) as cluster:
        setup = slow_setup(cluster, linstor)
        async with setup.at_work():
            passing = asyncio.create_task(setup.full_reconciler.run())
            setup.full_reconciler.request("start")
            await until(lambda: linstor.read.total() > 50, within=30.0)
            moved = next(iter(linstor.read))
            # Nobody was notified: the stream was broken, and is open again.
            linstor.place(moved, "n2")
            setup.full_reconciler.request("promotion stream opened")

            # Sooner than the next periodic full reconcile.
            await until(lambda: setup.nodes(moved) == {"n2"}, within=30.0)
            passing.cancel()
