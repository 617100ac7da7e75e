"""Entries in ConfigMaps, against an API server on loopback."""

import logging
from dataclasses import replace
from typing import Any

import orjson
import pytest

from linstor_affinity_events.adapters.kubernetes import journal as kube_journal
from linstor_affinity_events.adapters.kubernetes import pages as kube_pages
from linstor_affinity_events.adapters.kubernetes.api import KubeApi, Query
from linstor_affinity_events.adapters.kubernetes.journal import (
    LABEL,
    MOST_READS,
    PAGE_LIMIT,
    KubeJournal,
    configmap_name,
)
from linstor_affinity_events.adapters.transport.bodies import MIB
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import Again, BadEntry, Conflict, Forbidden, Refused
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.names import PvName
from tests.fakes.kube_server import FakeCluster, KubeServer
from tests.model.manifests import PV, applied, begun, on_node, volume, with_metadata

Json = dict[str, Any]

CONFIG_MAPS = "configmaps"
NAMESPACE = "default"
ENTRY = begun(volume())


@pytest.fixture
def journal(api: KubeApi) -> KubeJournal:
    return KubeJournal(api, NAMESPACE)


def entry_for(name: str) -> JournalEntry:
    return begun(with_metadata(volume(), name=name))


def config_map(name: str, text: str | None, *, label: str = "true") -> Json:
    data = {"other": "x"} if text is None else {"entry.json": text}
    return {"metadata": {"name": name, "labels": {LABEL: label}}, "data": data}


def labelled(entry: JournalEntry, text: str = "{}") -> Json:
    """A ConfigMap that is labelled as an entry, with any text in it."""
    made = config_map(configmap_name(entry.pv), text)
    made["metadata"]["annotations"] = {
        "linstor-affinity-events/persistent-volume": entry.pv,
        "linstor-affinity-events/linstor-volume": str(entry.key),
    }
    return made


def keep(cluster: FakeCluster, entry: JournalEntry) -> None:
    text = orjson.dumps(entry.written()).decode()
    cluster.create(CONFIG_MAPS, labelled(entry, text), namespace=NAMESPACE)


def listed(*entries: JournalEntry, last: bool = True, invalid: int = 0) -> Listed:
    found = {entry.pv: entry.key for entry in entries}
    return Listed(found, whole=last, last=last, invalid=invalid)


async def test_an_entry_round_trips(journal: KubeJournal) -> None:
    created = await journal.create(ENTRY)

    assert replace(created, version="") == ENTRY
    assert await journal.read(PV) == created
    assert await journal.all() == listed(created)


async def test_a_missing_entry_is_none(journal: KubeJournal) -> None:
    assert await journal.read(PV) is None
    assert await journal.all() == listed()


async def test_creating_an_entry_twice_is_a_conflict(journal: KubeJournal) -> None:
    await journal.create(ENTRY)

    with pytest.raises(Conflict):
        await journal.create(ENTRY)


async def test_an_entry_is_overwritten(journal: KubeJournal) -> None:
    created = await journal.create(ENTRY)

    saved = await journal.save(created.deleting())

    assert await journal.read(PV) == saved
    assert saved.version != created.version


async def test_only_the_version_that_was_read_is_overwritten(journal: KubeJournal) -> None:
    created = await journal.create(ENTRY)
    saved = await journal.save(created.deleting())

    with pytest.raises(Conflict):
        await journal.save(created)

    assert await journal.read(PV) == saved


async def test_a_deleted_entry_is_not_written_again(journal: KubeJournal) -> None:
    created = await journal.create(ENTRY)
    await journal.drop(created)

    with pytest.raises(Conflict):
        await journal.save(created.deleting())

    assert await journal.read(PV) is None


async def test_an_entry_of_a_later_replacement_is_not_overwritten(journal: KubeJournal) -> None:
    first = await journal.create(ENTRY)
    await journal.drop(first)
    second = await journal.create(ENTRY)

    with pytest.raises(Conflict):
        await journal.save(first.deleting())

    assert await journal.read(PV) == second


async def test_an_entry_is_deleted(journal: KubeJournal, cluster: FakeCluster) -> None:
    await journal.drop(await journal.create(ENTRY))

    assert cluster.objects(CONFIG_MAPS, NAMESPACE) == []


