"""LINSTOR moves a replica, and the PersistentVolume's node affinity says so."""

from typing import Any

import pytest

from tests.e2e.conftest import MakeService
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.manifests import ZONE, nodes_of, preserved
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes/pvc-1"

EVERY_FIELD: Json = {
    "mountOptions": ["noatime", "discard"],
    "volumeAttributesClassName": "gold",
    "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
    "csi": {
        "driver": manifests.DRIVER,
        "volumeHandle": "pvc-1",
        "fsType": "xfs",
        "readOnly": True,
        "volumeAttributes": {"a": "b", "storage.kubernetes.io/csiProvisionerIdentity": "x"},
        "controllerPublishSecretRef": {"name": "s1", "namespace": "default"},
        "controllerExpandSecretRef": {"name": "s2", "namespace": "default"},
        "nodeStageSecretRef": {"name": "s3", "namespace": "default"},
        "nodePublishSecretRef": {"name": "s4", "namespace": "default"},
        "nodeExpandSecretRef": {"name": "s5", "namespace": "default"},
    },
}


async def test_a_moved_replica_changes_the_affinity_and_nothing_else(
    testbed: Testbed, service_on: MakeService
) -> None:
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": "1-2-3"}
    testbed.place("pvc-1", ["n1", "n2"])
    await testbed.bind("pvc-1", manifests.on_nodes(["n1", "n2"]), **EVERY_FIELD)
    await testbed.until_bound("pvc-1")
    extra = {
        "labels": {"team": "storage"},
        "annotations": {"volume.kubernetes.io/provisioner-deletion-secret-name": "s9"},
        "ownerReferences": [owner],
    }
    before = await testbed.cluster.ask("PATCH", PV, {"metadata": extra})

    async with running(service_on(testbed)) as service:
        testbed.world.move("pvc-1", "n2", "n3")
        await testbed.until_on("pvc-1", "n1", "n3")
        await testbed.until_bound("pvc-1")
        assert await service.stop() == 0

    after = await testbed.cluster.ask("GET", PV)
    assert nodes_of(after) == {"n1", "n3"}
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert preserved(after) == preserved(before)
    assert testbed.observer.lost == []
    assert await testbed.entries() == []


async def test_with_mutable_affinity_the_volume_is_patched_in_place(
    mutable_testbed: Testbed, service_on: MakeService
) -> None:
    testbed = mutable_testbed
    await testbed.add("pvc-1", ["n1", "n2"])
    before = await testbed.cluster.ask("GET", PV)

    async with running(service_on(testbed)):
        testbed.world.move("pvc-1", "n2", "n3")
        await testbed.until_on("pvc-1", "n1", "n3")
        testbed.world.move("pvc-1", "n1", "n4")
        await testbed.until_on("pvc-1", "n3", "n4")

    after = await testbed.cluster.ask("GET", PV)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert preserved(after) == preserved(before)


async def test_an_unset_affinity_is_set_in_place(testbed: Testbed, service_on: MakeService) -> None:
    testbed.place("pvc-1", ["n1"])
    await testbed.bind("pvc-1", None)
    await testbed.until_bound("pvc-1")
    before = await testbed.cluster.ask("GET", PV)

    async with running(service_on(testbed)):
        await testbed.until_on("pvc-1", "n1")

    after = await testbed.cluster.ask("GET", PV)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


