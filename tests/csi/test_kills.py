"""The service killed in the middle of a move, and gone for longer than anybody waits."""

import asyncio

import pytest

from tests.e2e.steps import STEPS
from tests.testbed.csi import NODES, CsiTestbed
from tests.testbed.manifests import nodes_of
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import After, Asked, Instead
from tests.testbed.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real, pytest.mark.timeout(300)]

POINTS: dict[str, tuple[type[Instead | After], tuple[str, int]]] = {
    **{f"before {step}": (Instead, point) for step, point in STEPS.items()},
    "after delete": (After, STEPS["delete"]),
    "after remove": (After, STEPS["remove"]),
    "after create": (After, STEPS["create"]),
}
PAUSE = 60.0
"""The volume binder checks every claim each 15 s, the others act on events."""

CLUSTERS = 2
"""So many processes share these tests, each with a control plane: most of the time is the pause."""


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=pytest.mark.xdist_group(f"kills-{number % CLUSTERS}"))
        for number, point in enumerate(POINTS)
    ],
)
async def test_a_kill_costs_no_data_and_no_attachment(
    csi_testbed: CsiTestbed, csi_proxied: ProxiedTestbed, point: str
) -> None:
    testbed, world = csi_testbed.testbed, csi_testbed.testbed.world
    await csi_testbed.claim("c1")
    made = await csi_testbed.bound_volume("c1")
    name, (at,) = made["metadata"]["name"], nodes_of(made)
    there = next(node for node in NODES if node != at)
    await csi_testbed.pods.add("p1", "c1")
    assert await csi_testbed.pods.until_scheduled("p1") == at
    attachment = await csi_testbed.until_attached(name, at)

    killed = csi_proxied.service()
    dead = asyncio.Event()

    async def kill(_: Asked) -> None:
        await killed.kill()
        dead.set()

    kind, (label, nth) = POINTS[point]
    csi_proxied.on(label, kind(kill), nth=nth)
    async with running(killed):
        # The pod continues without a disk of its own, as after an evacuation.
        world.create_replica(name, there)
        await world.until_idle()
        world.toggle_disk(name, at, True)
        await dead.wait()
    await asyncio.sleep(PAUSE)

    async with running(csi_proxied.service()):
        await testbed.until_on(name, there)
        after = await csi_testbed.bound_volume("c1")

        await testbed.until_nothing_is_unfinished()

        preserved = (await csi_testbed.attachments())[(name, at)]
        assert preserved["metadata"]["uid"] == attachment["metadata"]["uid"]
        assert preserved["status"]["attached"]
        assert "deletionTimestamp" not in preserved["metadata"]
        await csi_testbed.pods.delete("p1")
        await csi_testbed.until_detached(name, at)
        await csi_testbed.pods.add("p2", "c1")
        assert await csi_testbed.pods.until_scheduled("p2") == there
        await csi_testbed.until_attached(name, there)

    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert after["spec"]["claimRef"]["uid"] == made["spec"]["claimRef"]["uid"]
    assert world.volume(name, 0).size_kib == 64 * 1024
    assert [label for label in world.requests if label.startswith("DELETE")] == []
