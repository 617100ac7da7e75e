"""Pods that have their volume attached while its replicas move."""

import pytest

from tests.testbed.csi import NODES, CsiTestbed
from tests.testbed.fixtures import MakeService
from tests.testbed.manifests import nodes_of
from tests.testbed.scheduling import PODS
from tests.testbed.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real]

ATTACHER = "external-attacher/linstor-csi-linbit-com"


async def test_a_running_pod_is_unaffected_and_the_next_one_starts_at_the_new_replica(
    csi_testbed: CsiTestbed, service_on: MakeService
) -> None:
    """As when LINSTOR evacuates a node in use: one replica more, and the old one loses its disk."""
    testbed, world = csi_testbed.testbed, csi_testbed.testbed.world
    await csi_testbed.claim("c1")
    made = await csi_testbed.bound_volume("c1")
    name, (at,) = made["metadata"]["name"], nodes_of(made)
    there = next(node for node in NODES if node != at)

    async with running(service_on(testbed)):
        await csi_testbed.pods.add("p1", "c1")
        assert await csi_testbed.pods.until_scheduled("p1") == at
        before = await csi_testbed.until_attached(name, at)
        world.promote(name, at)

        world.create_replica(name, there)
        await testbed.until_on(name, at, there)
        world.toggle_disk(name, at, True)
        await testbed.until_on(name, there)

        after = (await csi_testbed.attachments())[(name, at)]
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["status"] == before["status"]
        assert "deletionTimestamp" not in after["metadata"]
        replaced = await csi_testbed.bound_volume("c1")
        assert replaced["metadata"]["uid"] != made["metadata"]["uid"]
        assert ATTACHER in replaced["metadata"]["finalizers"]
        pod = await testbed.cluster.ask("GET", f"{PODS}/p1")
        assert pod["spec"]["nodeName"] == at
        assert "deletionTimestamp" not in pod["metadata"]

        world.demote(name, at)
        await csi_testbed.pods.delete("p1")
        await csi_testbed.until_detached(name, at)
        await csi_testbed.pods.add("p2", "c1")
        assert await csi_testbed.pods.until_scheduled("p2") == there
        await csi_testbed.until_attached(name, there)

        await testbed.until_nothing_is_unfinished()
    assert testbed.observer.lost == []