async def test_an_affinity_is_removed_if_the_policy_is_everywhere(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"], storage_class=manifests.ANYWHERE_CLASS)

    async with running(service_on(testbed)):
        await testbed.observer.until_terms("pvc-1")
        await testbed.until_bound("pvc-1")

    assert "nodeAffinity" not in (await testbed.cluster.ask("GET", PV))["spec"]
    assert testbed.observer.lost == []


async def test_a_zone_rule_follows_the_zone_not_the_node(
    testbed: Testbed, service_on: MakeService
) -> None:
    testbed.place("pvc-1", ["n1"])
    zone_1 = manifests.affinity({ZONE: "z1"})
    await testbed.bind("pvc-1", zone_1, storage_class=manifests.ZONE_CLASS)
    await testbed.until_bound("pvc-1")
    before = await testbed.cluster.ask("GET", PV)

    async with running(service_on(testbed)) as service:
        testbed.world.move("pvc-1", "n1", "n3")
        await service.until_said("data_on=n3")
        within = await testbed.cluster.ask("GET", PV)
        testbed.world.move("pvc-1", "n3", "n2")
        await testbed.observer.until_terms("pvc-1", {ZONE: "z2"})

    assert within["metadata"]["uid"] == before["metadata"]["uid"]


async def test_both_volumes_of_one_definition_are_corrected(
    testbed: Testbed, service_on: MakeService
) -> None:
    testbed.place("shared", ["n1"], volumes=2)
    await testbed.bind("pvc-1", manifests.on_nodes(["n1"]), handle="shared")
    await testbed.bind("pvc-2", manifests.on_nodes(["n1"]), handle="shared/1")
    await testbed.until_bound("pvc-1")
    await testbed.until_bound("pvc-2")

    async with running(service_on(testbed)):
        testbed.world.move("shared", "n1", "n4")
        await testbed.until_on("pvc-1", "n4")
        await testbed.until_on("pvc-2", "n4")

    assert testbed.observer.lost == []


async def test_a_change_without_event_is_applied_within_one_reconcile_rate(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])

    async with running(service_on(testbed, "--reconcile-rate=1s")) as service:
        testbed.world.move_silently("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")

        assert await service.metric("linstor_affinity_drift_without_event_total") == 1


async def test_a_change_while_the_stream_was_down_is_applied_after_reconnecting(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])

    async with running(service_on(testbed, "--reconcile-rate=1h")):
        await testbed.linstor.stop_listening()
        testbed.world.move_silently("pvc-1", "n1", "n2")
        await testbed.linstor.start_listening()

        await testbed.until_on("pvc-1", "n2")


async def test_a_stream_cut_within_a_frame_is_reopened_and_misses_nothing(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])

    async with running(service_on(testbed, "--reconcile-rate=1h")):
        testbed.linstor.cut_streams(mid_frame=True)
        testbed.world.move_silently("pvc-1", "n1", "n2")

        await testbed.until_on("pvc-1", "n2")


async def test_a_hung_satellite_delays_nothing(testbed: Testbed, service_on: MakeService) -> None:
    await testbed.add("pvc-1", ["n1"])
    testbed.world.hung_satellites.add("n4")

    async with running(service_on(testbed, "--reconcile-rate=1h")):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        testbed.world.move_silently("pvc-1", "n2", "n3")
        testbed.linstor.cut_streams()

        await testbed.until_on("pvc-1", "n3")


async def test_a_replica_made_diskful_counts_without_a_final_event(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    testbed.world.place("pvc-1", "n2", diskless=True)

    async with running(service_on(testbed, "--reconcile-rate=1h")):
        testbed.world.toggle_disk("pvc-1", "n2", diskless=False)

        await testbed.until_on("pvc-1", "n1", "n2")


@pytest.mark.parametrize("number", [30])
async def test_all_volumes_of_an_evacuated_node_are_corrected(
    testbed: Testbed, service_on: MakeService, number: int
) -> None:
    names = [f"pvc-{n}" for n in range(number)]
    await testbed.add_many(names, "n1")

    async with running(service_on(testbed)) as service:
        testbed.world.evacuate("n1", target="n2")
        for name in names:
            await testbed.until_on(name, "n2")
            await testbed.until_bound(name)
        assert await service.stop() == 0

    assert testbed.observer.lost == []
    assert await testbed.entries() == []


async def test_both_volume_and_claim_get_an_event(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])

    async def reported(namespace: str) -> bool:
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        found = (await testbed.cluster.ask("GET", path))["items"]
        updated = [e["regarding"] for e in found if e["reason"] == "VolumeAffinityUpdated"]
        here = testbed.observer.volumes["pvc-1"], testbed.observer.claims["default", "claim-pvc-1"]
        return {each["metadata"]["uid"] for each in here} <= {e["uid"] for e in updated}

    async with running(service_on(testbed)):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await until(lambda: reported("default"), "volume and claim have an Event")
