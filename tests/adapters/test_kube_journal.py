"""Notes in ConfigMaps, against an API server on loopback."""

import logging
from dataclasses import replace
from typing import Any

import orjson
import pytest

from linstor_affinity_events.adapters.kube_api import KubeApi
from linstor_affinity_events.adapters.kube_journal import LABEL, KubeJournal, note_name
from linstor_affinity_events.errors import Again, BadNote, Conflict, Forbidden, Refused
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.note import Note
from tests.fakes.kube_server import FakeCluster, KubeServer
from tests.model.manifests import PV, begun, on_node, volume, with_metadata

Json = dict[str, Any]

CONFIG_MAPS = "configmaps"
NAMESPACE = "default"
NOTE = begun(volume())


@pytest.fixture
def journal(api: KubeApi) -> KubeJournal:
    return KubeJournal(api, NAMESPACE)


def noted(name: str) -> Note:
    return begun(with_metadata(volume(), name=name))


def config_map(name: str, text: str | None, *, label: str = "true") -> Json:
    data = {"other": "x"} if text is None else {"note.json": text}
    return {"metadata": {"name": name, "labels": {LABEL: label}}, "data": data}


async def test_a_note_is_read_as_it_was_written(journal: KubeJournal) -> None:
    created = await journal.create(NOTE)

    assert replace(created, version="") == NOTE
    assert await journal.read(PV) == created
    assert await journal.all() == [created]


async def test_without_a_note_there_is_none(journal: KubeJournal) -> None:
    assert await journal.read(PV) is None
    assert await journal.all() == []


async def test_a_second_first_note_is_a_conflict(journal: KubeJournal) -> None:
    await journal.create(NOTE)

    with pytest.raises(Conflict):
        await journal.create(NOTE)


async def test_a_note_is_written_over(journal: KubeJournal) -> None:
    created = await journal.create(NOTE)

    saved = await journal.save(created.deleting())

    assert await journal.read(PV) == saved
    assert saved.version != created.version


async def test_only_the_version_that_was_read_is_written_over(journal: KubeJournal) -> None:
    created = await journal.create(NOTE)
    saved = await journal.save(created.deleting())

    with pytest.raises(Conflict):
        await journal.save(created)

    assert await journal.read(PV) == saved


async def test_a_note_that_is_gone_is_not_written_again(journal: KubeJournal) -> None:
    created = await journal.create(NOTE)
    await journal.drop(created)

    with pytest.raises(Conflict):
        await journal.save(created.deleting())

    assert await journal.read(PV) is None


async def test_a_note_of_a_later_replacement_is_not_written_over(journal: KubeJournal) -> None:
    first = await journal.create(NOTE)
    await journal.drop(first)
    second = await journal.create(NOTE)

    with pytest.raises(Conflict):
        await journal.save(first.deleting())

    assert await journal.read(PV) == second


async def test_a_note_is_dropped(journal: KubeJournal, cluster: FakeCluster) -> None:
    await journal.drop(await journal.create(NOTE))

    assert cluster.objects(CONFIG_MAPS, NAMESPACE) == []


async def test_only_the_version_that_was_read_is_dropped(journal: KubeJournal) -> None:
    created = await journal.create(NOTE)
    saved = await journal.save(created.deleting())

    with pytest.raises(Conflict):
        await journal.drop(created)

    assert await journal.read(PV) == saved


async def test_a_note_of_a_later_replacement_is_not_dropped(journal: KubeJournal) -> None:
    first = await journal.create(NOTE)
    await journal.drop(first)
    second = await journal.create(NOTE)

    with pytest.raises(Conflict):
        await journal.drop(first)

    assert await journal.read(PV) == second


async def test_a_note_that_is_gone_may_be_dropped(journal: KubeJournal) -> None:
    created = await journal.create(NOTE)

    await journal.drop(created)
    await journal.drop(created)


@pytest.mark.parametrize("length", [1, 238, 239, 240, 253])
async def test_any_name_of_a_volume_has_a_place(journal: KubeJournal, length: int) -> None:
    name = "x" * length

    created = await journal.create(noted(name))

    assert await journal.read(PvName(name)) == created


