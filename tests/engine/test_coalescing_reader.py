"""Very many reconciles at once."""

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
"""Single reads that workers may do while a batch gathers and is read."""


@asynccontextmanager
async def many_volumes(names: Sequence[str] = NAMES, *, workers: int = 3) -> AsyncIterator[Setup]:
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


def trigger_all(setup: Setup) -> None:
    for name in NAMES:
        setup.queue.add(resource_name(name), source="promotion")


def single_reads(setup: Setup) -> int:
    return setup.linstor.asked.count("placement")


async def test_many_triggers_without_changes_are_served_by_a_few_bulk_reads() -> None:
    async with many_volumes() as setup:
        trigger_all(setup)
        trigger_all(setup)
        await asyncio.sleep(1.5)

        assert len(setup.queue) == setup.queue.due_reads() + MANY
        assert setup.linstor.asked.count("placements") == 1
        await asyncio.sleep(3.0)

        # The rechecks came as well, and nothing waits for more.
        assert len(setup.queue) == 0
        assert setup.linstor.asked.count("placements") == 2
        assert setup.linstor.asked.count("definitions") == 2
        assert single_reads(setup) <= FEW
        assert setup.telemetry.counted["batched reconciles"] >= 2 * MANY - FEW
        assert setup.telemetry.counted["done replace"] == 0


async def test_moved_volumes_in_a_batch_are_corrected() -> None:
    async with many_volumes() as setup:
        for name in NAMES[::50]:
            setup.linstor.place(name, "n2")
        trigger_all(setup)
        await asyncio.sleep(10.0)

        for name in NAMES:
            wanted = {"n2"} if name in NAMES[::50] else {"n1"}
            assert setup.nodes(name) == wanted, name
        assert single_reads(setup) <= FEW + len(NAMES[::50])


async def test_triggers_during_a_bulk_read_are_reconciled_afterwards() -> None:
    async with many_volumes() as setup:
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
        trigger_all(setup)
        setup.queue.add(late, source="promotion")
        await asyncio.sleep(1.0)

        assert setup.nodes(late) == {"n2"}


async def test_a_batch_is_reconciled_one_by_one_if_the_bulk_read_fails() -> None:
    async with many_volumes() as setup:
        setup.linstor.bulk_broken = True
        setup.linstor.place(NAMES[-1], "n2")
        trigger_all(setup)
        await asyncio.sleep(60.0)

        assert setup.nodes(NAMES[-1]) == {"n2"}
        assert len(setup.queue) == 0
        # Each was reconciled twice, but for the one that had changed.
        assert single_reads(setup) >= 2 * MANY - 1
        assert setup.linstor.asked.count("placements") == 1


