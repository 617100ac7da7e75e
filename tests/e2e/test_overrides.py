"""Override annotations, as Piraeus' operator sets them while it evacuates a node."""

from tests.e2e.conftest import MakeService
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

PV = "/api/v1/persistentvolumes/pvc-1"
OFTEN = "--reconcile-rate=1s"


async def annotate(testbed: Testbed, **annotations: str | None) -> None:
    patch = {f"override.piraeus.io/{key}": value for key, value in annotations.items()}
    await testbed.cluster.ask("PATCH", PV, {"metadata": {"annotations": patch}})


async def test_a_node_evacuated_by_piraeus_operator_is_followed(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])

    async with running(service_on(testbed, OFTEN)):
        await annotate(testbed, n1="true")
        await testbed.observer.until_terms("pvc-1")
        await testbed.until_bound("pvc-1")
        testbed.world.move("pvc-1", "n1", "n2")
        await annotate(testbed, n1=None)
        await testbed.until_on("pvc-1", "n2")
        await testbed.until_bound("pvc-1")

    assert testbed.observer.lost == []


async def test_two_evacuations_and_a_user_override_are_combined(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1", "n2"])
    await annotate(testbed, mine="false")

    async with running(service_on(testbed, OFTEN)):
        await annotate(testbed, n1="true")
        await testbed.observer.until_terms("pvc-1")
        await annotate(testbed, n2="true")
        await annotate(testbed, n1=None)
        testbed.world.move("pvc-1", "n1", "n3")
        testbed.world.move("pvc-1", "n2", "n4")
        # As long as one of them is evacuated it stays open, whatever the user's own says.
        await annotate(testbed, n2=None)
        await testbed.until_on("pvc-1", "n3", "n4")
        await testbed.until_bound("pvc-1")

    assert testbed.observer.lost == []
