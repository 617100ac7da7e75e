"""Claims that grow while their volume moves, on real parts that know nothing of it."""

from itertools import count, cycle

import pytest

from tests.csi.steps import move_and
from tests.e2e.steps import STEPS
from tests.testbed.clusters import until
from tests.testbed.csi import NODES, CsiTestbed
from tests.testbed.fixtures import MakeService
from tests.testbed.manifests import CLAIMS, nodes_of
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.service import running

pytestmark = [pytest.mark.csi, pytest.mark.real]

ROUNDS = 10
STEP_MIB = 64


async def grow(csi: CsiTestbed, mib: int) -> None:
    wish = {"spec": {"resources": {"requests": {"storage": f"{mib}Mi"}}}}
    await csi.testbed.cluster.ask("PATCH", f"{CLAIMS}/c1", wish)


async def sizes_mib(csi: CsiTestbed, name: str) -> list[str]:
    """Of the volume, the claim and the data; without a kubelet only a block volume gets so far."""
    volume = await csi.testbed.cluster.find(f"/api/v1/persistentvolumes/{name}")
    claim = await csi.testbed.cluster.ask("GET", f"{CLAIMS}/c1")
    return [
        ((volume or {}).get("spec", {}).get("capacity") or {}).get("storage", "none"),
        (claim.get("status", {}).get("capacity") or {}).get("storage", "none"),
        f"{csi.testbed.world.volume(name, 0).size_kib // 1024}Mi",
    ]


async def until_grown(csi: CsiTestbed, name: str, mib: int, *, reported: bool = True) -> None:
    """All sizes are the same; where it is `reported`, the resizer has also said that it is done."""

    async def right() -> bool:
        claim = await csi.testbed.cluster.ask("GET", f"{CLAIMS}/c1")
        said = {each["type"] for each in claim["status"].get("conditions") or ()}
        # Whether a pod uses a claim is a condition too, since Kubernetes 1.37.
        at_rest = not reported or said <= {"Unused"}
        return at_rest and await sizes_mib(csi, name) == [f"{mib}Mi"] * 3

    try:
        await until(right, f"all three sizes are {mib} MiB", within=40)
    except AssertionError as error:
        claim = await csi.testbed.cluster.ask("GET", f"{CLAIMS}/c1")
        raise AssertionError(f"{error}: {await sizes_mib(csi, name)}, {claim['status']}") from None


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", ["move", "resize"])
async def test_a_resize_and_a_move_at_the_same_time_both_succeed(
    csi_testbed: CsiTestbed, service_on: MakeService, first: str
) -> None:
    testbed = csi_testbed.testbed
    await csi_testbed.claim("c1", block=True)
    made = await csi_testbed.bound_volume("c1")
    name, (at,) = made["metadata"]["name"], nodes_of(made)
    others = cycle(NODES)

    async with running(service_on(testbed)):
        for mib, _ in zip(count(2 * STEP_MIB, STEP_MIB), range(ROUNDS), strict=False):
            there = next(node for node in others if node != at)
            if first == "move":
                testbed.world.move(name, at, there)
                await grow(csi_testbed, mib)
            else:
                await grow(csi_testbed, mib)
                testbed.world.move(name, at, there)
            # A move takes two changes if the new replica is reported before the old one is gone,
            # and after ten changes there is one a minute.
            await testbed.until_on(name, there, within=150.0)
            await until_grown(csi_testbed, name, mib)
            await testbed.world.until_idle()
            at = there

        await testbed.until_nothing_is_unfinished()
    assert testbed.observer.lost == []


async def test_a_pending_node_resize_stays_pending(
    csi_testbed: CsiTestbed, service_on: MakeService
) -> None:
    """Only a kubelet could do it, and its node can't be chosen before the affinity is right."""
    testbed = csi_testbed.testbed
    await csi_testbed.claim("c1")
    made = await csi_testbed.bound_volume("c1")
    name, (at,) = made["metadata"]["name"], nodes_of(made)
    there = next(node for node in NODES if node != at)

    async def waiting() -> bool:
        claim = await testbed.cluster.ask("GET", f"{CLAIMS}/c1")
        at_step = claim["status"].get("allocatedResourceStatuses")
        sizes = await sizes_mib(csi_testbed, name)
        return at_step == {"storage": "NodeResizePending"} and sizes == ["128Mi", "64Mi", "128Mi"]

    async with running(service_on(testbed)):
        await grow(csi_testbed, 128)
        testbed.world.move(name, at, there)
        await testbed.until_on(name, there)
        await until(waiting, "the claim waits for its node")
        assert (await csi_testbed.bound_volume("c1"))["metadata"]["uid"] != made["metadata"]["uid"]
    assert testbed.observer.lost == []


ABSENT = ("remove", "create")
"""What happens at these steps may meet the milliseconds in which the volume is absent."""


@pytest.mark.parametrize("written", [False, True], ids=["asked for", "written"])
@pytest.mark.parametrize("step", [step for step in STEPS if step not in ABSENT])
async def test_a_resize_at_any_step_of_a_move_succeeds(
    csi_testbed: CsiTestbed, csi_proxied: ProxiedTestbed, step: str, *, written: bool
) -> None:
    """Only asked for at that step, or with the new size in the volume before the step is taken."""
    testbed = csi_testbed.testbed
    await csi_testbed.claim("c1", block=True)
    name = (await csi_testbed.bound_volume("c1"))["metadata"]["name"]

    async def size_written() -> bool:
        return (await sizes_mib(csi_testbed, name))[0] == "128Mi"

    async def resize() -> None:
        await grow(csi_testbed, 128)
        if written:
            await until(size_written, "the resizer has written the volume's size", within=15)

    async with move_and(csi_testbed, csi_proxied, name, step, resize) as to:
        await testbed.until_on(name, to)
        await until_grown(csi_testbed, name, 128)

        await testbed.until_nothing_is_unfinished()

    after = await csi_testbed.bound_volume("c1")
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert testbed.observer.lost == []
    # No pod is attached, so nothing but the volume itself keeps the provisioner from the data.
    assert [label for label in testbed.world.requests if label.startswith("DELETE")] == []


@pytest.mark.parametrize("step", ABSENT)
async def test_a_resize_requested_while_the_volume_is_absent_blocks_no_later_move(
    csi_testbed: CsiTestbed, csi_proxied: ProxiedTestbed, step: str
) -> None:
    """Whoever writes to a claim in this moment makes the volume binder check it, which then calls
    it Lost until its next resync. On its return the binder takes the claim's size from
    the volume, and if that is the new size already, the resizer never says that it is done.
    """
    testbed = csi_testbed.testbed
    await csi_testbed.claim("c1", block=True)
    name = (await csi_testbed.bound_volume("c1"))["metadata"]["name"]

    async with move_and(csi_testbed, csi_proxied, name, step, lambda: grow(csi_testbed, 128)) as to:
        await testbed.until_on(name, to)
        await csi_testbed.bound_volume("c1")
        await until_grown(csi_testbed, name, 128, reported=False)
        await testbed.world.until_idle()

        third = next(node for node in NODES if node != to)
        testbed.world.create_replica(name, third)
        await testbed.until_on(name, to, third)
        after = await csi_testbed.bound_volume("c1")
        assert after["spec"]["capacity"]["storage"] == "128Mi"
        assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
