"""Claims that are deleted, bound elsewhere, resized or lost while their volume is replaced."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeService
from tests.e2e.steps import UP_TO_REMOVAL
from tests.fakes.sidecars import HttpApi, Reclaimed, Sidecars
from tests.testbed import manifests
from tests.testbed.clusters import ApiError, until
from tests.testbed.manifests import CLAIMS, nodes_of
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked, Before
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes/pvc-1"
CLAIM = f"{CLAIMS}/claim-pvc-1"
RESIZED: Json = json.loads(
    (
        Path(__file__).parents[1] / "data" / "kubernetes" / "claim-after-controller-resize.json"
    ).read_text()
)


async def delete_claim(testbed: Testbed) -> None:
    await testbed.cluster.ask("DELETE", CLAIM)
    try:
        # No pod uses it; where the protection controller is quicker it is gone already.
        await testbed.cluster.ask("PATCH", CLAIM, {"metadata": {"finalizers": None}})
    except ApiError as error:
        if error.status != 404:
            raise


@pytest.mark.parametrize("step", UP_TO_REMOVAL)
async def test_deleting_a_claim_at_any_step_deletes_its_data_exactly_once(
    proxied: ProxiedTestbed, step: str
) -> None:
    testbed = proxied.testbed
    label, nth = UP_TO_REMOVAL[step]

    wished, deleted = False, list[str]()

    async def now(_: Asked) -> None:
        nonlocal wished
        wished = True
        await delete_claim(testbed)

    def delete_data(done: Reclaimed) -> None:
        """As CSI's DeleteVolume, which may be asked for more than once."""
        assert wished
        if done.handle not in deleted:
            deleted.append(done.handle)
            testbed.world.delete_definition(done.handle)

    async with Sidecars(HttpApi(testbed.cluster)) as sidecars:
        sidecars.on_reclaim = delete_data
        await testbed.add("pvc-1", ["n1"])
        proxied.on(label, Before(now), nth=nth)
        async with running(proxied.service()):
            testbed.world.move("pvc-1", "n1", "n2")

            async def all_gone() -> bool:
                gone = await testbed.cluster.find(PV) is None
                return (
                    gone
                    and await testbed.cluster.find(CLAIM) is None
                    and not await testbed.entries()
                )

            await until(all_gone, "claim, volume and note are gone")

    assert deleted == ["pvc-1"]


async def test_a_claim_ref_written_meanwhile_is_on_the_new_volume(
    proxied: ProxiedTestbed,
) -> None:
    """As an import populator does when it hands a volume from its own claim to the user's."""
    testbed = proxied.testbed
    await testbed.add("pvc-1", ["n1"])
    other = await testbed.cluster.ask("POST", CLAIMS, manifests.claim("users"))
    ref = {"name": "users", "uid": other["metadata"]["uid"], "resourceVersion": None}

    async def rebind(_: Asked) -> None:
        await testbed.cluster.ask("PATCH", PV, {"spec": {"claimRef": ref}})

    proxied.on("patch persistentvolumes", Before(rebind), nth=3)
    async with running(proxied.service()):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")

        async def bound() -> bool:
            found = await testbed.cluster.ask("GET", f"{CLAIMS}/users")
            return found.get("status", {}).get("phase") == "Bound" and not await testbed.entries()

        await until(bound, "the user's claim has it")

    after = await testbed.cluster.ask("GET", PV)
    assert after["spec"]["claimRef"]["uid"] == other["metadata"]["uid"]
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


async def test_a_pending_node_resize_does_not_block_an_urgent_change(
    testbed: Testbed, service_on: MakeService
) -> None:
    """The node can't be chosen before the affinity is right: as the real csi-resizer leaves it."""
    await testbed.add("pvc-1", ["n1"])
    size = RESIZED["spec"]["resources"]["requests"]["storage"]
    await testbed.cluster.ask("PATCH", PV, {"spec": {"capacity": {"storage": "2Gi"}}})
    await testbed.cluster.ask(
        "PATCH", CLAIM, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    )
    status = json.loads(json.dumps(RESIZED["status"]).replace(size, "2Gi"))
    await testbed.cluster.ask("PATCH", f"{CLAIM}/status", {"status": status})

    async with running(service_on(testbed)):
        testbed.world.place("pvc-1", "n2")
        await testbed.until_on("pvc-1", "n1", "n2")
        await testbed.until_bound("pvc-1")


async def test_an_urgent_volume_does_not_wait_for_a_resize_that_linstor_refuses(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    wish = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    await testbed.cluster.ask("PATCH", CLAIM, wish)

    async with running(service_on(testbed)) as service:
        testbed.world.place("pvc-1", "n3")
        await service.until_said("resize-in-flight")
        assert nodes_of(await testbed.cluster.ask("GET", PV)) == {"n1"}

        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2", "n3")
        await testbed.until_bound("pvc-1")


async def test_a_prebound_volume_is_corrected(testbed: Testbed, service_on: MakeService) -> None:
    testbed.place("pvc-1", ["n2"])
    made = manifests.volume("pvc-1", claim=None, node_affinity=manifests.on_nodes(["n1"]))
    made["spec"]["claimRef"] = {"namespace": "default", "name": "some-day"}
    await testbed.cluster.ask("POST", "/api/v1/persistentvolumes", made)

    async with running(service_on(testbed)) as service:
        await testbed.until_on("pvc-1", "n2")
        await service.until_said("volume affinity updated")
        claim = await testbed.cluster.ask("POST", CLAIMS, manifests.claim("some-day"))

        async def bound() -> bool:
            found = await testbed.cluster.ask("GET", PV)
            return bool(found.get("status", {}).get("phase") == "Bound")

        await until(bound, "the claim that it waited for has it")

    after = await testbed.cluster.ask("GET", PV)
    assert after["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert await testbed.entries() == []


async def test_a_lost_claim_is_always_counted(proxied: ProxiedTestbed) -> None:
    """The controller checks it just when its volume is away: here by holding up the creation."""
    testbed = proxied.testbed
    await testbed.add("pvc-1", ["n1"])
    bound_at = datetime.now(UTC).replace(microsecond=0)

    async def later() -> bool:
        return datetime.now(UTC) > bound_at + timedelta(seconds=1)

    # When the phase was written is reported in whole seconds.
    await until(later, "the claim was not bound just now")

    old = await testbed.cluster.ask("GET", PV)

    async def lost() -> bool:
        there = await testbed.cluster.find(PV)
        if there is None:
            await testbed.have_checked("claim-pvc-1")
        found = await testbed.cluster.ask("GET", CLAIM)
        recreated = there is not None and there["metadata"]["uid"] != old["metadata"]["uid"]
        return recreated or bool(found["status"]["phase"] == "Lost")

    async def lose(_: Asked) -> None:
        await until(lost, "the claim is Lost")

    # On a busy machine the service may give up waiting for the first response, and ask again.
    proxied.kubernetes.on("create persistentvolumes", Before(lose), times=None)
    async with running(proxied.service()) as service:
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await testbed.have_checked("claim-pvc-1")
        await testbed.until_bound("pvc-1")

        async def counted() -> bool:
            return await service.metric("linstor_affinity_claims_lost_total") == 1

        await until(counted, "it is counted")
        assert "no data is affected" in service.said()
