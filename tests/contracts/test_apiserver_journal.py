"""Lists of the journal, which both servers cut into pages and forget."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from linstor_affinity_events.adapters.kubernetes import journal as kube_journal
from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.journal import (
    LABEL,
    KubeJournal,
    configmap_name,
)
from linstor_affinity_events.adapters.kubernetes.session import configuration_from
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import Refused
from linstor_affinity_events.model.names import PvName
from tests.adapters.peers import loads
from tests.contracts.conftest import BOTH
from tests.fakes.kube_server import FakeCluster, KubeServer
from tests.model.manifests import begun, volume, with_metadata
from tests.real_parts.cluster import RealCluster

Json = dict[str, Any]

NAMES = [PvName(f"pv-{number:02}") for number in range(24)]


@dataclass(frozen=True)
class JournalNamespace:
    """Where a journal is kept."""

    api: KubeApi
    namespace: str
    forget_history: Callable[[], Awaitable[None]]


@pytest.fixture(params=BOTH)
def journal_namespace(request: pytest.FixtureRequest) -> JournalNamespace:
    found: JournalNamespace = request.getfixturevalue(f"{request.param}_journal_namespace")
    return found


@pytest_asyncio.fixture
async def fake_journal_namespace() -> AsyncIterator[JournalNamespace]:
    async with KubeServer(FakeCluster()) as server:
        api = KubeApi(loads(server.url))

        async def forget_history() -> None:
            server.compact()

        yield JournalNamespace(api, "default", forget_history)
        await api.close()


@pytest_asyncio.fixture
async def real_journal_namespace(
    real_cluster: RealCluster, name: str
) -> AsyncIterator[JournalNamespace]:
    config = configuration_from(kubeconfig=str(real_cluster.kubeconfig), context="", server="")
    api = KubeApi(config)
    await api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield JournalNamespace(api, name, real_cluster.forget_history)
    await api.close()


async def filled(journal_namespace: JournalNamespace) -> KubeJournal:
    """A journal of entries beside which somebody has written some large ones."""
    journal = KubeJournal(journal_namespace.api, journal_namespace.namespace)
    for number, name in enumerate(NAMES):
        made = {"name": f"a-{number}", "labels": {LABEL: "true"}}
        large = {**made, "annotations": {"x": "\n" * 250_000}}
        await journal_namespace.api.create(
            f"/api/v1/namespaces/{journal_namespace.namespace}/configmaps",
            {"metadata": large, "data": {"x": "x" * 500_000}},
        )
        await journal.create(begun(with_metadata(volume(), name=name)))
    return journal


async def test_every_entry_is_listed_after_large_ones(journal_namespace: JournalNamespace) -> None:
    journal = await filled(journal_namespace)

    assert (await journal.all()).volumes.keys() == set(NAMES)


async def test_a_deleted_entry_that_a_finalizer_keeps_is_not_listed_until_it_changes(
    journal_namespace: JournalNamespace,
) -> None:
    api = journal_namespace.api
    journal = KubeJournal(api, journal_namespace.namespace)
    entry = begun(with_metadata(volume(), name=NAMES[0]))
    created = await journal.create(entry)
    path = (
        f"/api/v1/namespaces/{journal_namespace.namespace}/configmaps/{configmap_name(created.pv)}"
    )
    await api.patch(path, {"metadata": {"finalizers": ["example.com/stay"]}})

    for _ in range(2):
        found = await journal.read(created.pv)
        assert found is not None
        await journal.drop(found)
        assert await journal.all() == Listed({})
    new_leader = KubeJournal(api, journal_namespace.namespace)
    assert await new_leader.all() == Listed({created.pv: created.key})
    await api.patch(path, {"metadata": {"labels": {"x": "y"}}})
    assert await journal.all() == Listed({created.pv: created.key})

    await api.patch(path, {"metadata": {"finalizers": None}})
    await journal.create(entry)
    assert await journal.all() == Listed({entry.pv: entry.key})


async def test_a_list_continues_although_its_version_expired(
    journal_namespace: JournalNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_journal, "MOST_ENTRIES", 30)
    journal = await filled(journal_namespace)

    first = await journal.all()
    # What is the latest is never forgotten.
    other = {"metadata": {"name": "other"}}
    await journal_namespace.api.create(
        f"/api/v1/namespaces/{journal_namespace.namespace}/configmaps", other
    )
    await journal_namespace.forget_history()
    second = await journal.all()

    assert first.volumes.keys() == set(NAMES[:6])
    assert second.volumes.keys() == set(NAMES[6:])


async def test_a_namespace_that_does_not_exist_is_named(
    journal_namespace: JournalNamespace,
) -> None:
    """The API server says that it has not found it, as it says of any other object."""
    journal = KubeJournal(journal_namespace.api, "is-not-there")

    with pytest.raises(Refused, match=r"namespace is-not-there, .* does not exist"):
        await journal.create(begun(volume()))
    with pytest.raises(Refused, match=r"namespace is-not-there, .* does not exist"):
        await journal.dry_run_creation()
    assert await journal.all() == Listed({})


async def test_whether_entries_can_be_created_is_tried_in_a_dry_run(
    journal_namespace: JournalNamespace,
) -> None:
    journal = KubeJournal(journal_namespace.api, journal_namespace.namespace)

    await journal.dry_run_creation()

    assert await journal.all() == Listed({})
