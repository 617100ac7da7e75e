"""The switches of the fake kube-apiserver, which the real one does not have."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.contracts.kube_client import CLAIMS, VOLUMES, Json, KubeClient
from tests.contracts.manifests import OURS, affinity, claim, claim_ref, volume
from tests.fakes.kube_server import Binder, FakeCluster, KubeServer, Refusal

GONE = (aiohttp.ClientError, EOFError, ConnectionError)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest_asyncio.fixture
async def server(cluster: FakeCluster) -> AsyncIterator[KubeServer]:
    async with KubeServer(cluster) as running:
        yield running


@pytest_asyncio.fixture
async def kube(server: KubeServer) -> AsyncIterator[KubeClient]:
    async with aiohttp.ClientSession(server.url) as session:
        yield KubeClient(session)


async def test_a_fault_applies_as_often_as_configured(server: KubeServer, kube: KubeClient) -> None:
    fault = server.faults.add(method="GET", path_regex="/pv-1$", status=503, times=2)

    statuses = [(await kube.get(f"{VOLUMES}/pv-1")).status for _ in range(3)]
    other = await kube.get(f"{VOLUMES}/pv-2")

    assert statuses == [503, 503, 404]
    assert (other.status, fault.hits) == (404, 2)


async def test_a_429_has_retry_after(server: KubeServer, kube: KubeClient) -> None:
    server.faults.add(status=429, retry_after=7)

    reply = await kube.get(VOLUMES)

    assert (reply.status, reply.reason, reply.headers["Retry-After"]) == (
        429,
        "TooManyRequests",
        "7",
    )


@pytest.mark.parametrize(("when", "made"), [("before", False), ("after", True)])
async def test_a_connection_can_be_cut_before_or_after_the_request_is_processed(
    server: KubeServer, kube: KubeClient, cluster: FakeCluster, when: str, made: bool
) -> None:
    server.faults.add(method="POST", drop_before=when == "before", drop_after=when == "after")

    with pytest.raises(GONE):
        await kube.post(VOLUMES, volume("pv-1"))

    assert (cluster.get("persistentvolumes", "pv-1") is not None) is made
    assert server.log.latest[-1].status == 0


async def test_a_response_can_be_late_for_a_processed_request(
    server: KubeServer, cluster: FakeCluster
) -> None:
    server.faults.add(method="POST", delay_after=30)
    impatient = aiohttp.ClientTimeout(total=0.2)

    async with aiohttp.ClientSession(server.url, timeout=impatient) as session:
        with pytest.raises(TimeoutError):
            await KubeClient(session).post(VOLUMES, volume("pv-1"))

    assert cluster.get("persistentvolumes", "pv-1") is not None


async def test_requests_are_recorded(server: KubeServer, kube: KubeClient) -> None:
    await kube.get(f"{VOLUMES}/pv-1")
    await kube.post(VOLUMES, volume("pv-1"), dryRun="All")

    [posted] = server.log.matching("POST", r"persistentvolumes\?dryRun=All")

    assert (posted.status, server.log.by_method) == (201, {"GET": 1, "POST": 1})


async def test_an_older_server_does_not_support_initial_events(
    server: KubeServer, kube: KubeClient
) -> None:
    server.initial_events_supported = False
    query = {"watch": "1", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}

    reply = await kube.get(VOLUMES, **query)

    assert (reply.status, reply.causes) == (422, [("FieldValueForbidden", "sendInitialEvents")])


async def test_bookmarks_are_sent_at_the_configured_interval(
    server: KubeServer, kube: KubeClient, cluster: FakeCluster
) -> None:
    server.bookmark_every = 0.01
    cluster.create("persistentvolumes", volume("pv-1"))

    async with kube.watch(
        VOLUMES, resourceVersion=str(cluster.version), allowWatchBookmarks="true"
    ) as lines:
        marks = [await lines.next() for _ in range(2)]

    for mark in marks:
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"] == {"resourceVersion": str(cluster.version)}


async def test_open_watches_can_be_cut(server: KubeServer, kube: KubeClient) -> None:
    async with kube.watch(VOLUMES) as lines:
        server.cut_watches()

        with pytest.raises(GONE):
            await lines.next()


async def test_open_watches_can_expire(server: KubeServer, kube: KubeClient) -> None:
    async with kube.watch(VOLUMES) as lines:
        server.expire_watches()

        error = await lines.next()

    assert (error["type"], error["object"]["code"]) == ("ERROR", 410)


async def test_a_watch_ends_when_its_client_disconnects(server: KubeServer) -> None:
    async with aiohttp.ClientSession(server.url) as session, KubeClient(session).watch(VOLUMES):
        assert server.open_watches == 1

    async with asyncio.timeout(5):
        await server.watches_ended()


async def test_short_history_expires_by_itself(tmp_path: Path) -> None:
    cluster = FakeCluster(history_limit=3)
    cluster.create("persistentvolumes", volume("pv-1"))
    version = str(cluster.version)
    for number in range(5):
        patch = {"metadata": {"labels": {"n": str(number)}}}
        cluster.patch("persistentvolumes", "pv-1", patch)

    async with KubeServer(cluster) as server, aiohttp.ClientSession(server.url) as session:
        async with KubeClient(session).watch(VOLUMES, resourceVersion=version) as lines:
            error = await lines.next()
        server.write_kubeconfig(tmp_path / "config")

    assert error["object"]["code"] == 410
    assert server.url in (tmp_path / "config").read_text()


async def test_a_restarted_server_keeps_its_state(server: KubeServer, kube: KubeClient) -> None:
    await kube.post(VOLUMES, volume("pv-1"))
    url = server.url

    await server.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await kube.get(VOLUMES)
    await server.start()

    assert server.url == url
    assert (await kube.get(f"{VOLUMES}/pv-1")).status == 200


async def test_denied_requests_are_forbidden_and_reviewed_as_denied(
    server: KubeServer, kube: KubeClient
) -> None:
    server.access.denied.add(("patch", "persistentvolumes"))
    wish = {"resourceAttributes": {"verb": "patch", "resource": "persistentvolumes"}}

    review = await kube.post(
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {"spec": wish}
    )
    patched = await kube.patch(f"{VOLUMES}/pv-1", {})
    read = await kube.get(f"{VOLUMES}/pv-1")

    assert review.body["status"] == {"allowed": False}
    assert (patched.status, patched.reason, read.status) == (403, "Forbidden", 404)


async def test_large_clusters_are_served_in_pages(kube: KubeClient, cluster: FakeCluster) -> None:
    names = [f"pv-{number:05}" for number in range(5000)]
    cluster.load("persistentvolumes", (volume(name) for name in names))

    observed: list[str] = []
    query = {"limit": "500"}
    while True:
        page = await kube.get(VOLUMES, **query)
        observed += [item["metadata"]["name"] for item in page.body["items"]]
        if "continue" not in page.metadata:
            break
        query["continue"] = page.metadata["continue"]

    assert observed == names


def test_state_can_be_read_and_written_without_http(cluster: FakeCluster) -> None:
    made = cluster.create("persistentvolumes", volume("pv-1"))

    made["spec"]["storageClassName"] = "changed outside"

    [preserved] = cluster.objects("persistentvolumes")
    assert preserved["spec"]["storageClassName"] == "pv-1"
    with pytest.raises(Refusal) as refused:
        cluster.create("persistentvolumes", volume("pv-1"))
    assert refused.value.code == 409


async def test_changes_can_be_followed_without_http(cluster: FakeCluster) -> None:
    with cluster.subscribe("persistentvolumes") as changes:
        cluster.create("persistentvolumes", volume("pv-1"))
        cluster.patch("persistentvolumes", "pv-1", {"metadata": {"finalizers": None}})
        cluster.delete("persistentvolumes", "pv-1")

        kinds = [(await anext(changes)).kind for _ in range(3)]

    assert kinds == ["ADDED", "MODIFIED", "DELETED"]


def bound_pair(cluster: FakeCluster, name: str) -> None:
    """A claim and its volume, which our finalizer holds, as the binder will have them."""
    made = cluster.create("persistentvolumeclaims", claim(name), namespace="default")
    held = {"finalizers": [OURS]}
    reference = claim_ref(name, made["metadata"]["uid"])
    cluster.create(
        "persistentvolumes",
        volume(name, metadata=held, claimRef=reference, nodeAffinity=affinity("a")),
    )


def phase(cluster: FakeCluster, name: str) -> tuple[str, str]:
    """That of the volume and that of the claim."""
    found = cluster.get("persistentvolumes", name)
    pending = cluster.get("persistentvolumeclaims", name, "default")
    assert pending is not None
    return (found["status"]["phase"] if found else "gone"), pending["status"]["phase"]


async def replaced(kube: KubeClient, name: str, *, guarded: Json | None) -> None:
    """Delete and create as fast as can be, or with a tombstone that the binder has seen."""
    path = f"{VOLUMES}/{name}"
    was = (await kube.get(path)).body
    await kube.delete(path)
    if guarded is not None:
        await kube.patch(path, {"spec": {"claimRef": guarded}})
        await kube.until_phase(path, "Released")
    await kube.patch(path, {"metadata": {"finalizers": None}})
    await kube.until_gone(path)
    made = await kube.post(VOLUMES, {**was, "metadata": {"name": name}})
    assert made.status == 201


async def test_a_replacement_without_claim_guard_loses_the_claim(
    kube: KubeClient, cluster: FakeCluster
) -> None:
    async with Binder(cluster) as binder:
        bound_pair(cluster, "pv-1")
        await binder.until_idle()

        await replaced(kube, "pv-1", guarded=None)
        await binder.until_idle()

        assert binder.lost_claims == [("default", "pv-1")]


async def test_a_replacement_with_claim_guard_keeps_the_claim(
    kube: KubeClient, cluster: FakeCluster
) -> None:
    async with Binder(cluster) as binder:
        names = [f"pv-{number}" for number in range(20)]
        for name in names:
            bound_pair(cluster, name)
        await binder.until_idle()

        tombstone = {"name": "tombstone"}
        await asyncio.gather(*(replaced(kube, name, guarded=tombstone) for name in names))
        await binder.until_idle()

        assert binder.lost_claims == []
        assert {phase(cluster, name) for name in names} == {("Bound", "Bound")}


async def test_a_paused_binder_does_nothing_until_resumed(cluster: FakeCluster) -> None:
    async with Binder(cluster, delay=0) as binder:
        await binder.until_idle()
        binder.pause()
        bound_pair(cluster, "pv-1")
        for _ in range(100):
            await asyncio.sleep(0)
        before = phase(cluster, "pv-1")

        binder.resume()
        await binder.until_idle()

        assert before == ("Pending", "Pending")
        assert phase(cluster, "pv-1") == ("Bound", "Bound")


async def test_a_busy_binder_lags_behind(cluster: FakeCluster) -> None:
    async with Binder(cluster, delay=0.01) as binder:
        began = time.monotonic()
        for number in range(10):
            bound_pair(cluster, f"pv-{number}")

        await binder.until_idle()

        # A pair takes three writes: the volume's phase, the claim, the claim's status.
        assert time.monotonic() - began >= 10 * 3 * 0.01


async def test_claims_are_namespaced(kube: KubeClient, cluster: FakeCluster) -> None:
    cluster.create("namespaces", {"metadata": {"name": "apps"}})
    cluster.create(
        "persistentvolumeclaims", claim("here") | {"metadata": {"name": "here"}}, namespace="apps"
    )

    there = await kube.get(f"{CLAIMS.replace('default', 'apps')}/here")
    not_there = await kube.get(f"{CLAIMS}/here")

    assert (there.status, not_there.status) == (200, 404)
