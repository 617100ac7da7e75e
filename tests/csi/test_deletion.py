"""Claims that are deleted while their volume moves: the real provisioner deletes the data."""

import pytest

from tests.csi.steps import move_and
from tests.e2e.steps import STEPS
from tests.testbed.clusters import until
from tests.testbed.csi import CsiTestbed
from tests.testbed.manifests import CLAIMS
from tests.testbed.proxied import ProxiedTestbed

pytestmark = [pytest.mark.csi, pytest.mark.real]


@pytest.fixture
def driver_flags() -> tuple[str, ...]:
    """By default the driver remembers for 30 s where replicas are. What it deletes is then what was
    there before the move, and it leaves an empty definition behind, whoever made the move.
    """
    return ("--resource-cache-timeout=1ns",)


RD = "/v1/resource-definitions/{rd}"


@pytest.mark.parametrize("step", STEPS)
async def test_deleting_a_claim_at_any_step_of_a_move_deletes_its_data(
    csi_testbed: CsiTestbed, csi_proxied: ProxiedTestbed, step: str
) -> None:
    testbed, world = csi_testbed.testbed, csi_testbed.testbed.world
    await csi_testbed.claim("c1")
    name = (await csi_testbed.bound_volume("c1"))["metadata"]["name"]
    deletions = (f"DELETE {RD}/resources/{{node}}", f"DELETE {RD}")

    async def delete_claim() -> None:
        assert [world.requests[each] for each in deletions] == [0, 0]
        await testbed.cluster.ask("DELETE", f"{CLAIMS}/c1")

        async def gone() -> bool:
            return await testbed.cluster.find(f"{CLAIMS}/c1") is None

        await until(gone, "the claim is gone")

    async with move_and(csi_testbed, csi_proxied, name, step, delete_claim):

        async def all_gone() -> bool:
            volume = await testbed.cluster.find(f"/api/v1/persistentvolumes/{name}")
            return volume is None and not await testbed.entries() and not world.definitions

        await until(all_gone, "volume, note and data are gone")

    # The sidecar may find its own deletion of the volume in its cache, without the removal of its
    # finalizer, and then calls DeleteVolume, which is idempotent, once more.
    assert world.requests[f"DELETE {RD}"] in (1, 2)