async def test_a_resource_missing_from_a_bulk_read_is_read_separately() -> None:
    async with many_volumes() as setup:
        lacking = ResourceName(NAMES[MANY // 2])
        read = setup.linstor.placements

        async def placements() -> Mapping[ResourceName, Placement]:
            return {k: v for k, v in (await read()).items() if k != lacking}

        instead(setup.linstor, placements=placements)
        trigger_all(setup)
        await asyncio.sleep(10.0)

        assert setup.reporter.out_of_sync == {}
        assert setup.notices.warnings == []


async def test_a_resource_that_is_too_large_in_a_bulk_read_is_read_separately() -> None:
    async with many_volumes() as setup:
        large = ResourceName(NAMES[MANY // 2])
        read = setup.linstor.placements

        async def placements() -> Mapping[ResourceName, Placement]:
            return {**await read(), large: Placement(large, unreadable=True)}

        instead(setup.linstor, placements=placements)
        trigger_all(setup)
        await asyncio.sleep(10.0)

        assert setup.reporter.out_of_sync == {}
        assert setup.notices.warnings == []


async def test_a_few_reconciles_need_no_bulk_read() -> None:
    async with many_volumes() as setup:
        for name in NAMES[: SMALLEST - 1]:
            setup.queue.add(resource_name(name), source="promotion")
        await asyncio.sleep(20.0)

        assert "placements" not in setup.linstor.asked
        assert single_reads(setup) == 2 * (SMALLEST - 1)


async def test_an_unfinished_replacement_in_a_batch_is_finished() -> None:
    async with many_volumes() as setup:
        name = NAMES[MANY // 2]
        setup.linstor.place(name, "n2")
        setup.faults.refuse("create")
        setup.queue.add(resource_name(name), priority=Priority.RECONCILE, source="promotion")
        await asyncio.sleep(3.0)
        setup.faults.allow("create")
        trigger_all(setup)
        await asyncio.sleep(30.0)

        assert setup.nodes(name) == {"n2"}
        assert setup.journal.entries == {}


async def test_an_outage_during_a_batch_is_not_mistaken_for_a_hung_satellite() -> None:
    async with many_volumes() as setup:
        setup.linstor.delay = 0.5
        trigger_all(setup)
        await asyncio.sleep(0.3)
        setup.linstor.broken = Unreachable("connection refused")
        await asyncio.sleep(5.0)
        setup.linstor.broken, setup.linstor.delay = None, 0.0

        await setup.full_reconciler.reconcile_all("promotion stream opened")

        assert setup.full_reconciler.last is not None
        assert setup.full_reconciler.last.bulk


async def test_a_change_between_a_read_and_its_recheck_is_seen_by_the_recheck() -> None:
    async with many_volumes() as setup:
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


async def test_after_a_failed_bulk_read_resources_are_read_separately() -> None:
    async with many_volumes() as setup:
        setup.linstor.placed.clear()
        trigger_all(setup)
        await asyncio.sleep(15.0)

        assert single_reads(setup) >= MANY
        assert setup.linstor.asked.count("placements") <= 2


async def test_unavailable_nodes_do_not_block_a_batch() -> None:
    async with many_volumes() as setup:
        for name in NAMES:
            setup.linstor.place(name, "n1", "n3")

        async def nodes() -> Nodes:
            await asyncio.sleep(10.0)
            raise Unreachable("timed out")

        instead(setup.linstor, nodes=nodes)
        trigger_all(setup)
        await asyncio.sleep(60.0)

        assert setup.queue.processing <= 3


async def test_a_failed_reconcile_that_succeeds_in_a_batch_is_no_longer_failing() -> None:
    async with many_volumes() as setup:
        setup.linstor.broken = Unreachable("connection refused")
        for name in NAMES[: SMALLEST - 1]:
            setup.queue.add(resource_name(name), source="promotion")
        await asyncio.sleep(3.0)
        failing = setup.reconciler.remembered()
        setup.linstor.broken, setup.linstor.delay = None, 0.5
        trigger_all(setup)
        await asyncio.sleep(600.0)

        assert failing > 0
        assert setup.reconciler.remembered() == 0


async def test_no_volume_is_changed_because_of_a_bulk_read_alone() -> None:
    """The replica moves on in the midst of the batch, and there is no event."""
    async with many_volumes() as setup:
        moving = ResourceName(NAMES[MANY // 2])
        setup.linstor.place(moving, "n2")
        read = setup.linstor.placements

        async def placements() -> Mapping[ResourceName, Placement]:
            found = await read()
            setup.linstor.place(moving, "n1")
            return found

        instead(setup.linstor, placements=placements)
        trigger_all(setup)
        await asyncio.sleep(10.0)

        assert setup.nodes(moving) == {"n1"}
        assert setup.telemetry.counted["done replace"] == 0


async def test_a_change_does_not_wait_until_triggers_stop() -> None:
    async with many_volumes(workers=1) as setup:
        setup.linstor.place(NAMES[0], "n2")
        for _ in range(100):
            trigger_all(setup)
            await asyncio.sleep(0.05)

        assert setup.nodes(NAMES[0]) == {"n2"}


async def test_few_single_reads_run_during_a_bulk_read() -> None:
    async with many_volumes(workers=10) as setup:
        read = setup.linstor.placements

        async def slow() -> Mapping[ResourceName, Placement]:
            await asyncio.sleep(3.0)
            return await read()

        instead(setup.linstor, placements=slow)
        trigger_all(setup)
        await asyncio.sleep(3.0)

        assert 10 < single_reads(setup) < SMALLEST


async def test_a_resource_with_a_saved_pv_is_read_separately() -> None:
    async with many_volumes() as setup:
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
        trigger_all(setup)
        await asyncio.sleep(10.0)

        assert taken == []


async def test_a_resource_triggered_after_a_bulk_read_began_waits_for_the_next_one() -> None:
    """The queue returns the latest triggers in between, which must not be read one by one."""
    names = [f"pvc-{number:04}" for number in range(10 * SMALLEST)]
    async with many_volumes(names, workers=10) as setup:
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
        assert single_reads(setup) <= 2 * SMALLEST
