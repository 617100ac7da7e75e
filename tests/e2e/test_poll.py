"""What LINSTOR sends no event for is seen by its poll; no full reconcile by the clock runs here."""

import asyncio

from tests.e2e.conftest import MakeService
from tests.testbed.clusters import until
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

QUICK = ("--reconcile-rate=1h", "--poll-rate=500ms")
COUNT = "GET /v1/stats/resources"


async def beaten(testbed: Testbed, times: int = 1) -> None:
    """Until the poll was read so often once more."""
    wanted = testbed.world.requests[COUNT] + times

    async def read() -> bool:
        return testbed.world.requests[COUNT] >= wanted

    await until(read, "the poll is read")


async def at_rest(testbed: Testbed, service: Service) -> None:
    """Until the full reconciles of the start have ended, and something is there to compare with."""

    async def full_reconciles() -> float:
        return await service.metric("linstor_affinity_full_reconcile_seconds_count")

    before = -1.0
    while before != (now := await full_reconciles()):
        before = now
        await asyncio.sleep(1.5)
    await beaten(testbed)


async def test_a_lost_node_is_detected_without_an_event(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1", "n2"])
    await testbed.add("pvc-2", ["n2", "n3"])

    async with running(service_on(testbed, *QUICK)) as service:
        await at_rest(testbed, service)
        testbed.world.node_lost("n1")

        await testbed.until_on("pvc-1", "n2")
        await service.until_said("changed_nodes=n1")
        assert await service.metric("linstor_affinity_drift_without_event_total") == 1
    assert testbed.observer.lost == []


async def test_a_new_replica_is_detected_without_an_event(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    await fake_testbed.add("pvc-1", ["n1"])

    async with running(service_on(fake_testbed, *QUICK)) as service:
        await at_rest(fake_testbed, service)
        fake_testbed.world.place("pvc-1", "n3")

        await fake_testbed.until_on("pvc-1", "n1", "n3")


async def test_in_steady_state_polling_starts_no_full_reconcile_and_reads_nothing_else(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    await fake_testbed.add("pvc-1", ["n1"])

    async with running(service_on(fake_testbed, *QUICK)) as service:
        await at_rest(fake_testbed, service)
        before = fake_testbed.world.requests.copy()
        await beaten(fake_testbed, 4)
        asked = fake_testbed.world.requests - before

    assert set(asked) == {"GET /v1/nodes", COUNT}


async def test_polling_can_be_disabled_and_only_the_leader_polls(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    leader = service_on(fake_testbed, "--poll-rate=0", "--leader-election-id=leader")
    follower = service_on(fake_testbed, *QUICK, "--leader-election-id=follower")

    async with running(leader), running(follower):
        await asyncio.sleep(2.0)

    assert fake_testbed.world.requests[COUNT] == 0
