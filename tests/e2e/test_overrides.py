"""Override annotations, as Piraeus' operator sets them while it evacuates a node."""

from tests.e2e.conftest import MakeService
from tests.stage.service import running
from tests.stage.stage import Stage

PV = "/api/v1/persistentvolumes/pvc-1"
OFTEN = "--reconcile-rate=1s"


async def annotate(stage: Stage, **annotations: str | None) -> None:
    patch = {f"override.piraeus.io/{key}": value for key, value in annotations.items()}
    await stage.cluster.ask("PATCH", PV, {"metadata": {"annotations": patch}})


async def test_a_node_evacuated_by_piraeus_operator_is_followed(
    stage: Stage, service_on: MakeService
) -> None:
    await stage.add("pvc-1", ["n1"])

    async with running(service_on(stage, OFTEN)):
        await annotate(stage, n1="true")
        await stage.observer.until_terms("pvc-1")
        await stage.until_bound("pvc-1")
        stage.world.move("pvc-1", "n1", "n2")
        await annotate(stage, n1=None)
        await stage.until_on("pvc-1", "n2")
        await stage.until_bound("pvc-1")

    assert stage.observer.lost == []


async def test_two_evacuations_and_a_user_override_are_combined(
    stage: Stage, service_on: MakeService
) -> None:
    await stage.add("pvc-1", ["n1", "n2"])
    await annotate(stage, mine="false")

    async with running(service_on(stage, OFTEN)):
        await annotate(stage, n1="true")
        await stage.observer.until_terms("pvc-1")
        await annotate(stage, n2="true")
        await annotate(stage, n1=None)
        stage.world.move("pvc-1", "n1", "n3")
        stage.world.move("pvc-1", "n2", "n4")
        # As long as one of them is evacuated it stays open, whatever the user's own says.
        await annotate(stage, n2=None)
        await stage.until_on("pvc-1", "n3", "n4")
        await stage.until_bound("pvc-1")

    assert stage.observer.lost == []