async def test_only_the_version_that_was_read_is_deleted(journal: KubeJournal) -> None:
    created = await journal.create(ENTRY)
    saved = await journal.save(created.deleting())

    with pytest.raises(Conflict):
        await journal.drop(created)

    assert await journal.read(PV) == saved


async def test_an_entry_of_a_later_replacement_is_not_deleted(journal: KubeJournal) -> None:
    first = await journal.create(ENTRY)
    await journal.drop(first)
    second = await journal.create(ENTRY)

    with pytest.raises(Conflict):
        await journal.drop(first)

    assert await journal.read(PV) == second


async def test_deleting_a_missing_entry_is_a_success(journal: KubeJournal) -> None:
    created = await journal.create(ENTRY)

    await journal.drop(created)
    await journal.drop(created)


async def test_few_of_the_deleted_entries_that_finalizers_keep_are_remembered(
    journal: KubeJournal, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_journal, "MOST_HELD", 2)
    entries = [entry_for(f"pv-{number}") for number in range(3)]
    for entry in entries:
        await journal.create(entry)
        kept = {"metadata": {"finalizers": ["example.com/stay"]}}
        cluster.patch(CONFIG_MAPS, configmap_name(entry.pv), kept, namespace=NAMESPACE)
        found = await journal.read(entry.pv)
        assert found is not None
        await journal.drop(found)

    assert await journal.all() == listed(entries[0])


@pytest.mark.parametrize("length", [1, 238, 239, 240, 253])
async def test_any_volume_name_makes_a_valid_entry_name(journal: KubeJournal, length: int) -> None:
    name = "x" * length

    created = await journal.create(entry_for(name))

    assert await journal.read(PvName(name)) == created


