"""Decisions that real clusters ask for, with the service as a process."""

from typing import Any

import pytest

from tests.e2e.conftest import MakeService
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.manifests import ZONE
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes/pvc-1"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
OFTEN = "--reconcile-rate=1s"
DRIVER_NODES = {
    "required": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": manifests.HOSTNAME, "operator": "Exists"}]}
        ]
    }
}


async def full_reconciles(service: Service, number: int) -> None:
    name = "linstor_affinity_full_reconcile_seconds_count"
    wanted = await service.metric(name) + number

    async def ended() -> bool:
        return await service.metric(name) >= wanted

    await until(ended, f"{number} more full reconciles ended")


async def test_a_node_that_loses_a_label_widens_no_affinity(
    testbed: Testbed, service_on: MakeService
) -> None:
    testbed.place("pvc-1", ["n1"])
    await testbed.bind(
        "pvc-1", manifests.affinity({ZONE: "z1"}), storage_class=manifests.ZONE_CLASS
    )
    await testbed.until_bound("pvc-1")
    before = await testbed.cluster.ask("GET", PV)

    async with running(service_on(testbed, OFTEN)) as service:
        testbed.world.set_node_prop("n1", f"Aux/topology/{ZONE}", None)
        await service.until_said("node-without-label")
        await full_reconciles(service, 2)
        assert (await testbed.cluster.ask("GET", PV))["spec"] == before["spec"]
        assert f"n1 lacks {ZONE}" in service.said()

        testbed.world.set_node_prop("n1", f"Aux/topology/{ZONE}", "z2")
        await testbed.observer.until_terms("pvc-1", {ZONE: "z2"})


async def test_everywhere_can_be_restricted_to_nodes_with_the_driver(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"], storage_class=manifests.ANYWHERE_CLASS)
    testbed.place("pvc-2", ["n1"])
    await testbed.bind("pvc-2", None, storage_class=manifests.ANYWHERE_CLASS)
    await testbed.until_bound("pvc-2")

    async def written() -> bool:
        found = (await testbed.cluster.ask("GET", "/api/v1/persistentvolumes"))["items"]
        return [each["spec"].get("nodeAffinity") for each in found] == [DRIVER_NODES] * 2

    async with running(service_on(testbed, OFTEN, "--everywhere=driver")):
        await until(written, "both say so")
        # The next one would complete what this one has not, and count it.
        await testbed.until_nothing_is_unfinished()
    # Switching it off again is no reason to replace anything.
    async with running(service_on(testbed, OFTEN)) as service:
        await full_reconciles(service, 3)
        assert await written()
        assert await service.metric("linstor_affinity_changes_total") == 0


async def test_only_a_class_of_the_linstor_driver_counts(
    testbed: Testbed, service_on: MakeService
) -> None:
    foreign = manifests.storage_class("foreign", {"allowRemoteVolumeAccess": "true"})
    foreign["provisioner"] = "ebs.csi.aws.com"
    if await testbed.cluster.find(f"{CLASSES}/foreign") is None:
        await testbed.cluster.ask("POST", CLASSES, foreign)
    await testbed.add("pvc-1", ["n1"], storage_class="foreign")
    before = await testbed.cluster.ask("GET", PV)

    async with running(service_on(testbed, OFTEN)) as service:
        testbed.world.move_silently("pvc-1", "n1", "n2")
        await service.until_said("StorageClass 'foreign' is for another driver")
        await full_reconciles(service, 2)

    assert await testbed.cluster.ask("GET", PV) == before


@pytest.mark.parametrize("phase", ["never-bound", "released"])
async def test_an_unused_duplicate_does_not_block_the_volume(
    testbed: Testbed, service_on: MakeService, phase: str
) -> None:
    await testbed.add("pvc-1", ["n1"])
    copy = manifests.volume(
        "copy", claim=None, node_affinity=manifests.on_nodes(["n1"]), handle="pvc-1"
    )
    copy["spec"]["persistentVolumeReclaimPolicy"] = "Retain"
    if phase == "released":
        copy["spec"]["claimRef"] = {"namespace": "default", "name": "old", "uid": "gone-for-good"}
    await testbed.cluster.ask("POST", "/api/v1/persistentvolumes", copy)

    async with running(service_on(testbed, OFTEN)) as service:
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await testbed.until_bound("pvc-1")
        await full_reconciles(service, 1)

    left = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/copy")
    assert manifests.nodes_of(left) == {"n1"}
    assert testbed.observer.lost == []
