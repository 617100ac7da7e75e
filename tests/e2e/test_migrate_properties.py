"""Old notes of the reference controller move to where its 1.5 keeps them."""

from tests.stage.command import command
from tests.stage.stage import Stage

SAVED = "Aux/affinity-updater-saved-pv"


def saved(stage: Stage, name: str) -> tuple[str | None, str | None]:
    """What the definition and its volume 0 keep."""
    definition = stage.world.definition(name)
    return definition.props.get(SAVED), definition.volumes[0].props.get(SAVED)


async def test_saved_pvs_move_to_volume_0_once(fake_stage: Stage) -> None:
    stage = fake_stage
    stage.place("pvc-1", ["n1"])
    stage.place("pvc-2", ["n1"])
    stage.world.definition("pvc-1").props[SAVED] = '{"old": 1}'

    dry = await command(stage, "migrate-properties", "--dry-run")
    before = saved(stage, "pvc-1")
    first = await command(stage, "migrate-properties")
    again = await command(stage, "migrate-properties")

    assert dry.out == "pvc-1: would be moved to volume 0\n"
    assert before == ('{"old": 1}', None)
    assert first.out == "pvc-1: moved to volume 0\n"
    assert saved(stage, "pvc-1") == (None, '{"old": 1}')
    assert again.out == "No resource definition has a saved PersistentVolume of its own.\n"
    assert (dry.code, first.code, again.code) == (0, 0, 0)


async def test_a_newer_saved_pv_on_the_volume_stays(fake_stage: Stage) -> None:
    stage = fake_stage
    stage.place("pvc-1", ["n1"])
    stage.world.definition("pvc-1").props[SAVED] = "old"
    stage.world.definition("pvc-1").volumes[0].props[SAVED] = "new"

    said = await command(stage, "migrate-properties")

    assert said.out == "pvc-1: deleted, because volume 0 has a newer one\n"
    assert saved(stage, "pvc-1") == (None, "new")


async def test_a_hung_satellite_does_not_block_the_migration(fake_stage: Stage) -> None:
    stage = fake_stage
    stage.place("pvc-1", ["n1"])
    stage.world.definition("pvc-1").props[SAVED] = "old"
    stage.world.hung_satellites.add("n1")

    said = await command(stage, "migrate-properties")

    assert said.code == 0
    assert saved(stage, "pvc-1") == (None, "old")


async def test_unreachable_linstor_is_reported(fake_stage: Stage) -> None:
    said = await command(fake_stage, "migrate-properties", LS_CONTROLLERS="http://127.0.0.1:1")

    assert said.code == 1
    assert "et LS_CONTROLLERS to the address of" in said.err
