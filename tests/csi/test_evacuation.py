"""A node is evacuated as Piraeus' operator does it (its page on satellite deletion policies), and a
pod uses a volume that has to be where its only replica is.
"""

from typing import Any

import pytest

from tests.testbed.csi import NODES, CsiTestbed
from tests.testbed.fixtures import MakeService
from tests.testbed.manifests import nodes_of
from tests.testbed.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real]


async def annotate(csi: CsiTestbed, volume: str, **annotations: str | None) -> None:
    patch: dict[str, Any] = {"metadata": {"annotations": annotations}}
    await csi.testbed.cluster.ask("PATCH", f"/api/v1/persistentvolumes/{volume}", patch)


async def test_a_pod_leaves_an_evacuated_node_and_its_data_follows(
    csi_testbed: CsiTestbed, service_on: MakeService
) -> None:
    testbed, world, pods = csi_testbed.testbed, csi_testbed.testbed.world, csi_testbed.pods
    await csi_testbed.claim("c1")
    made = await csi_testbed.bound_volume("c1")
    name, (at,) = made["metadata"]["name"], nodes_of(made)
    # No full reconcile helps: an annotation is a trigger by itself.
    async with running(service_on(testbed, "--reconcile-rate=1h", "--poll-rate=0")):
        await pods.add("p1", "c1")
        assert await pods.until_scheduled("p1") == at
        await csi_testbed.until_attached(name, at)
        world.promote(name, at)

        # 1. It may be used anywhere for now.
        override, waits = (
            f"override.piraeus.io/{at}",
            f"wait-for-reattach.evacuation.piraeus.io/{at}",
        )
        await annotate(csi_testbed, name, **{override: "true", waits: ""})
        await testbed.observer.until_terms(name)
        opened = await csi_testbed.bound_volume("c1")
        assert opened["metadata"]["annotations"][waits] == ""

        # 3. and 4. The node is drained, and the pod that comes instead starts without a disk.
        await pods.cordon(at)
        world.demote(name, at)
        await pods.delete("p1")
        await csi_testbed.until_detached(name, at)
        await pods.add("p2", "c1")
        there = await pods.until_scheduled("p2")
        assert there != at
        attached = await csi_testbed.until_attached(name, there)
        assert not world.replica(name, there).diskful
        world.promote(name, there)

        # 5. and 6. LINSTOR gives a disk to where the volume is in use, and clears the node.
        world.toggle_disk(name, there, False)
        await world.until_idle()
        world.delete_replica(name, at)
        await world.until_idle()
        assert not world.node(at).replicas

        # 7. The usual policy again.
        await annotate(csi_testbed, name, **{override: None, waits: None})
        await testbed.until_on(name, there)
        after = await csi_testbed.bound_volume("c1")

        await testbed.until_nothing_is_unfinished()

    assert testbed.observer.lost == []
    preserved = (await csi_testbed.attachments())[(name, there)]
    assert (preserved["metadata"]["uid"], preserved["status"]) == (
        attached["metadata"]["uid"],
        attached["status"],
    )
    assert await pods.node_of("p2") == there
    assert after["metadata"].get("annotations") == made["metadata"]["annotations"]
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert set(NODES) > {at, there}
