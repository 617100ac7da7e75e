"""A claim that the real provisioner and LINBIT's driver serve, as the service finds its volume."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.csi import LATER_CLASS, NOW_CLASS, TWO_CLASS, CsiTestbed
from tests.testbed.fixtures import MakeService
from tests.testbed.manifests import nodes_of
from tests.testbed.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real]

RECORDED = (
    Path(__file__).parents[1] / "data" / "kubernetes" / "persistentvolume-linstor-csi-1.6.json"
)
OF_ONE_RUN = {"name", "uid", "resourceVersion", "creationTimestamp", "managedFields"}


@pytest.mark.parametrize(("storage_class", "replicas"), [(NOW_CLASS, 1), (TWO_CLASS, 2)])
async def test_a_volume_provisioned_by_the_driver_is_in_sync(
    csi_testbed: CsiTestbed, service_on: MakeService, storage_class: str, replicas: int
) -> None:
    """Two replicas have a tie breaker beside them, which is no place for a pod."""
    testbed = csi_testbed.testbed
    await csi_testbed.claim("c1", storage_class=storage_class)
    made = await csi_testbed.bound_volume("c1")
    name = made["metadata"]["name"]
    placed = testbed.world.definition(name).replicas.values()
    assert nodes_of(made) == {replica.node.name for replica in placed if replica.diskful}
    assert len(nodes_of(made)) == replicas
    assert len(placed) == {1: 1, 2: 3}[replicas]

    async with running(service_on(testbed, "--reconcile-rate=1s")) as service:
        testbed.world.send_current_state()
        await service.until_said(f"resource={name}")

        said = [line for line in service.said().splitlines() if name in line]
        assert [line for line in said if "DEBUG" not in line] == []

    after = await testbed.cluster.ask("GET", f"/api/v1/persistentvolumes/{name}")
    assert after["metadata"]["uid"] == made["metadata"]["uid"]
    assert after["spec"] == made["spec"]
    assert testbed.world.requests["GET (unknown)"] == 0


async def test_the_recorded_volume_equals_one_provisioned_by_the_driver(
    csi_testbed: CsiTestbed,
) -> None:
    """Tests without these programs know it from a file, which must not grow old."""
    await csi_testbed.claim("c1")

    made = lasting(await csi_testbed.bound_volume("c1"))

    assert made == lasting(json.loads(RECORDED.read_text()))


async def test_a_volume_is_provisioned_and_attached_where_its_pod_is_scheduled(
    csi_testbed: CsiTestbed, service_on: MakeService
) -> None:
    testbed = csi_testbed.testbed
    async with running(service_on(testbed)) as service:
        await csi_testbed.claim("c1", storage_class=LATER_CLASS)
        await csi_testbed.pods.add("p1", "c1")
        node = await csi_testbed.pods.until_scheduled("p1")
        made = await csi_testbed.bound_volume("c1")
        name = made["metadata"]["name"]
        attachment = await csi_testbed.until_attached(name, node)
        assert nodes_of(made) == {node}
        reported = attachment["status"]["attachmentMetadata"]
        assert reported["linstor.csi.linbit.com/device-path"] == "/dev/drbd1000"

        await csi_testbed.pods.delete("p1")
        await csi_testbed.until_detached(name, node)
        assert "volume affinity updated" not in service.said()


def lasting(volume: dict[str, Any]) -> dict[str, Any]:
    """What is the same each time a volume is made for a claim of this name."""
    shown = json.loads(json.dumps(volume))
    metadata, spec = shown["metadata"], shown["spec"]
    shown["metadata"] = {k: v for k, v in metadata.items() if k not in OF_ONE_RUN}
    shown["metadata"]["finalizers"].sort()
    assert spec["csi"].pop("volumeHandle") == metadata["name"]
    del spec["csi"]["volumeAttributes"]["storage.kubernetes.io/csiProvisionerIdentity"]
    for of_one_run in ("uid", "resourceVersion"):
        del spec["claimRef"][of_one_run]
    (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    term["matchExpressions"][0]["values"] = ["some node"]
    shown["status"].pop("lastPhaseTransitionTime")
    return dict(shown)
