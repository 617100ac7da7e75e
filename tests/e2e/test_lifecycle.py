"""Starting, leading, handing over and stopping."""

import signal
from typing import Any

from tests.e2e.conftest import MakeService
from tests.testbed.clusters import until
from tests.testbed.manifests import nodes_of
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/linstor-affinity-events"
SHORT_LEASE = (
    "--leader-election-lease-duration=3s",
    "--leader-election-renew-deadline=2s",
    "--leader-election-retry-period=500ms",
)


async def holder(testbed: Testbed) -> str:
    lease = await testbed.cluster.find(LEASE)
    return "" if lease is None else str(lease["spec"].get("holderIdentity", ""))


async def test_the_lease_is_released_on_shutdown_and_the_next_instance_leads_at_once(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    first = service_on(testbed, "--leader-election-id=first")
    second = service_on(testbed, "--leader-election-id=second")

    async with running(first):
        assert await holder(testbed) == "first"
        assert await first.stop() == 0
        assert await holder(testbed) == ""
    async with running(second):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        assert await holder(testbed) == "second"


async def test_a_killed_leader_is_replaced_and_missed_changes_are_applied(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    first = service_on(testbed, "--leader-election-id=first", *SHORT_LEASE)
    second = service_on(testbed, "--leader-election-id=second", *SHORT_LEASE)

    async with running(first), running(second):
        await first.kill()
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")

        assert await holder(testbed) == "second"
        await second.until_said("volume affinity updated")


async def test_only_the_leader_writes(testbed: Testbed, service_on: MakeService) -> None:
    await testbed.add("pvc-1", ["n1"])
    first = service_on(testbed, "--leader-election-id=first")
    second = service_on(testbed, "--leader-election-id=second")

    async with running(first), running(second):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await first.until_said("volume affinity updated")

    assert "volume affinity updated" not in second.said()


async def test_sigterm_and_sigint_exit_with_0_and_leave_nothing_unfinished(
    testbed: Testbed, service_on: MakeService
) -> None:
    names = [f"pvc-{n}" for n in range(30)]
    await testbed.add_many(names, "n1")

    for number, target in ((signal.SIGTERM, "n2"), (signal.SIGINT, "n3")):
        async with running(service_on(testbed)) as service:
            testbed.world.evacuate("n1" if target == "n2" else "n2", target=target)
            await service.until_said("volume affinity updated")
            service.signal(number)
            service.signal(number)
            assert await service.ended() == 0

        assert await testbed.entries() == []
        found = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes")
        assert len(found["items"]) == len(names)
        policies = {item["spec"]["persistentVolumeReclaimPolicy"] for item in found["items"]}
        assert policies == {"Delete"}
    assert testbed.observer.lost == []


async def test_an_interrupted_replacement_is_finished_at_start_without_linstor(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    before = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")
    # Without a binder a replacement waits in its middle.
    await testbed.cluster.stop_binder()
    async with running(service_on(testbed, "--claim-guard-timeout=1m")) as service:
        testbed.world.move("pvc-1", "n1", "n2")
        await until(lambda: detached(testbed), "the volume is deleted and points away")
        await service.kill()
    await testbed.linstor.stop_listening()
    # The killed instance holds the lease until it runs out.
    await testbed.cluster.ask("DELETE", LEASE)
    await testbed.cluster.start_binder()

    successor = service_on(testbed)
    await successor.start()
    try:
        await until(lambda: finished(testbed), "the note is dropped and the volume is there")
    finally:
        await successor.kill()

    after = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")
    assert nodes_of(after) == {"n2"}
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert sorted(after["metadata"]["finalizers"]) == sorted(before["metadata"]["finalizers"])
    assert testbed.observer.lost == []


async def detached(testbed: Testbed) -> bool:
    found = await testbed.cluster.find("/api/v1/persistentvolumes/pvc-1")
    return found is not None and found["spec"]["claimRef"]["name"].startswith("gone-")


async def finished(testbed: Testbed) -> bool:
    found = await testbed.cluster.find("/api/v1/persistentvolumes/pvc-1")
    whole = found is not None and "deletionTimestamp" not in found["metadata"]
    return whole and not await testbed.entries()
