"""Reconciles: what they read, what follows, and when they are repeated."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.errors import LoginRefused, Refused, Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import SKIP_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import ClaimName, ResourceName
from linstor_affinity_events.model.placement import Definition, Placement
from tests.engine.setup import (
    PV,
    RD,
    Setup,
    bind,
    cluster_with,
    instead,
    one_setup,
    setup_on,
    until,
)
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests


@asynccontextmanager
async def one_volume(*placed: str, on: str = "n1") -> AsyncIterator[Setup]:
    """A running engine with one volume; LINSTOR has it on the nodes given."""
    async with cluster_with(PV, on=on) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(PV, *placed)
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            yield setup


async def test_a_trigger_is_reconciled_at_once() -> None:
    async with one_volume("n2") as setup:
        began = asyncio.get_running_loop().time()
        setup.queue.add(RD, source="promotion")
        await until(lambda: setup.notices.informed)

        assert setup.nodes() == {"n2"}
        assert asyncio.get_running_loop().time() - began < 0.5
        assert setup.telemetry.counted["changed replace done"] == 1


async def test_a_trigger_without_change_gets_one_recheck() -> None:
    async with one_volume("n1") as setup:
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(1.0)
        # The truth comes after the event, and there is no event for it.
        setup.linstor.place(PV, "n2")
        await asyncio.sleep(3.0)

        assert setup.nodes() == {"n2"}


async def test_without_triggers_nothing_is_read() -> None:
    async with one_volume("n1") as setup:
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(10.0)
        setup.linstor.asked.clear()
        await asyncio.sleep(3600.0)

        assert setup.linstor.asked == []


async def test_a_moving_placement_is_requeued_until_it_is_stable() -> None:
    async with one_volume("n1") as setup:
        setup.linstor.place(PV, "n1", "n2", flags={"n2": "DISKLESS DISK_ADDING"})
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(6.0)
        setup.linstor.place(PV, "n1", "n2")
        await until(lambda: setup.nodes() == {"n1", "n2"}, within=10.0)


async def test_a_deletion_that_never_ends_is_not_requeued_forever() -> None:
    async with one_volume("n1") as setup:
        setup.linstor.place(PV, "n1", "n2", flags={"n2": "DELETE DRBD_DELETE"})
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(120.0)
        setup.linstor.asked.clear()
        await asyncio.sleep(3600.0)

        assert setup.linstor.asked == []


async def test_a_skip_annotation_set_just_before_the_write_is_respected() -> None:
    async with one_volume("n2") as setup:
        before = setup.pv()["metadata"]["uid"]
        annotation = {"metadata": {"annotations": {SKIP_ANNOTATION: "yes"}}}
        setup.cluster.patch("persistentvolumes", PV, annotation)
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(5.0)

        assert setup.pv()["metadata"]["uid"] == before
        assert setup.nodes() == {"n1"}


async def test_a_refusal_is_reported_once_until_its_reason_changes() -> None:
    async with one_volume() as setup:
        for _ in range(5):
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(10.0)
        assert [why for _, _, why in setup.notices.warnings] == [
            (
                "Node affinity not updated: no replica of pvc-1 has usable data now; check it "
                "with: linstor resource list -r pvc-1. The PersistentVolume stays as it is, and "
                "is checked again automatically"
            )
        ]

        setup.linstor.known.clear()
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(10.0)

        assert len(setup.notices.warnings) == 2
        assert setup.nodes() == {"n1"}


async def test_an_unreachable_linstor_is_retried_with_backoff_until_the_volume_is_corrected() -> (
    None
):
    async with one_volume("n2") as setup:
        setup.linstor.broken = Unreachable("down")
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(60.0)
        assert 4 <= setup.linstor.asked.count("placement") <= 12
        setup.linstor.broken = None
        await until(lambda: setup.nodes() == {"n2"}, within=300.0)


async def test_a_rejected_login_is_retried_with_backoff() -> None:
    async with one_volume("n2") as setup:
        setup.linstor.broken = LoginRefused("no")
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(300.0)

        assert setup.linstor.asked.count("placement") <= 11


async def test_a_resize_that_never_ends_is_rechecked_with_backoff() -> None:
    async with one_volume("n1", "n2") as setup:
        bigger = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
        claim = f"claim-{PV}"
        setup.cluster.patch("persistentvolumeclaims", claim, bigger, namespace="default")
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(3600.0)
        assert setup.nodes() == {"n1"}
        assert setup.linstor.asked.count("placement") < 100

        setup.cluster.patch("persistentvolumes", PV, {"spec": {"capacity": {"storage": "2Gi"}}})
        await until(lambda: setup.nodes() == {"n1", "n2"}, within=61.0)
        assert setup.pv()["spec"]["capacity"] == {"storage": "2Gi"}


async def test_a_follower_writes_nothing() -> None:
    async with one_volume("n2") as setup:
        setup.leadership.leading = False
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(30.0)

        assert setup.faults.writes == []


async def test_nothing_starts_after_the_queue_is_closed() -> None:
    async with one_volume("n2") as setup:
        original = setup.linstor.placement

        async def closing(resource: ResourceName) -> Any:
            setup.queue.close()
            return await original(resource)

        instead(setup.linstor, placement=closing)
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(30.0)

        assert setup.faults.writes == []


async def test_volumes_that_no_pod_can_use_go_first() -> None:
    names = [f"pvc-{n}" for n in range(12)]
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        for name in names:
            bind(cluster, name, "n1")
            linstor.place(name, "n1", "n2")
        linstor.place("pvc-11", "n3")
        setup = setup_on(cluster, linstor)
        async with setup.at_work(workers=6):
            await asyncio.sleep(1.0)
            for name in names:
                setup.queue.add(ResourceName(name), source="promotion")
            await until(lambda: len(setup.notices.informed) == len(names))

        order = [name for name, _, _ in setup.notices.informed]
        # Two changes were in flight before it was read.
        assert order.index("pvc-11") <= 4


@pytest.mark.parametrize(
    ("binder_takes", "api_takes", "least", "most"),
    [
        pytest.param(0.05, 0.0, 2, 6, id="the binder is waited for"),
        pytest.param(0.0001, 0.2, 9, 10, id="nobody is in another's way"),
    ],
)
async def test_concurrency_is_limited_to_what_increases_throughput(
    binder_takes: float, api_takes: float, least: int, most: int
) -> None:
    names = [f"pvc-{n}" for n in range(2, 102)]
    async with cluster_with(binder_takes=binder_takes) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        for name in (PV, *names):
            bind(cluster, name, "n1")
            linstor.place(name, "n2")
        setup = setup_on(cluster, linstor, at_once=10)
        read, amidst = setup.volumes.read_claim, 0

        async def slow_read(claim: ClaimName) -> Manifest | None:
            await asyncio.sleep(api_takes)
            return await read(claim)

        instead(setup.volumes, read_claim=slow_read)
        async with setup.at_work(workers=14):
            # One by itself shows how long it takes while nobody else is in the way.
            setup.queue.add(RD, source="promotion")
            await until(lambda: len(setup.notices.informed) == 1)
            for name in names:
                setup.queue.add(ResourceName(name), source="promotion")
            await until(lambda: len(setup.notices.informed) > len(names) // 2)
            while len(setup.notices.informed) <= len(names) * 3 // 4:
                amidst = max(amidst, len(setup.replacer.unfinished.pending))
                await asyncio.sleep(0.01)

    assert least <= amidst <= most


async def test_a_node_missing_from_the_snapshot_is_read() -> None:
    async with one_volume("n1") as setup:
        setup.linstor.node_labels["n9"] = {"Aux/topology/kubernetes.io/hostname": "n9"}
        await asyncio.sleep(5.0)
        setup.linstor.place(PV, "n9")
        setup.queue.add(RD, source="promotion")
        await until(lambda: setup.nodes() == {"n9"}, within=10.0)


async def test_an_unexpected_error_ends_no_worker() -> None:
    async with one_volume("n2") as setup:
        fine = setup.linstor.placement

        async def bad(resource: ResourceName) -> Any:
            raise ZeroDivisionError

        instead(setup.linstor, placement=bad)
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(5.0)
        instead(setup.linstor, placement=fine)
        await until(lambda: setup.nodes() == {"n2"}, within=600.0)


FullReconcile = Callable[[Setup], Awaitable[None]]


async def fully_reconciled(setup: Setup, cause: str = "period") -> None:
    await setup.full_reconciler.reconcile_all(cause)
    await asyncio.sleep(5.0)


async def test_a_full_reconcile_finds_drift_without_event_and_counts_it() -> None:
    async with one_volume("n2") as setup:
        await fully_reconciled(setup)

        assert setup.nodes() == {"n2"}
        assert setup.telemetry.counted["drift period"] == 1
        assert setup.telemetry.now["change"] == 1


async def test_drift_that_is_deferred_already_is_not_counted() -> None:
    async with one_volume("n2") as setup:
        setup.queue.add(RD, after=1.0)
        await fully_reconciled(setup)

        assert setup.nodes() == {"n2"}
        assert setup.telemetry.counted["drift period"] == 0


async def test_a_full_reconcile_reads_one_by_one_for_a_while_after_a_failed_bulk_read() -> None:
    async with one_volume("n2") as setup:
        setup.linstor.bulk_broken = True
        await fully_reconciled(setup)
        await fully_reconciled(setup)
        assert setup.nodes() == {"n2"}
        assert setup.linstor.asked.count("placements") == 1

        setup.linstor.bulk_broken = False
        await asyncio.sleep(300.0)
        await fully_reconciled(setup)

        assert setup.telemetry.counted["full reconcile one by one"] == 2
        assert setup.telemetry.counted["full reconcile in bulk"] == 1


async def test_in_steady_state_a_full_reconcile_sends_three_requests_and_no_write() -> None:
    async with one_volume("n1") as setup:
        await asyncio.sleep(1.0)
        setup.linstor.asked.clear()
        await fully_reconciled(setup)

        assert setup.linstor.asked == ["nodes", "definitions", "placements"]
        assert setup.faults.writes == []


async def test_full_reconciles_run_at_the_configured_rate_and_sooner_after_missed_events() -> None:
    async with one_volume("n1") as setup:
        passing = asyncio.create_task(setup.full_reconciler.run())
        await asyncio.sleep(121.0)
        assert setup.telemetry.counted["full reconcile in bulk"] == 2
        for _ in range(50):
            setup.full_reconciler.request("node")
        await asyncio.sleep(5.0)
        assert setup.telemetry.counted["full reconcile in bulk"] == 3
        passing.cancel()


async def test_a_failed_full_reconcile_is_reported_and_retried() -> None:
    async with one_volume("n2") as setup:
        setup.linstor.broken = Unreachable("LINSTOR is away")
        setup.full_reconciler.request("start")
        passing = asyncio.create_task(setup.full_reconciler.run())
        await asyncio.sleep(20.0)
        assert failure(setup) == "LINSTOR is away"
        setup.linstor.broken = None
        await until(lambda: setup.nodes() == {"n2"})
        assert failure(setup) is None
        passing.cancel()


class Letter(dict[ResourceName, Definition]):
    """Unlike a plain dict it can be seen going."""


class Remembered(FakeLinstor):
    last: weakref.ref[Letter]
    refuses = False

    async def definitions(self) -> Letter:
        found = Letter(await super().definitions())
        self.last = weakref.ref(found)
        return found

    async def placements(self) -> Mapping[ResourceName, Placement]:
        if self.refuses:
            raise Refused("no")
        return await super().placements()

    def is_remembered(self) -> bool:
        return self.last() is not None


async def test_a_full_reconcile_retains_nothing_of_what_it_read() -> None:
    linstor = Remembered("n1")
    linstor.place(PV, "n1")
    held: list[bool] = []
    async with cluster_with(PV) as cluster:
        setup = setup_on(
            cluster, linstor, after_full_reconcile=lambda: held.append(linstor.is_remembered())
        )
        async with setup.at_work():
            passing = asyncio.create_task(setup.full_reconciler.run())
            setup.full_reconciler.request("start")
            await until(lambda: len(held) == 1)
            linstor.refuses = True
            setup.full_reconciler.request("node")
            await until(lambda: len(held) == 2)
            linstor.delay = 100.0
            await until(lambda: len(held) == 3)
            passing.cancel()

    assert held == [False] * 3


def failure(setup: Setup) -> str | None:
    return setup.full_reconciler.failure


async def test_two_volumes_in_use_with_one_handle_are_both_in_sync_and_reported_once() -> None:
    async with one_volume("n2") as setup:
        bind(setup.cluster, "copy", "n1", handle="pvc-1/00")
        await asyncio.sleep(1.0)
        for _ in range(3):
            await fully_reconciled(setup)
            await asyncio.sleep(10.0)

        assert setup.nodes() == setup.nodes("copy") == {"n2"}
        reported = sorted((name, reason) for name, reason, _ in setup.notices.warnings)
        assert reported == [("copy", "VolumeDuplicate"), (PV, "VolumeDuplicate")]


async def test_an_unused_duplicate_does_not_block_the_volume() -> None:
    async with one_volume("n2") as setup:
        copy = manifests.volume(
            "copy", claim=None, handle="pvc-1", node_affinity=manifests.on_nodes(["n1"])
        )
        setup.cluster.create("persistentvolumes", copy)
        await asyncio.sleep(1.0)
        await fully_reconciled(setup)

        assert setup.nodes() == {"n2"}
        assert setup.nodes("copy") == {"n1"}
        [(name, _, why)] = setup.notices.warnings
        assert name == "copy"
        assert f"{PV}, which refers to the same LINSTOR volume" in why


async def test_the_skip_property_of_the_definition_covers_all_its_volumes() -> None:
    async with one_volume("n2") as setup:
        setup.linstor.known[RD] = changed(setup.linstor.known[RD], skip=True)
        await fully_reconciled(setup)

        assert setup.nodes() == {"n1"}
        assert setup.notices.warnings == []


async def test_an_entry_whose_creation_had_no_response_is_resumed_at_once() -> None:
    async with one_setup("n2") as setup:
        create, lost = setup.journal.create, [True]

        async def created(entry: JournalEntry) -> JournalEntry:
            stored = await create(entry)
            if lost:
                lost.clear()
                raise Unreachable("no response")
            return stored

        instead(setup.journal, create=created)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: setup.nodes() == {"n2"}, within=10.0)

        assert setup.journal.entries == {}
