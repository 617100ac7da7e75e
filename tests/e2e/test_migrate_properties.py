"""Saved PVs of the reference controller move to where its 1.5 keeps them."""

import json

from tests.testbed.command import command
from tests.testbed.testbed import Testbed

SAVED = "Aux/affinity-updater-saved-pv"


def saved(testbed: Testbed, name: str) -> tuple[str | None, str | None]:
    """What the definition and its volume 0 keep."""
    definition = testbed.world.definition(name)
    return definition.props.get(SAVED), definition.volumes[0].props.get(SAVED)


async def test_saved_pvs_move_to_volume_0_once(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    testbed.place("pvc-1", ["n1"])
    testbed.place("pvc-2", ["n1"])
    testbed.world.definition("pvc-1").props[SAVED] = '{"old": 1}'

    dry = await command(testbed, "migrate-properties", "--dry-run")
    before = saved(testbed, "pvc-1")
    first = await command(testbed, "migrate-properties")
    again = await command(testbed, "migrate-properties")

    assert dry.out == "pvc-1: would be moved to volume 0\n"
    assert before == ('{"old": 1}', None)
    assert first.out == "pvc-1: moved to volume 0\n"
    assert saved(testbed, "pvc-1") == (None, '{"old": 1}')
    assert again.out == "No resource definition has a saved PersistentVolume of its own.\n"
    assert (dry.code, first.code, again.code) == (0, 0, 0)


async def test_a_saved_pv_of_any_length_moves_as_it_is(fake_testbed: Testbed) -> None:
    """Only SQL databases limit the characters of a property."""
    testbed, text = fake_testbed, json.dumps({"old": "x" * 100_000})
    testbed.world.longest_property = len(text)
    testbed.place("pvc-1", ["n1"])
    testbed.world.definition("pvc-1").props[SAVED] = text

    said = await command(testbed, "migrate-properties")

    assert said.out == "pvc-1: moved to volume 0\n"
    assert saved(testbed, "pvc-1") == (None, text)


async def test_a_newer_saved_pv_on_the_volume_stays(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    testbed.place("pvc-1", ["n1"])
    testbed.world.definition("pvc-1").props[SAVED] = "old"
    testbed.world.definition("pvc-1").volumes[0].props[SAVED] = "new"

    said = await command(testbed, "migrate-properties")

    assert said.out == "pvc-1: deleted, because volume 0 has a newer one\n"
    assert saved(testbed, "pvc-1") == (None, "new")


async def test_a_definition_that_is_too_large_is_reported_and_blocks_no_other(
    fake_testbed: Testbed,
) -> None:
    testbed = fake_testbed
    testbed.place("pvc-1", ["n1"])
    testbed.place("pvc-2", ["n1"])
    many = {f"Aux/p{number}": "x" * 4096 for number in range(150)}
    testbed.world.change_definition("pvc-1", override=many)
    testbed.world.definition("pvc-2").props[SAVED] = "old"

    said = await command(testbed, "migrate-properties")

    assert said.code == 1
    assert "pvc-1: not changed: it has too many properties\n" in said.out
    assert saved(testbed, "pvc-2") == (None, "old")


async def test_a_definition_without_volume_0_is_reported_and_blocks_no_other(
    fake_testbed: Testbed,
) -> None:
    testbed = fake_testbed
    testbed.world.add_definition("a", volumes=0).props[SAVED] = "old"
    testbed.place("pvc-2", ["n1"])
    testbed.world.definition("pvc-2").props[SAVED] = "old"

    said = await command(testbed, "migrate-properties")

    assert said.code == 1
    assert said.out == "a: not changed: it has no volume 0\npvc-2: moved to volume 0\n"
    assert testbed.world.definition("a").props[SAVED] == "old"


async def test_a_write_that_linstor_refuses_is_reported_and_blocks_no_other(
    fake_testbed: Testbed,
) -> None:
    testbed = fake_testbed
    for name in ("pvc-1", "pvc-2"):
        testbed.place(name, ["n1"])
        testbed.world.definition(name).props[SAVED] = "old"
    testbed.world.fail_next("/v1/resource-definitions/pvc-1/volume-definitions/0", 400, [])

    said = await command(testbed, "migrate-properties")

    assert said.code == 1
    assert said.out.startswith("pvc-1: not changed: LINSTOR ")
    assert said.out.endswith("pvc-2: moved to volume 0\n")
    assert saved(testbed, "pvc-1") == ("old", None)


async def test_a_hung_satellite_does_not_block_the_migration(fake_testbed: Testbed) -> None:
    testbed = fake_testbed
    testbed.place("pvc-1", ["n1"])
    testbed.world.definition("pvc-1").props[SAVED] = "old"
    testbed.world.hung_satellites.add("n1")

    said = await command(testbed, "migrate-properties")

    assert said.code == 0
    assert saved(testbed, "pvc-1") == (None, "old")


async def test_unreachable_linstor_is_reported(fake_testbed: Testbed) -> None:
    said = await command(fake_testbed, "migrate-properties", LS_CONTROLLERS="http://127.0.0.1:1")

    assert said.code == 1
    assert "et LS_CONTROLLERS to the address of" in said.err
