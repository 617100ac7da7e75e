"""Pods that have their volume attached while its replicas move."""

import pytest

from tests.stage.csi import NODES, CsiStage
from tests.stage.fixtures import MakeService
from tests.stage.manifests import nodes_of
from tests.stage.scheduling import PODS
from tests.stage.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real]

ATTACHER = "external-attacher/linstor-csi-linbit-com"


async def test_a_running_pod_is_unaffected_and_the_next_one_starts_at_the_new_replica(
    csi_stage: CsiStage, service_on: MakeService
) -> None:
    """As when LINSTOR evacuates a node in use: one replica more, and the old one loses its disk."""
    stage, world = csi_stage.stage, csi_stage.stage.world
    await csi_stage.claim("c1")
    made = await csi_stage.bound_volume("c1")
    name, (at,) = made["metadata"]["name"], nodes_of(made)
    there = next(node for node in NODES if node != at)

    async with running(service_on(stage)):
        await csi_stage.pods.add("p1", "c1")
        assert await csi_stage.pods.until_scheduled("p1") == at
        before = await csi_stage.until_attached(name, at)
        world.promote(name, at)

        world.create_replica(name, there)
        await stage.until_on(name, at, there)
        world.toggle_disk(name, at, True)
        await stage.until_on(name, there)

        after = (await csi_stage.attachments())[(name, at)]
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["status"] == before["status"]
        assert "deletionTimestamp" not in after["metadata"]
        replaced = await csi_stage.bound_volume("c1")
        assert replaced["metadata"]["uid"] != made["metadata"]["uid"]
        assert ATTACHER in replaced["metadata"]["finalizers"]
        pod = await stage.cluster.ask("GET", f"{PODS}/p1")
        assert pod["spec"]["nodeName"] == at
        assert "deletionTimestamp" not in pod["metadata"]

        world.demote(name, at)
        await csi_stage.pods.delete("p1")
        await csi_stage.until_detached(name, at)
        await csi_stage.pods.add("p2", "c1")
        assert await csi_stage.pods.until_scheduled("p2") == there
        await csi_stage.until_attached(name, there)

        await stage.until_nothing_is_unfinished()
    assert stage.observer.lost == []
