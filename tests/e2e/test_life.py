"""Starting, leading, handing over and stopping."""

import signal
from typing import Any

from tests.e2e.conftest import MakeService
from tests.stage.clusters import until
from tests.stage.manifests import nodes_of
from tests.stage.service import running
from tests.stage.stage import Stage

Json = dict[str, Any]

LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/linstor-affinity-events"
SHORT_LEASE = (
    "--leader-election-lease-duration=3s",
    "--leader-election-renew-deadline=2s",
    "--leader-election-retry-period=500ms",
)


async def holder(stage: Stage) -> str:
    lease = await stage.cluster.find(LEASE)
    return "" if lease is None else str(lease["spec"].get("holderIdentity", ""))


async def test_the_lease_is_released_on_shutdown_and_the_next_instance_leads_at_once(
    stage: Stage, service_on: MakeService
) -> None:
    await stage.add("pvc-1", ["n1"])
    first = service_on(stage, "--leader-election-id=first")
    second = service_on(stage, "--leader-election-id=second")

    async with running(first):
        assert await holder(stage) == "first"
        assert await first.stop() == 0
        assert await holder(stage) == ""
    async with running(second):
        stage.world.move("pvc-1", "n1", "n2")
        await stage.until_on("pvc-1", "n2")
        assert await holder(stage) == "second"


async def test_a_killed_leader_is_replaced_and_missed_changes_are_applied(
    stage: Stage, service_on: MakeService
) -> None:
    await stage.add("pvc-1", ["n1"])
    first = service_on(stage, "--leader-election-id=first", *SHORT_LEASE)
    second = service_on(stage, "--leader-election-id=second", *SHORT_LEASE)

    async with running(first), running(second):
        await first.kill()
        stage.world.move("pvc-1", "n1", "n2")
        await stage.until_on("pvc-1", "n2")

        assert await holder(stage) == "second"
        await second.until_said("volume affinity updated")


async def test_only_the_leader_writes(stage: Stage, service_on: MakeService) -> None:
    await stage.add("pvc-1", ["n1"])
    first = service_on(stage, "--leader-election-id=first")
    second = service_on(stage, "--leader-election-id=second")

    async with running(first), running(second):
        stage.world.move("pvc-1", "n1", "n2")
        await stage.until_on("pvc-1", "n2")
        await first.until_said("volume affinity updated")

    assert "volume affinity updated" not in second.said()


async def test_sigterm_and_sigint_exit_with_0_and_leave_nothing_unfinished(
    stage: Stage, service_on: MakeService
) -> None:
    names = [f"pvc-{n}" for n in range(30)]
    await stage.add_many(names, "n1")

    for number, target in ((signal.SIGTERM, "n2"), (signal.SIGINT, "n3")):
        async with running(service_on(stage)) as service:
            stage.world.evacuate("n1" if target == "n2" else "n2", target=target)
            await service.until_said("volume affinity updated")
            service.signal(number)
            service.signal(number)
            assert await service.ended() == 0

        assert await stage.entries() == []
        found = await stage.cluster.ask("GET", "/api/v1/persistentvolumes")
        assert len(found["items"]) == len(names)
        policies = {item["spec"]["persistentVolumeReclaimPolicy"] for item in found["items"]}
        assert policies == {"Delete"}
    assert stage.observer.lost == []


async def test_an_interrupted_replacement_is_finished_at_start_without_linstor(
    stage: Stage, service_on: MakeService
) -> None:
    await stage.add("pvc-1", ["n1"])
    before = await stage.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")
    # Without a binder a replacement waits in its middle.
    await stage.cluster.stop_binder()
    async with running(service_on(stage, "--claim-guard-timeout=1m")) as service:
        stage.world.move("pvc-1", "n1", "n2")
        await until(lambda: pointed_away(stage), "the volume is deleted and points away")
        await service.kill()
    await stage.linstor.stop_listening()
    # The killed instance holds the lease until it runs out.
    await stage.cluster.ask("DELETE", LEASE)
    await stage.cluster.start_binder()

    successor = service_on(stage)
    await successor.start()
    try:
        await until(lambda: finished(stage), "the note is dropped and the volume is there")
    finally:
        await successor.kill()

    after = await stage.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")
    assert nodes_of(after) == {"n2"}
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert sorted(after["metadata"]["finalizers"]) == sorted(before["metadata"]["finalizers"])
    assert stage.observer.lost == []


async def pointed_away(stage: Stage) -> bool:
    found = await stage.cluster.find("/api/v1/persistentvolumes/pvc-1")
    return found is not None and found["spec"]["claimRef"]["name"].startswith("gone-")


async def finished(stage: Stage) -> bool:
    found = await stage.cluster.find("/api/v1/persistentvolumes/pvc-1")
    whole = found is not None and "deletionTimestamp" not in found["metadata"]
    return whole and not await stage.entries()
