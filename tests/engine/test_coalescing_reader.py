"""Very many looks at once."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from linstor_affinity_events.engine.coalescing_reader import SMALLEST
from linstor_affinity_events.engine.keyed_queue import Priority
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.names import ResourceName, resource_name
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement
from tests.engine.setup import Setup, cluster_with, instead, setup_on
from tests.fakes.linstor import FakeLinstor

MANY = 3 * SMALLEST
NAMES = [f"pvc-{number:03}" for number in range(MANY)]
FEW = 60
"""Single looks that workers may have while a crowd gathers and is read."""


@asynccontextmanager
async def crowded_house(names: Sequence[str] = NAMES, *, workers: int = 3) -> AsyncIterator[Setup]:
    """Very many volumes on n1, a LINSTOR that takes its time, and all parts at work."""
    linstor = FakeLinstor("n1", "n2")
    for name in names:
        linstor.place(name, "n1")
    async with cluster_with(*names) as cluster:
        setup = setup_on(cluster, linstor)
        async with setup.at_work(workers):
            linstor.delay = 0.05
            linstor.asked.clear()
            yield setup


def hint_all(setup: Setup) -> None:
    for name in NAMES:
        setup.queue.add(resource_name(name), source="promotion")


def single_looks(setup: Setup) -> int:
    return setup.linstor.asked.count("placement")


async def test_many_hints_that_mean_nothing_are_answered_by_a_few_bulk_reads() -> None:
    async with crowded_house() as setup:
        hint_all(setup)
        hint_all(setup)
        await asyncio.sleep(1.5)

        assert len(setup.queue) == setup.queue.due_reads() + MANY
        assert setup.linstor.asked.count("placements") == 1
        await asyncio.sleep(3.0)

        # The second looks came as well, and nothing waits for more.
        assert len(setup.queue) == 0
        assert setup.linstor.asked.count("placements") == 2
        assert setup.linstor.asked.count("definitions") == 2
        assert single_looks(setup) <= FEW
        assert setup.telemetry.counted["batched reconciles"] >= 2 * MANY - FEW
        assert setup.telemetry.counted["done replace"] == 0


async def test_what_has_moved_among_many_is_set_right() -> None:
    async with crowded_house() as setup:
        for name in NAMES[::50]:
            setup.linstor.place(name, "n2")
        hint_all(setup)
        await asyncio.sleep(10.0)

        for name in NAMES:
            wanted = {"n2"} if name in NAMES[::50] else {"n1"}
            assert setup.nodes(name) == wanted, name
        assert single_looks(setup) <= FEW + len(NAMES[::50])


async def test_what_is_told_while_everything_is_read_is_looked_at_afterwards() -> None:
    async with crowded_house() as setup:
        late = ResourceName(NAMES[MANY // 2])
        read = setup.linstor.placements

        async def placements() -> Mapping[ResourceName, Placement]:
            found = await read()
            if "n2" not in {r.node for r in setup.linstor.placed[late].replicas}:
                setup.linstor.place(late, "n2")
                setup.queue.add(late, source="promotion")
            return found

        instead(setup.linstor, placements=placements)
        # It is in the midst of the row, so no worker gets to it before the read is over.
        hint_all(setup)
        setup.queue.add(late, source="promotion")
        await asyncio.sleep(1.0)

        assert setup.nodes(late) == {"n2"}


async def test_a_crowd_for_which_no_bulk_read_is_to_be_had_is_looked_at_one_by_one() -> None:
    async with crowded_house() as setup:
        setup.linstor.bulk_broken = True
        setup.linstor.place(NAMES[-1], "n2")
        hint_all(setup)
        await asyncio.sleep(60.0)

        assert setup.nodes(NAMES[-1]) == {"n2"}
        assert len(setup.queue) == 0
        # Each was looked at twice, but for the one that had changed.
        assert single_looks(setup) >= 2 * MANY - 1
        assert setup.linstor.asked.count("placements") == 1


async def test_a_resource_that_a_bulk_read_lacks_gets_a_look_of_its_own() -> None:
    async with crowded_house() as setup:
        lacking = ResourceName(NAMES[MANY // 2])
        read = setup.linstor.placements

        async def placements() -> Mapping[ResourceName, Placement]:
            return {k: v for k, v in (await read()).items() if k != lacking}

        instead(setup.linstor, placements=placements)
        hint_all(setup)
        await asyncio.sleep(10.0)

        assert setup.reporter.out_of_sync == {}
        assert setup.notices.warnings == []


async def test_some_looks_are_no_crowd() -> None:
    async with crowded_house() as setup:
        for name in NAMES[: SMALLEST - 1]:
            setup.queue.add(resource_name(name), source="promotion")
        await asyncio.sleep(20.0)

        assert "placements" not in setup.linstor.asked
        assert single_looks(setup) == 2 * (SMALLEST - 1)


async def test_an_unfinished_replacement_in_a_crowd_is_brought_to_its_end() -> None:
    async with crowded_house() as setup:
        name = NAMES[MANY // 2]
        setup.linstor.place(name, "n2")
        setup.faults.refuse("create")
        setup.queue.add(resource_name(name), priority=Priority.RECONCILE, source="promotion")
        await asyncio.sleep(3.0)
        setup.faults.allow("create")
        hint_all(setup)
        await asyncio.sleep(30.0)

        assert setup.nodes(name) == {"n2"}
        assert setup.journal.kept == {}


async def test_an_outage_while_a_crowd_waits_is_not_taken_for_a_satellite_that_hangs() -> None:
    async with crowded_house() as setup:
        setup.linstor.delay = 0.5
        hint_all(setup)
        await asyncio.sleep(0.3)
        setup.linstor.broken = Unreachable("connection refused")
        await asyncio.sleep(5.0)
        setup.linstor.broken, setup.linstor.delay = None, 0.0

        await setup.full_reconciler.reconcile_all("promotion stream opened")

        assert setup.full_reconciler.last is not None
        assert setup.full_reconciler.last.bulk


async def test_what_changes_between_a_read_and_a_second_look_is_seen_by_that_look() -> None:
    async with crowded_house() as setup:
        setup.linstor.delay = 0.0
        late = [resource_name(name) for name in NAMES[-SMALLEST + 1 :]]
        for resource in late:
            setup.queue.add(resource, source="promotion")
        await asyncio.sleep(1.0)
        read = setup.linstor.placements

        async def slow() -> Mapping[ResourceName, Placement]:
            found = await read()
            await asyncio.sleep(3.0)
            return found

        instead(setup.linstor, placements=slow)
        setup.linstor.delay = 0.05
        for name in NAMES[: -len(late)]:
            setup.queue.add(resource_name(name), source="promotion")
        await asyncio.sleep(0.9)
        for resource in late:
            setup.linstor.place(resource, "n2")
        await asyncio.sleep(50.0)

        assert [r for r in late if setup.nodes(r) != {"n2"}] == []


async def test_what_no_bulk_read_can_answer_is_not_tried_that_way_again() -> None:
    async with crowded_house() as setup:
        setup.linstor.placed.clear()
        hint_all(setup)
        await asyncio.sleep(15.0)

        assert single_looks(setup) >= MANY
        assert setup.linstor.asked.count("placements") <= 2


async def test_nodes_that_are_not_to_be_had_hold_up_no_crowd() -> None:
    async with crowded_house() as setup:
        for name in NAMES:
            setup.linstor.place(name, "n1", "n3")

        async def nodes() -> Nodes:
            await asyncio.sleep(10.0)
            raise Unreachable("timed out")

        instead(setup.linstor, nodes=nodes)
        hint_all(setup)
        await asyncio.sleep(60.0)

        assert setup.queue.processing <= 3


async def test_a_look_that_failed_and_was_answered_in_a_crowd_has_failed_no_more() -> None:
    async with crowded_house() as setup:
        setup.linstor.broken = Unreachable("connection refused")
        for name in NAMES[: SMALLEST - 1]:
            setup.queue.add(resource_name(name), source="promotion")
        await asyncio.sleep(3.0)
        failing = setup.reconciler.remembered()
        setup.linstor.broken, setup.linstor.delay = None, 0.5
        hint_all(setup)
        await asyncio.sleep(600.0)

        assert failing > 0
        assert setup.reconciler.remembered() == 0


async def test_no_volume_is_changed_by_what_a_bulk_read_says_alone() -> None:
    """The replica moves on in the midst of the crowd, and nobody tells."""
    async with crowded_house() as setup:
        moving = ResourceName(NAMES[MANY // 2])
        setup.linstor.place(moving, "n2")
        read = setup.linstor.placements

        async def placements() -> Mapping[ResourceName, Placement]:
            found = await read()
            setup.linstor.place(moving, "n1")
            return found

        instead(setup.linstor, placements=placements)
        hint_all(setup)
        await asyncio.sleep(10.0)

        assert setup.nodes(moving) == {"n1"}
        assert setup.telemetry.counted["done replace"] == 0


async def test_a_change_does_not_wait_for_hints_to_cease() -> None:
    async with crowded_house(workers=1) as setup:
        setup.linstor.place(NAMES[0], "n2")
        for _ in range(100):
            hint_all(setup)
            await asyncio.sleep(0.05)

        assert setup.nodes(NAMES[0]) == {"n2"}


async def test_few_look_alone_while_everything_is_read() -> None:
    async with crowded_house(workers=10) as setup:
        read = setup.linstor.placements

        async def slow() -> Mapping[ResourceName, Placement]:
            await asyncio.sleep(3.0)
            return await read()

        instead(setup.linstor, placements=slow)
        hint_all(setup)
        await asyncio.sleep(3.0)

        assert 10 < single_looks(setup) < SMALLEST


async def test_a_saved_volume_is_read_alone() -> None:
    async with crowded_house() as setup:
        saved = ResourceName(NAMES[MANY // 2])
        read = setup.linstor.definitions

        async def definitions() -> Mapping[ResourceName, Definition]:
            found = dict(await read())
            return {**found, saved: replace(found[saved], saved={0: "{}"})}

        instead(setup.linstor, definitions=definitions)
        taken = list[Definition]()

        async def take_over(definition: Definition) -> None:
            taken.append(definition)

        instead(setup.reconciler._saved_volumes, take_over=take_over)
        hint_all(setup)
        await asyncio.sleep(10.0)

        assert taken == []


async def test_what_is_too_new_for_a_bulk_read_waits_for_the_next_one() -> None:
    """The queue returns the latest triggers in between, which must not be read one by one."""
    names = [f"pvc-{number:04}" for number in range(10 * SMALLEST)]
    async with crowded_house(names, workers=10) as setup:
        read, again = setup.linstor.placements, names[::2]

        async def placements() -> Mapping[ResourceName, Placement]:
            found = await read()
            # Half of them are triggered again while everything is read.
            for name in again:
                setup.queue.add(resource_name(name), source="promotion")
            again.clear()
            return found

        instead(setup.linstor, placements=placements)
        for name in names:
            setup.queue.add(resource_name(name), source="promotion")
        await asyncio.sleep(2.0)

        assert setup.linstor.asked.count("placements") == 2
        assert single_looks(setup) <= 2 * SMALLEST
