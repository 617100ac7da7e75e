"""Admission policies that change volumes: what they add is part of a volume, and what they alter
has nothing replaced without end.
"""

from typing import Any

import pytest

from tests.faults.mutations import AFFINITY_ON_CREATE, LABELS_ON_UPDATE, mutating
from tests.faults.test_admission import full_reconciles, warnings
from tests.testbed.clusters import until
from tests.testbed.fixtures import MakeService
from tests.testbed.manifests import nodes_of, preserved
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes/pvc-1"
OFTEN = "--reconcile-rate=1s"


async def test_labels_that_a_policy_adds_on_update_are_part_of_the_volume(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    before = await testbed.cluster.ask("GET", PV)

    async with (
        mutating(testbed.cluster, LABELS_ON_UPDATE),
        running(service_on(testbed, OFTEN)) as service,
    ):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await testbed.until_bound("pvc-1")
        assert await service.stop() == 0

    after = await testbed.cluster.ask("GET", PV)
    assert after["metadata"]["labels"] == {"policy": "seen"}
    assert after["metadata"]["annotations"].pop("policy.example.com/seen") == "yes"
    del after["metadata"]["labels"]
    assert preserved(after) == preserved(before)
    assert testbed.observer.lost == []
    assert await testbed.entries() == []


async def test_an_affinity_changed_by_a_policy_on_creation_is_reported_and_accepted(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])

    async with (
        running(service_on(testbed, OFTEN)) as service,
        mutating(testbed.cluster, AFFINITY_ON_CREATE),
    ):
        testbed.world.move("pvc-1", "n1", "n2")
        await service.until_said("volume not updated")
        await full_reconciles(service, 2)
        left = await testbed.cluster.ask("GET", PV)
        await full_reconciles(service, 3)

        assert await testbed.cluster.ask("GET", PV) == left
        assert nodes_of(left) == {"elsewhere"}
        incarnations = {
            observed.manifest["metadata"]["uid"] for observed in testbed.observer.history["pvc-1"]
        }
        assert len(incarnations) == 2
        assert await service.metric("linstor_affinity_volumes_held_back") == 1
        reported = await warnings(testbed, "VolumeAffinityNotUpdated")
        assert any("but is linbit.com/hostname=elsewhere now" in why for _, _, why in reported)
        assert service.said().count("volume not updated") == 1
        assert await testbed.entries() == []


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_an_affinity_changed_by_a_policy_on_creation_is_corrected_once_the_policy_is_gone(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])

    async with running(service_on(testbed, OFTEN)) as service:
        async with mutating(testbed.cluster, AFFINITY_ON_CREATE):
            testbed.world.move("pvc-1", "n1", "n2")
            await service.until_said("volume not updated")
            assert await service.metric("linstor_affinity_volumes_held_back") == 1

        await testbed.until_on("pvc-1", "n2", within=90.0)
        await testbed.until_bound("pvc-1")

        async def released() -> bool:
            return await service.metric("linstor_affinity_volumes_held_back") == 0

        await until(released, "nothing is held back any more", within=250.0)
