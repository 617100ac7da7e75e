"""Pods that wait for a volume which may be used elsewhere, and the real scheduler."""

import time

import pytest

from tests.figures import Figures
from tests.stage.csi import NODES, CsiStage
from tests.stage.fixtures import MakeService
from tests.stage.manifests import nodes_of
from tests.stage.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real]

PODS_WAITED_FOR = 5


async def test_a_pending_pod_is_scheduled_as_soon_as_a_replica_is_on_another_node(
    csi_stage: CsiStage, service_on: MakeService, figures: Figures
) -> None:
    """From the moment in which LINSTOR has the new replica; DRBD's start is not simulated."""
    stage, took = csi_stage.stage, list[float]()
    async with running(service_on(stage)):
        for number in range(PODS_WAITED_FOR):
            claim, pod = f"c{number}", f"p{number}"
            await csi_stage.claim(claim)
            made = await csi_stage.bound_volume(claim)
            name, (at,) = made["metadata"]["name"], nodes_of(made)
            await csi_stage.pods.cordon(at)
            await csi_stage.pods.add(pod, claim)
            await csi_stage.pods.until_unschedulable(pod, "node affinity")
            there = next(node for node in NODES if node != at)

            began = time.monotonic()
            stage.world.create_replica(name, there)
            assert await csi_stage.pods.until_scheduled(pod) == there
            took.append(time.monotonic() - began)

            await csi_stage.until_attached(name, there)
            await csi_stage.pods.delete(pod)
            await csi_stage.pods.uncordon(at)

    assert stage.observer.lost == []
    figures.count("pod Pending -> scheduled, slowest of 5, ms", round(max(took) * 1000))
    assert max(took) < 10
