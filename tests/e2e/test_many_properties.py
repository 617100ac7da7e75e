"""One object in LINSTOR has very many properties, which whoever may write to LINSTOR can add."""

import pytest

from tests.e2e.conftest import MakeService
from tests.testbed.manifests import nodes_of
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

MANY = {f"Aux/p{number}": "x" * 4096 for number in range(150)}


def add_to(testbed: Testbed, where: str) -> None:
    world = testbed.world
    if where == "node":
        for key, value in MANY.items():
            world.set_node_prop("n4", key, value)
    else:
        world.add_definition("theirs")
        world.place("theirs", "n3").volume_props[0] = MANY if where == "replica" else {}
    if where == "definition":
        world.change_definition("theirs", override=MANY)


@pytest.mark.parametrize("where", ["node", "definition", "replica"])
async def test_properties_of_one_object_stop_no_update_of_others(
    fake_testbed: Testbed, service_on: MakeService, where: str
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    add_to(testbed, where)
    # No event tells of it: the service is not running.
    testbed.world.move_silently("pvc-1", "n1", "n2")

    async with running(service_on(testbed)) as service:
        await testbed.until_on("pvc-1", "n2")
        await service.until_said("LINSTOR has more about these than is read")


async def test_a_new_node_is_read_although_another_one_is_too_large(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    async with running(service_on(testbed)):
        add_to(testbed, "node")
        testbed.world.add_node("n9", labels={})

        testbed.world.move("pvc-1", "n1", "n9")

        await testbed.until_on("pvc-1", "n9")


async def test_a_volume_with_data_on_a_node_that_is_too_large_is_left_as_it_is(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    await testbed.add("pvc-2", ["n1"])
    add_to(testbed, "node")
    testbed.world.move_silently("pvc-1", "n1", "n4")
    testbed.world.move_silently("pvc-2", "n1", "n2")

    async with running(service_on(testbed, "--reconcile-rate=1s", "--poll-rate=1s")) as service:
        await testbed.until_on("pvc-2", "n2")
        await service.until_said("too-large-in-linstor")
        assert nodes_of(await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")) == {
            "n1"
        }

        for key in MANY:
            testbed.world.set_node_prop("n4", key, None)
        await testbed.until_on("pvc-1", "n4")