def test_every_name_has_a_place_of_its_own() -> None:
    names = [PvName(letter * length) for letter in "ab" for length in (1, 238, 239, 240, 253)]

    assert len({note_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("letter", ["x", '"', "\n", "ä"])
async def test_a_volume_with_the_largest_annotations_fits(
    journal: KubeJournal, letter: str
) -> None:
    text = letter * ((256 * 1024 - 100) // len(letter.encode()))
    pv = with_metadata(volume(), annotations={"a": text})

    created = await journal.create(begun(pv))

    assert (await journal.all()) == [created]
    assert created.wanted["metadata"]["annotations"] == {"a": text}


async def test_what_the_server_refuses_is_refused(journal: KubeJournal) -> None:
    wanted = with_metadata(dict(NOTE.wanted), annotations={"a": "x" * 2_000_000})

    with pytest.raises(Refused):
        await journal.create(replace(NOTE, wanted=wanted))


async def test_a_journal_that_may_not_be_written_is_told(
    journal: KubeJournal, kube: KubeServer
) -> None:
    kube.access.denied.add(("create", "configmaps"))

    with pytest.raises(Forbidden):
        await journal.create(NOTE)


HOSTILE = [
    pytest.param(None, id="without a note"),
    pytest.param("", id="empty"),
    pytest.param("no JSON", id="no JSON"),
    pytest.param("[" * 100_000, id="deep"),
    pytest.param("[]", id="a list"),
    pytest.param("{}", id="an empty object"),
    pytest.param(
        orjson.dumps(
            {
                **NOTE.written(),
                "wanted": {**NOTE.wanted, "spec": {"hostPath": {"path": "/"}}},
            }
        ).decode(),
        id="a host path",
    ),
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_foreign_config_map_is_told_and_not_trusted(
    journal: KubeJournal, cluster: FakeCluster, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    good = await journal.create(noted("pvc-2"))
    cluster.create(CONFIG_MAPS, config_map(note_name(PV), text), namespace=NAMESPACE)

    with caplog.at_level(logging.ERROR):
        found = await journal.all()

    assert found == [good]
    assert [record.message for record in caplog.records] == [
        "note refused; nothing is done for it until it is mended or deleted"
    ]
    with pytest.raises(BadNote):
        await journal.read(PV)


async def test_a_foreign_config_map_is_told_once(
    journal: KubeJournal, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(CONFIG_MAPS, config_map("x", "{}"), namespace=NAMESPACE)

    with caplog.at_level(logging.ERROR):
        await journal.all()
        await journal.all()

    assert len(caplog.records) == 1


async def test_a_note_in_the_place_of_another_is_not_trusted(
    journal: KubeJournal, cluster: FakeCluster
) -> None:
    text = orjson.dumps(noted("pvc-2").written()).decode()
    cluster.create(CONFIG_MAPS, config_map(note_name(PV), text), namespace=NAMESPACE)

    with pytest.raises(BadNote, match="is for pvc-2"):
        await journal.read(PV)


async def test_other_config_maps_are_nobodys_business(
    journal: KubeJournal, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(CONFIG_MAPS, config_map("x", "{}", label="false"), namespace=NAMESPACE)
    cluster.create(CONFIG_MAPS, config_map("y", "{}"), namespace="kube-system")

    assert await journal.all() == []
    assert caplog.records == []


async def test_many_notes_come_in_pages(
    journal: KubeJournal, cluster: FakeCluster, kube: KubeServer
) -> None:
    for number in range(250):
        name = f"pv-{number}"
        text = orjson.dumps(noted(name).written()).decode()
        cluster.create(CONFIG_MAPS, config_map(note_name(PvName(name)), text), namespace=NAMESPACE)

    found = await journal.all()

    assert len({note.pv for note in found}) == 250
    assert len(kube.log.matching("GET", "limit=100")) == 3


async def test_pages_that_are_forgotten_midway_are_asked_for_again_later(
    journal: KubeJournal, cluster: FakeCluster, kube: KubeServer
) -> None:
    for number in range(101):
        cluster.create(CONFIG_MAPS, config_map(f"x-{number}", "{}"), namespace=NAMESPACE)
    kube.faults.add(path_regex="continue=", status=410)

    try:
        found = await journal.all()
    except Again:
        return

    assert found == []


async def test_a_note_says_who_manages_it(journal: KubeJournal, cluster: FakeCluster) -> None:
    await journal.create(replace(NOTE, wanted={**NOTE.wanted}))

    stored = cluster.get(CONFIG_MAPS, note_name(PV), NAMESPACE)

    assert stored is not None
    assert stored["metadata"]["labels"] == {
        LABEL: "true",
        "app.kubernetes.io/managed-by": "linstor-affinity-events",
    }
    wanted = orjson.loads(stored["data"]["note.json"])["wanted"]
    assert wanted["spec"]["nodeAffinity"] == on_node("node-b").manifest()
