"""Pods that wait for a volume which may be used elsewhere, and the real scheduler."""

import time

import pytest

from tests.figures import Figures
from tests.testbed.csi import NODES, CsiTestbed
from tests.testbed.fixtures import MakeService
from tests.testbed.manifests import nodes_of
from tests.testbed.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real]

PODS_WAITED_FOR = 5


async def test_a_pending_pod_is_scheduled_as_soon_as_a_replica_is_on_another_node(
    csi_testbed: CsiTestbed, service_on: MakeService, figures: Figures
) -> None:
    """From the moment in which LINSTOR has the new replica; DRBD's start is not simulated."""
    testbed, took = csi_testbed.testbed, list[float]()
    async with running(service_on(testbed)):
        for number in range(PODS_WAITED_FOR):
            claim, pod = f"c{number}", f"p{number}"
            await csi_testbed.claim(claim)
            made = await csi_testbed.bound_volume(claim)
            name, (at,) = made["metadata"]["name"], nodes_of(made)
            await csi_testbed.pods.cordon(at)
            await csi_testbed.pods.add(pod, claim)
            await csi_testbed.pods.until_unschedulable(pod, "node affinity")
            there = next(node for node in NODES if node != at)

            began = time.monotonic()
            testbed.world.create_replica(name, there)
            assert await csi_testbed.pods.until_scheduled(pod) == there
            took.append(time.monotonic() - began)

            await csi_testbed.until_attached(name, there)
            await csi_testbed.pods.delete(pod)
            await csi_testbed.pods.uncordon(at)

    assert testbed.observer.lost == []
    figures.count("pod Pending -> scheduled, slowest of 5, ms", round(max(took) * 1000))
    assert max(took) < 10
