"""What the real API server stores of `managedFields` unread, and returns to everybody."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.election import ElectionTimes, LeaseElection
from linstor_affinity_events.adapters.kubernetes.index import ClassStore, VolumeIndex
from linstor_affinity_events.adapters.kubernetes.informer import Informer
from linstor_affinity_events.adapters.kubernetes.journal import LABEL, KubeJournal
from linstor_affinity_events.adapters.kubernetes.lease import LeaseName
from linstor_affinity_events.adapters.kubernetes.session import configuration_from
from linstor_affinity_events.adapters.kubernetes.volumes import KubeVolumes
from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.errors import Conflict
from linstor_affinity_events.model.manifest import is_terminating
from linstor_affinity_events.model.names import ClaimName, PvName
from tests.adapters.peers import TIMEOUT, running, until
from tests.contracts.conftest import Apiserver
from tests.contracts.kube_client import CLAIMS, CONFIG_MAPS, LEASES, STORAGE_CLASSES, VOLUMES
from tests.contracts.manifests import claim, volume
from tests.real_parts.cluster import RealCluster

Json = dict[str, Any]
WriteFields = Callable[[str, Json, str], Awaitable[None]]

pytestmark = pytest.mark.real

DEEP = '{"f:x":' * 1500 + "{}" + "}" * 1500
WRITABLE = '{"f:x":' * 300 + "{}" + "}" * 300
"""So deep that it can be parsed, and not be written."""

NOT_UTF8 = '{"f:\udcff":{}}'
ODD = [
    pytest.param(DEEP, id="1,500 levels"),
    pytest.param(WRITABLE, id="300 levels"),
    pytest.param(NOT_UTF8, id="not UTF-8"),
]


@pytest.fixture
async def written(apiserver: Apiserver, real_cluster: RealCluster) -> AsyncIterator[WriteFields]:
    """Creates an object and replaces it by one with these fields, which no JSON library would
    write or read. It is deleted at the end, so that nothing else meets it.
    """
    paths = []
    async with apiserver.sign_in(f"Bearer {real_cluster.token}") as session:

        async def write(path: str, body: Json, fields: str) -> None:
            made = (await apiserver.kube.post(path, body)).body
            paths.append(f"{path}/{made['metadata']['name']}")
            if path == VOLUMES:
                # The binder's first write would be in conflict with those of the test.
                await apiserver.kube.until(paths[-1], lambda pv: pv["status"]["phase"] != "Pending")
            entry = {
                "manager": "x",
                "operation": "Update",
                "apiVersion": body["apiVersion"],
                "time": "2026-01-01T00:00:00Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": "HERE"}},
            }
            metadata = {**made["metadata"], "managedFields": [entry]}
            if path != LEASES:
                # The binder writes to volumes and claims meanwhile.
                del metadata["resourceVersion"]
            text = json.dumps({**made, "metadata": metadata}).replace('"HERE"', fields)
            raw = text.encode(errors="surrogateescape")
            assert await status_of(session, "PUT", paths[-1], raw) == 200

        yield write
        for path in paths:
            await status_of(session, "DELETE", path)
            async with asyncio.timeout(TIMEOUT):
                # Volumes and claims have finalizers, which their controllers remove.
                while await status_of(session, "GET", path) != 404:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


async def status_of(
    session: aiohttp.ClientSession, method: str, path: str, body: bytes | None = None
) -> int:
    headers = {"Content-Type": "application/json"}
    async with session.request(method, path, data=body, headers=headers) as response:
        await response.read()
        return response.status


@pytest.fixture
def apiserver(real_apiserver: Apiserver) -> Apiserver:
    return real_apiserver


@pytest.fixture
async def api(real_cluster: RealCluster) -> AsyncIterator[KubeApi]:
    config = str(real_cluster.kubeconfig)
    api = KubeApi(configuration_from(kubeconfig=config, context="", server=""))
    yield api
    await api.close()


def storage_class(name: str) -> Json:
    kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass"}
    return {**kind, "metadata": {"name": name}, "provisioner": "x"}


@pytest.mark.parametrize("fields", ODD)
@pytest.mark.parametrize("kind", ["PersistentVolume", "StorageClass"])
async def test_unreadable_fields_of_one_object_keep_no_informer_from_syncing(
    written: WriteFields, api: KubeApi, name: str, kind: str, fields: str
) -> None:
    index, classes = VolumeIndex(lambda _: None), ClassStore()
    path = VOLUMES if kind == "PersistentVolume" else STORAGE_CLASSES
    body = volume(name) if kind == "PersistentVolume" else storage_class(name)
    await written(path, body, fields)
    delays = Backoff(first=0.05, most=0.2, chance=random.Random(1))
    store = index if kind == "PersistentVolume" else classes
    informer = Informer(api, path, store, delays=delays, watch_for=300.0)

    async with running(informer.run()):
        await asyncio.wait_for(informer.synced.wait(), TIMEOUT)

    if kind == "PersistentVolume":
        assert index.get(PvName(name)) is not None


@pytest.mark.parametrize("fields", ODD)
async def test_unreadable_fields_of_one_entry_hide_no_other(
    written: WriteFields, api: KubeApi, name: str, fields: str
) -> None:
    metadata = {"name": f"affinity-journal-{name}", "labels": {LABEL: "true"}}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    await written(CONFIG_MAPS, body, fields)

    listed = await KubeJournal(api, "default").all()

    assert listed.whole


@pytest.mark.parametrize("fields", ODD)
async def test_a_lease_with_unreadable_fields_can_be_taken(
    written: WriteFields, api: KubeApi, name: str, fields: str
) -> None:
    spec = {"holderIdentity": "", "leaseDurationSeconds": 1}
    kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    await written(LEASES, {**kind, "metadata": {"name": name}, "spec": spec}, fields)
    times = ElectionTimes(lease_duration=3, renew_deadline=2, retry_period=0.5)
    election = LeaseElection(
        api,
        LeaseName("default", name),
        "me",
        times,
        on_change=lambda _: None,
        now=lambda: datetime.now(UTC),
    )

    async with running(election.run()):
        await until(lambda: election.leading)


@pytest.mark.parametrize("fields", ODD)
async def test_a_claim_with_unreadable_fields_is_read(
    written: WriteFields, api: KubeApi, name: str, fields: str
) -> None:
    await written(CLAIMS, claim(name), fields)

    found = await KubeVolumes(api, VolumeIndex(lambda _: None)).read_claim(
        ClaimName(namespace="default", name=name)
    )

    assert found is not None
    assert found["metadata"]["name"] == name


@pytest.mark.parametrize("fields", ODD)
async def test_a_volume_with_unreadable_fields_is_removed(
    written: WriteFields, api: KubeApi, apiserver: Apiserver, name: str, fields: str
) -> None:
    """Its finalizers are taken off by a write of the whole object."""
    volumes = KubeVolumes(api, VolumeIndex(lambda _: None))
    finalizers = {"finalizers": ["linstor-affinity-events/test"]}
    await written(VOLUMES, volume(name, metadata=finalizers), fields)

    async with asyncio.timeout(TIMEOUT):
        while (found := await volumes.read(PvName(name))) is not None:
            # The controllers of Kubernetes write to it as well, so that a version may be outdated.
            with suppress(Conflict):
                await (volumes.remove(found) if is_terminating(found) else volumes.delete(found))

    assert (await apiserver.kube.get(f"{VOLUMES}/{name}")).status == 404