def test_every_volume_name_makes_a_unique_entry_name() -> None:
    names = [PvName(letter * length) for letter in "ab" for length in (1, 238, 239, 240, 253)]

    assert len({configmap_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("letter", ["x", '"', "\n", "ä"])
async def test_a_volume_with_the_largest_annotations_fits(
    journal: KubeJournal, letter: str
) -> None:
    text = letter * ((256 * 1024 - 100) // len(letter.encode()))
    pv = with_metadata(volume(), annotations={"a": text})

    created = await journal.create(begun(pv))

    assert await journal.all() == listed(created)
    assert created.wanted["metadata"]["annotations"] == {"a": text}


@pytest.mark.parametrize(
    "unreadable",
    [
        pytest.param({"metadata": {"annotations": {"x": "," * 250_000}}}, id="too many values"),
        pytest.param({"spec": {"claimRef": {"name": "Not Valid"}}}, id="a claim's name"),
        pytest.param({"metadata": {"annotations": {"x": "\ud800"}}}, id="half a surrogate pair"),
    ],
)
async def test_an_entry_that_could_not_be_read_again_is_not_written(
    journal: KubeJournal, cluster: FakeCluster, unreadable: Json
) -> None:
    entry = begun(applied(volume(), unreadable))

    with pytest.raises(Refused, match="read again"):
        await journal.create(entry)
    assert cluster.get(CONFIG_MAPS, configmap_name(PV), NAMESPACE) is None

    stored = await journal.create(ENTRY)
    with pytest.raises(Refused, match="read again"):
        await journal.save(replace(entry, version=stored.version))
    assert await journal.read(PV) == stored


async def test_a_rejection_by_the_server_is_passed_on(journal: KubeJournal) -> None:
    wanted = with_metadata(dict(ENTRY.wanted), annotations={"a": "x" * 2_000_000})

    with pytest.raises(Refused):
        await journal.create(replace(ENTRY, wanted=wanted))


async def test_a_forbidden_journal_is_reported(journal: KubeJournal, kube: KubeServer) -> None:
    kube.access.denied.add(("create", "configmaps"))

    with pytest.raises(Forbidden):
        await journal.create(ENTRY)


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
                **ENTRY.written(),
                "wanted": {**ENTRY.wanted, "spec": {"hostPath": {"path": "/"}}},
            }
        ).decode(),
        id="a host path",
    ),
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_foreign_config_map_is_reported_and_not_trusted(
    journal: KubeJournal, cluster: FakeCluster, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    good = await journal.create(entry_for("pvc-2"))
    cluster.create(CONFIG_MAPS, config_map(configmap_name(PV), text), namespace=NAMESPACE)

    with caplog.at_level(logging.ERROR):
        found = await journal.all()

    assert found == listed(good, invalid=1)
    assert [record.message for record in caplog.records] == [
        (
            "journal entry is not valid and is ignored until it is corrected or deleted. Find out "
            "who wrote it, and whether the PersistentVolume in the name of the ConfigMap is "
            "missing; see docs/reliability.md"
        )
    ]
    with pytest.raises(BadEntry):
        await journal.read(PV)


async def test_a_foreign_config_map_is_reported_once(
    journal: KubeJournal, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(CONFIG_MAPS, config_map("x", "{}"), namespace=NAMESPACE)

    with caplog.at_level(logging.ERROR):
        await journal.all()
        await journal.all()

    assert len(caplog.records) == 1


async def test_an_entry_under_the_name_of_another_is_not_trusted(
    journal: KubeJournal, cluster: FakeCluster
) -> None:
    text = orjson.dumps(entry_for("pvc-2").written()).decode()
    cluster.create(CONFIG_MAPS, config_map(configmap_name(PV), text), namespace=NAMESPACE)

    with pytest.raises(BadEntry, match="holds the entry of pvc-2"):
        await journal.read(PV)


async def test_other_config_maps_are_ignored(
    journal: KubeJournal, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.create(CONFIG_MAPS, config_map("x", "{}", label="false"), namespace=NAMESPACE)
    cluster.create(CONFIG_MAPS, config_map("y", "{}"), namespace="kube-system")

    assert await journal.all() == listed()
    assert caplog.records == []


async def test_many_entries_are_listed_in_pages(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_pages, "PAGE", 100)
    for number in range(250):
        keep(cluster, entry_for(f"pv-{number}"))

    found = await journal.all()

    assert len(found.volumes) == 250
    assert found.whole
    assert len(kube.log.matching("GET", "limit=100")) == 3


async def test_a_list_that_expires_midway_continues_where_it_was(
    journal: KubeJournal,
    api: KubeApi,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_pages, "PAGE", 10)
    entries = [entry_for(f"pv-{number:02}") for number in range(35)]
    for entry in entries:
        keep(cluster, entry)
    read = api.get_page

    async def forgotten_once(
        path: str, query: Query, *, limit: int, metadata_only: bool
    ) -> tuple[Json, int]:
        if "continue" in query and not kube.log.matching("GET", "continue="):
            kube.compact()
        return await read(path, query, limit=limit, metadata_only=metadata_only)

    monkeypatch.setattr(api, "get_page", forgotten_once)

    assert await journal.all() == listed(*entries)
    assert len(kube.log.matching("GET", "limit=10")) == 4 + 1


async def test_a_list_that_cannot_continue_starts_again(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a proxy, say, swallows what the API server offers."""
    monkeypatch.setattr(kube_pages, "PAGE", 10)
    entries = [entry_for(f"pv-{number:02}") for number in range(15)]
    for entry in entries:
        keep(cluster, entry)
    kube.faults.add(path_regex="continue=", status=410)

    assert await journal.all() == listed(*entries)


async def test_a_list_that_expires_repeatedly_is_retried_later(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_pages, "PAGE", 10)
    for number in range(15):
        keep(cluster, entry_for(f"pv-{number:02}"))
    kube.faults.add(path_regex="continue=", times=1000, status=410)

    with pytest.raises(Again):
        await journal.all()

    assert len(kube.log.matching("GET", "limit=10")) < 20


async def test_a_list_completes_however_often_its_first_page_expires(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The API server forgets after five minutes, and a full reconcile comes each minute."""
    monkeypatch.setattr(kube_journal, "MOST_ENTRIES", 10)
    entries = [entry_for(f"pv-{number:02}") for number in range(35)]
    for entry in entries:
        keep(cluster, entry)

    found: set[PvName] = set()
    for _ in range(4):
        found |= (await journal.all()).volumes.keys()
        kube.compact()

    assert found == {entry.pv for entry in entries}


async def test_a_rejected_continue_token_is_not_used_again(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by an API server of another version, which can't read what the first one gave out."""
    monkeypatch.setattr(kube_journal, "MOST_ENTRIES", 10)
    entries = [entry_for(f"pv-{number:02}") for number in range(15)]
    for entry in entries:
        keep(cluster, entry)
    await journal.all()
    kube.faults.add(path_regex="continue=", times=1, status=400)

    with pytest.raises(Again):
        await journal.all()

    assert await journal.all() == listed(*entries[:10], last=False)


async def test_entries_of_a_failed_list_are_listed_by_the_next_one(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_pages, "PAGE", 10)
    entries = [entry_for(f"pv-{number:02}") for number in range(15)]
    for entry in entries:
        keep(cluster, entry)
    kube.faults.add(path_regex="continue=", times=1, status=500)
    with pytest.raises(Again):
        await journal.all()

    assert await journal.all() == listed(*entries)


async def test_an_entry_has_the_managed_by_label(
    journal: KubeJournal, cluster: FakeCluster
) -> None:
    await journal.create(replace(ENTRY, wanted={**ENTRY.wanted}))

    stored = cluster.get(CONFIG_MAPS, configmap_name(PV), NAMESPACE)

    assert stored is not None
    assert stored["metadata"]["labels"] == {
        LABEL: "true",
        "app.kubernetes.io/managed-by": "linstor-affinity-events",
    }
    assert stored["metadata"]["annotations"] == {
        "linstor-affinity-events/persistent-volume": PV,
        "linstor-affinity-events/linstor-volume": str(ENTRY.key),
    }
    wanted = orjson.loads(stored["data"]["entry.json"])["wanted"]
    assert wanted["spec"]["nodeAffinity"] == on_node("node-b").manifest()


def asked(kube: KubeServer) -> list[str]:
    """The requests for one ConfigMap each."""
    return [request.path for request in kube.log.matching("GET", "/configmaps/.")]


async def test_a_list_reads_metadata_only(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_pages, "PAGE", 100)
    for number in range(120):
        entry = entry_for(f"pv-{number:03}")
        cluster.create(CONFIG_MAPS, labelled(entry, "x" * 1_000_000), namespace=NAMESPACE)

    found = await journal.all()

    # 120 MB, of which nothing was sent.
    assert len(found.volumes) == 120
    assert asked(kube) == []
    assert len(kube.log.matching("GET", "limit=100")) == 2


async def test_pages_of_large_entries_are_shorter(
    journal: KubeJournal, cluster: FakeCluster, kube: KubeServer
) -> None:
    for number in range(60):
        made = labelled(entry_for(f"pv-{number:02}"))
        made["metadata"]["annotations"]["x"] = "x" * 250_000
        cluster.create(CONFIG_MAPS, made, namespace=NAMESPACE)

    found = await journal.all()

    assert len(found.volumes) == 60
    assert found.whole
    # 15 MB, half a page at a time, after some pages that were too long.
    assert len(kube.log.matching("GET", "limit=")) <= 5 + 60 * 250_000 * 2 / PAGE_LIMIT


async def test_annotations_full_of_commas_hide_no_entry(
    journal: KubeJournal, cluster: FakeCluster, kube: KubeServer
) -> None:
    for number in range(8):
        made = labelled(entry_for(f"pv-{number}"))
        made["metadata"]["annotations"]["x"] = "," * 261_500
        cluster.create(CONFIG_MAPS, made, namespace=NAMESPACE)

    found = await journal.all()

    # One page of all of them is short enough, and has too many values.
    assert (len(found.volumes), found.whole) == (8, True)


async def test_pages_are_long_again_after_large_entries(
    journal: KubeJournal, cluster: FakeCluster, kube: KubeServer
) -> None:
    for number in range(1020):
        made = labelled(entry_for(f"pv-{number:04}"))
        if number < 20:
            made["metadata"]["annotations"]["x"] = "x" * 250_000
        cluster.create(CONFIG_MAPS, made, namespace=NAMESPACE)

    found = await journal.all()

    assert len(found.volumes) == 1020
    assert len(kube.log.matching("GET", "limit=")) <= 12


async def test_a_list_of_very_many_continues_where_it_ended(
    journal: KubeJournal,
    cluster: FakeCluster,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_journal, "MOST_ENTRIES", 30)
    names = [f"pv-{number:04}" for number in range(35)]
    for name in names:
        cluster.create(CONFIG_MAPS, labelled(entry_for(name)), namespace=NAMESPACE)

    first, second, third = [await journal.all() for _ in range(3)]

    assert sorted(first.volumes) == names[:30]
    assert sorted(second.volumes) == names[30:]
    assert third == first
    assert (first.whole, second.whole) == (False, False)
    assert (first.first, second.first, second.last) == (True, False, True)
    assert not first.last
    assert [record.message[:40] for record in caplog.records] == [
        "too many journal entries to list all of "
    ]


async def test_thousands_of_large_entries_hide_no_entry(
    journal: KubeJournal, cluster: FakeCluster
) -> None:
    for number in range(3000):
        made = config_map(f"a-{number:04}", "x" * 100_000)
        made["metadata"]["annotations"] = labelled(ENTRY)["metadata"]["annotations"]
        cluster.create(CONFIG_MAPS, made, namespace=NAMESPACE)
    keep(cluster, ENTRY)

    assert PV in (await journal.all()).volumes


async def test_a_list_reads_a_limited_amount(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kube_journal, "MOST_BYTES", 6 * MIB)
    names = {PvName(f"pv-{number:02}") for number in range(12)}
    for name in names:
        made = labelled(entry_for(name))
        # Six characters each in JSON: 1.5 MB.
        made["metadata"]["annotations"]["x"] = "\x01" * 250_000
        cluster.create(CONFIG_MAPS, made, namespace=NAMESPACE)

    first, *others = [await journal.all() for _ in range(5)]

    assert not first.whole
    assert all(len(each.volumes) <= 5 for each in (first, *others))
    assert names == first.volumes.keys() | {name for each in others for name in each.volumes}


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        pytest.param("persistent-volume", None, id="no volume"),
        pytest.param("persistent-volume", "pvc-2", id="another volume"),
        pytest.param("persistent-volume", "../secrets/x", id="a path"),
        pytest.param("linstor-volume", None, id="no LINSTOR volume"),
        pytest.param("linstor-volume", "pvc-1", id="a LINSTOR volume in other words"),
        pytest.param("linstor-volume", "x" * 1000, id="no name of LINSTOR's"),
    ],
)
async def test_an_entry_with_wrong_labels_is_read(
    journal: KubeJournal,
    cluster: FakeCluster,
    kube: KubeServer,
    annotation: str,
    value: str | None,
) -> None:
    made = labelled(ENTRY, orjson.dumps(ENTRY.written()).decode())
    name = f"linstor-affinity-events/{annotation}"
    if value is None:
        del made["metadata"]["annotations"][name]
    else:
        made["metadata"]["annotations"][name] = value
    cluster.create(CONFIG_MAPS, made, namespace=NAMESPACE)

    assert await journal.all() == listed(ENTRY)
    assert len(asked(kube)) == 1


async def test_few_of_the_entries_without_labels_are_read_at_a_time(
    journal: KubeJournal, cluster: FakeCluster, kube: KubeServer
) -> None:
    for number in range(MOST_READS + 5):
        cluster.create(CONFIG_MAPS, config_map(f"x-{number:02}", "{}"), namespace=NAMESPACE)

    first = await journal.all()
    asked_first = len(asked(kube))
    second = await journal.all()

    assert (asked_first, len(asked(kube))) == (MOST_READS, MOST_READS + 5)
    assert (first.whole, second.whole) == (False, True)
    assert (first.first, first.last) == (True, True)


async def test_a_config_map_that_is_not_an_entry_is_not_read_again(
    journal: KubeJournal, cluster: FakeCluster, kube: KubeServer
) -> None:
    cluster.create(CONFIG_MAPS, labelled(ENTRY), namespace=NAMESPACE)
    assert await journal.all() == listed(ENTRY)
    with pytest.raises(BadEntry):
        await journal.read(PV)

    assert await journal.all() == listed(invalid=1)

    text = orjson.dumps(ENTRY.written()).decode()
    cluster.update(CONFIG_MAPS, configmap_name(PV), labelled(ENTRY, text), namespace=NAMESPACE)
    assert await journal.all() == listed(ENTRY)
