"""The Kubernetes API server: what becomes of every response, and of none."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client.configuration import Configuration

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, escaped
from linstor_affinity_events.adapters.kubernetes.responses import PER_YIELD
from linstor_affinity_events.adapters.kubernetes.session import (
    LoadConfiguration,
    configuration_from,
)
from linstor_affinity_events.errors import (
    AffinityEventsError,
    Again,
    BadSettings,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    Missing,
    Unreachable,
)
from tests.adapters.peers import (
    CLOSED,
    TIMEOUT,
    counted_yields,
    loads,
    serving,
    unresponsive_peer,
    until,
)
from tests.contracts.manifests import affinity, volume
from tests.fakes.kube_server import FakeCluster, KubeServer

VOLUMES = "/api/v1/persistentvolumes"
PV = f"{VOLUMES}/pv-1"


@asynccontextmanager
async def api_with(load: LoadConfiguration) -> AsyncIterator[KubeApi]:
    api = KubeApi(load)
    try:
        yield api
    finally:
        await api.close()


def api_at(url: str, *, token: str = "") -> AbstractAsyncContextManager[KubeApi]:
    return api_with(loads(url, token=token))


def kubeconfig(server: KubeServer, path: Path, token: str) -> Path:
    return server.write_kubeconfig(path, token=token)


def rotate(server: KubeServer, path: Path, token: str) -> None:
    """Have the server accept this token only, and write it where it is loaded from."""
    server.access.tokens = {token: "me"}
    kubeconfig(server, path, token)


def load_from(path: Path, *, server: str = "") -> LoadConfiguration:
    return configuration_from(kubeconfig=str(path), context="", server=server)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Unreachable),
        (403, Forbidden),
        (404, Missing),
        (409, Conflict),
        (410, Expired),
        (413, Invalid),
        (415, Invalid),
        (422, Invalid),
        (429, Unreachable),
        (500, Unreachable),
        (502, Unreachable),
        (503, Unreachable),
        (504, Unreachable),
        (307, Unreachable),
    ],
)
async def test_every_error_response_maps_to_the_next_step(
    api: KubeApi, kube: KubeServer, status: int, kind: type[AffinityEventsError]
) -> None:
    kube.faults.add(status=status, times=2)

    with pytest.raises(kind) as raised:
        await api.get(PV)

    assert type(raised.value) is kind
    assert f"GET {PV}" in str(raised.value)


@pytest.mark.parametrize(("status", "after"), [(429, 7), (503, 1), (503, None)])
async def test_retry_after_is_respected(
    api: KubeApi, kube: KubeServer, status: int, after: int | None
) -> None:
    kube.faults.add(status=status, retry_after=after)

    with pytest.raises(Again) as raised:
        await api.get(PV)

    assert raised.value.after == after


@pytest.mark.parametrize(
    ("given", "after"),
    [("86400", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("²", None)],
)
async def test_retry_after_is_capped(given: str, after: float | None) -> None:
    async with serving(429, headers={"Retry-After": given}) as (url, _), api_at(url) as api:
        with pytest.raises(Again) as raised:
            await api.get(PV)

    assert raised.value.after == after


@pytest.mark.parametrize("status", [429, 503])
async def test_a_request_with_retry_after_is_not_repeated_sooner(
    api: KubeApi, kube: KubeServer, status: int
) -> None:
    """By whomever; everything else goes on."""
    kube.faults.add(status=status, retry_after=30)
    with pytest.raises(Unreachable):
        await api.get(PV)

    with pytest.raises(Unreachable, match="asked to retry later") as raised:
        await api.get(PV)
    with pytest.raises(Missing):
        await api.get(f"{VOLUMES}/pv-2")

    assert raised.value.after is not None
    assert 20 < raised.value.after <= 30
    assert [request.status for request in kube.log.latest] == [status, 404]


async def test_a_creation_with_retry_after_does_not_delay_others(
    api: KubeApi, kube: KubeServer
) -> None:
    kube.faults.add(status=429, retry_after=30)
    with pytest.raises(Unreachable):
        await api.create(VOLUMES, volume("pv-1"), dry_run=True)

    for name, dry_run in (("pv-1", False), ("pv-2", True)):
        await api.create(VOLUMES, volume(name), dry_run=dry_run)
    with pytest.raises(Unreachable, match="asked to retry later"):
        await api.create(VOLUMES, volume("pv-1"), dry_run=True)


async def test_a_watch_with_retry_after_is_not_opened_sooner(
    api: KubeApi, kube: KubeServer
) -> None:
    kube.faults.add(status=429, retry_after=30)
    for _ in range(2):
        with pytest.raises(Unreachable):
            async with api.watch(VOLUMES, {}):
                pass

    assert len(kube.log.latest) == 1


@pytest.mark.fast_clock(100)
async def test_a_request_is_repeated_after_retry_after() -> None:
    async with KubeServer(FakeCluster()) as kube, api_at(kube.url) as api:
        kube.faults.add(status=429, retry_after=30)
        with pytest.raises(Unreachable):
            await api.get(VOLUMES)
        await asyncio.sleep(30)
        assert (await api.get(VOLUMES))["kind"] == "PersistentVolumeList"


async def test_a_rejection_names_the_fields(api: KubeApi, cluster: FakeCluster) -> None:
    cluster.create("persistentvolumes", volume("pv-1", nodeAffinity=affinity("n1")))

    with pytest.raises(Invalid, match="immutable") as raised:
        await api.patch(PV, {"spec": {"nodeAffinity": affinity("n2")}})

    assert raised.value.fields == ("nodeAffinity",)


async def test_a_failed_request_is_not_repeated(api: KubeApi, kube: KubeServer) -> None:
    kube.faults.add(status=500, times=5)

    with pytest.raises(Unreachable):
        await api.create(VOLUMES, volume("pv-1"))

    assert len(kube.log.matching("POST")) == 1


async def test_a_broken_connection_is_reported_and_the_request_not_repeated(
    api: KubeApi, kube: KubeServer, cluster: FakeCluster
) -> None:
    kube.faults.add(method="POST", drop_after=True)

    with pytest.raises(Unreachable):
        await api.create(VOLUMES, volume("pv-1"))

    assert kube.log.by_status == {201: 1, 0: 1}
    assert cluster.get("persistentvolumes", "pv-1") is not None


async def test_an_unreachable_server_is_reported() -> None:
    async with api_at(CLOSED) as api:
        with pytest.raises(Unreachable):
            await api.get(PV)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b"null", b"[" * 10_000])
async def test_a_successful_response_of_the_wrong_shape_is_an_error(body: bytes) -> None:
    async with serving(200, body) as (url, _), api_at(url) as api:
        with pytest.raises(Unreachable):
            await api.get(PV)


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway", b"null"])
async def test_an_error_response_not_written_by_kubernetes_counts_by_its_status(
    body: bytes,
) -> None:
    async with serving(404, body) as (url, _), api_at(url) as api:
        with pytest.raises(AffinityEventsError) as raised:
            await api.get(PV)

    assert not isinstance(raised.value, Conflict | Invalid | Forbidden)


@pytest.mark.parametrize(
    "body",
    [
        {"details": "x"},
        {"details": {"causes": "x"}},
        {"details": {"causes": ["x"]}},
        {"details": {"causes": 7}},
        {"details": {"causes": {"a": "b"}}},
        {"message": {"a": 1}},
    ],
    ids=str,
)
async def test_a_rejection_of_the_wrong_shape_is_still_a_rejection(body: Any) -> None:
    async with serving(422, json.dumps(body).encode()) as (url, _), api_at(url) as api:
        with pytest.raises(Invalid):
            await api.patch(PV, {})


async def test_a_decompression_bomb_is_cut_off() -> None:
    packed = gzip.compress(b" " * (65 * 1024 * 1024), compresslevel=1)
    headers = {"Content-Encoding": "gzip"}

    async with serving(200, packed, headers) as (url, _), api_at(url) as api:
        with pytest.raises(Unreachable, match="more than 64 MiB"):
            await api.get(PV)


async def test_a_redirect_is_not_followed_and_the_token_is_not_sent_elsewhere() -> None:
    async with serving() as (elsewhere, heard):
        headers = {"Location": f"{elsewhere}{PV}"}
        async with serving(307, b"", headers) as (url, _), api_at(url, token="t") as api:
            with pytest.raises(Unreachable, match="redirected"):
                await api.get(PV)
            with pytest.raises(Unreachable, match="redirected"):
                async with api.watch(VOLUMES, {}) as events:
                    await anext(events)

    assert heard == []


async def test_a_rotated_token_is_loaded_once_and_the_request_repeated(
    kube: KubeServer, tmp_path: Path
) -> None:
    path = kubeconfig(kube, tmp_path / "config", "old")
    kube.access.tokens = {"old": "me"}
    async with api_with(load_from(path)) as api:
        await api.get(VOLUMES)
        kubeconfig(kube, path, "new")
        kube.access.tokens = {"new": "me"}
        kube.log.clear()

        listed = await api.get(VOLUMES)

    assert listed["kind"] == "PersistentVolumeList"
    assert [request.status for request in kube.log.latest] == [401, 200]


async def test_a_token_can_be_rotated_any_number_of_times(kube: KubeServer, tmp_path: Path) -> None:
    path = kubeconfig(kube, tmp_path / "config", "token-0")
    async with api_with(load_from(path)) as api:
        for number in range(5):
            rotate(kube, path, f"token-{number}")

            assert (await api.get(VOLUMES))["kind"] == "PersistentVolumeList"


async def test_an_unknown_token_is_sent_at_most_twice(kube: KubeServer, tmp_path: Path) -> None:
    kube.access.tokens = {}
    path = kubeconfig(kube, tmp_path / "config", "old")

    async with api_with(load_from(path)) as api:
        with pytest.raises(Unreachable, match="Unauthorized"):
            await api.get(VOLUMES)

    assert len(kube.log.latest) == 2


async def test_many_unauthorized_requests_reload_the_credentials_once(kube: KubeServer) -> None:
    loaded = 0

    async def load() -> Configuration:
        nonlocal loaded
        loaded += 1
        return await loads(kube.url, token="old" if loaded == 1 else "new")()

    kube.access.tokens = {"new": "me"}
    async with api_with(load) as api:
        responses = await asyncio.gather(
            *(api.get(VOLUMES) for _ in range(8)), return_exceptions=True
        )

    assert loaded == 2
    assert [
        response for response in responses if not isinstance(response, dict | Unreachable)
    ] == []


async def test_credentials_that_cannot_be_reloaded_are_reported(
    kube: KubeServer, tmp_path: Path
) -> None:
    path = kubeconfig(kube, tmp_path / "config", "old")
    async with api_with(load_from(path)) as api:
        await api.open()
        kube.access.tokens = {}
        path.write_text("garbage: [")

        with pytest.raises(Unreachable):
            await api.get(VOLUMES)


async def test_a_watch_goes_on_while_credentials_are_reloaded(
    kube: KubeServer, tmp_path: Path
) -> None:
    """Its session is closed when it ends, not before: closed under it, it would never end."""
    path = kubeconfig(kube, tmp_path / "config", "token-0")
    kube.access.tokens = {"token-0": "me"}
    async with api_with(load_from(path)) as api, api.watch(VOLUMES, {}) as events:
        for number in range(1, 4):
            rotate(kube, path, f"token-{number}")
            await api.get(VOLUMES)
        await api.create(VOLUMES, volume("pv-1"))

        event = await asyncio.wait_for(anext(events), TIMEOUT)

    assert event["object"]["metadata"]["name"] == "pv-1"


async def test_sessions_from_before_a_reload_are_closed(kube: KubeServer, tmp_path: Path) -> None:
    path = kubeconfig(kube, tmp_path / "config", "token-0")
    async with api_with(load_from(path)) as api:
        for number in range(8):
            rotate(kube, path, f"token-{number}")
            await api.get(VOLUMES)

        await until(lambda: kube.open_connections == 1)


@pytest.mark.parametrize("empty", ["", "\n"], ids=repr)
async def test_an_empty_token_file_leaves_the_last_token_in_use(
    kube: KubeServer, tmp_path: Path, empty: str
) -> None:
    """It is empty for a moment while it is written. Requests without a token are Forbidden, not
    Unauthorized, so that no other token would be loaded.
    """
    file = tmp_path / "token"
    file.write_text("old")
    kube.access.tokens = {"old": "me"}
    path = kube.write_kubeconfig(tmp_path / "config", token_file=str(file))
    async with api_with(load_from(path)) as api:
        await api.get(VOLUMES)
        kube.access.tokens = {"new": "me"}
        file.write_text(empty)
        with pytest.raises(Unreachable, match="token file may be empty"):
            await api.get(VOLUMES)
        with pytest.raises(Unreachable, match="token file may be empty"):
            async with api.watch(VOLUMES, {}):
                pass
        file.write_text("new")

        assert (await api.get(VOLUMES))["kind"] == "PersistentVolumeList"


async def test_a_token_file_that_is_empty_at_the_start_is_read_again(
    kube: KubeServer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("")
    kube.access.tokens = {"new": "me"}
    path = kube.write_kubeconfig(tmp_path / "config", token_file=str(file))
    async with api_with(load_from(path)) as api:
        with pytest.raises(Forbidden, match="anonymous"):
            await api.get(VOLUMES)
        file.write_text("new")

        assert (await api.get(VOLUMES))["kind"] == "PersistentVolumeList"


async def test_forbidden_requests_without_credentials_are_not_repeated(kube: KubeServer) -> None:
    kube.access.tokens = {}
    async with api_with(loads(kube.url)) as api:
        for _ in range(3):
            with pytest.raises(Forbidden):
                await api.get(VOLUMES)

    assert [request.status for request in kube.log.latest] == [403, 403, 403]


@pytest.mark.parametrize("text", ["", "garbage: [", "[]", "kind: Config", "\0"])
async def test_a_kubeconfig_that_is_not_valid_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)

    with pytest.raises(BadSettings, match="--kubeconfig"):
        await load_from(path)()


async def test_a_missing_kubeconfig_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="--kubeconfig"):
        await load_from(tmp_path / "nothing")()


async def test_the_server_can_be_overridden(kube: KubeServer, tmp_path: Path) -> None:
    path = kubeconfig(kube, tmp_path / "config", "t")

    configuration = await load_from(path, server="https://example.com:6443/")()

    assert configuration.host == "https://example.com:6443"


async def test_writes_have_a_field_manager(
    api: KubeApi, kube: KubeServer, cluster: FakeCluster
) -> None:
    await api.create(VOLUMES, volume("pv-1"))
    await api.patch(PV, {"metadata": {"labels": {"a": "b"}}})
    stored = cluster.get("persistentvolumes", "pv-1")
    assert stored is not None
    await api.replace(PV, {**stored, "metadata": {**stored["metadata"], "labels": {"a": "c"}}})

    managers = {request.query for request in kube.log.latest}

    assert managers == {"fieldManager=linstor-affinity-events"}


async def test_a_dry_run_changes_nothing(api: KubeApi, cluster: FakeCluster) -> None:
    made = cluster.create("persistentvolumes", volume("pv-1"))
    uid, version = made["metadata"]["uid"], made["metadata"]["resourceVersion"]

    await api.create(VOLUMES, volume("pv-2"), dry_run=True)
    await api.patch(PV, {"metadata": {"labels": {"a": "b"}}}, dry_run=True)
    await api.delete(PV, uid=uid, version=version, dry_run=True)

    assert cluster.objects("persistentvolumes") == [made]


@pytest.mark.parametrize("wrong", ["uid", "version"])
async def test_a_deletion_is_guarded_by_uid_and_version(
    api: KubeApi, cluster: FakeCluster, wrong: str
) -> None:
    made = cluster.create("persistentvolumes", volume("pv-1"))
    guard = {"uid": made["metadata"]["uid"], "version": made["metadata"]["resourceVersion"]}

    with pytest.raises(Conflict):
        await api.delete(PV, **{**guard, wrong: "7"})

    assert cluster.get("persistentvolumes", "pv-1") == made


async def test_a_conflict_with_our_own_lost_request_is_a_success(
    api: KubeApi, cluster: FakeCluster, kube: KubeServer
) -> None:
    made = cluster.create("persistentvolumes", volume("pv-1"))
    # Only a connection that was used before makes aiohttp send again by itself.
    await api.get(PV)
    kube.faults.add(method="DELETE", drop_after=True)

    with pytest.raises(Unreachable):
        await api.delete(
            PV, uid=made["metadata"]["uid"], version=made["metadata"]["resourceVersion"]
        )

    assert [r.status for r in kube.log.latest if r.method == "DELETE"][-1] == 409
    left = cluster.get("persistentvolumes", "pv-1")
    assert left is not None
    assert "deletionTimestamp" in left["metadata"]


async def test_an_unusual_name_is_one_segment_of_the_path() -> None:
    async with serving() as (url, heard), api_at(url) as api:
        await api.get(f"{VOLUMES}/{escaped('../pods?watch=1#x%2f ä')}")

    assert heard[0].raw_path == f"{VOLUMES}/..%2Fpods%3Fwatch%3D1%23x%252f%20%C3%A4"


async def test_queries_are_escaped() -> None:
    async with serving() as (url, heard), api_at(url) as api:
        await api.get(VOLUMES, {"labelSelector": "a=b&c", "continue": "x+/="})

    assert dict(heard[0].query) == {"labelSelector": "a=b&c", "continue": "x+/="}


async def test_a_watch_yields_events_as_they_arrive(api: KubeApi, cluster: FakeCluster) -> None:
    async with api.watch(VOLUMES, {"resourceVersion": str(cluster.version)}) as events:
        cluster.create("persistentvolumes", volume("pv-1"))
        event = await anext(events)
        await events.aclose()

    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "pv-1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, Forbidden), (404, Missing), (410, Expired), (422, Invalid), (500, Unreachable)],
)
async def test_a_watch_that_is_not_opened_maps_to_the_next_step(
    api: KubeApi, kube: KubeServer, status: int, kind: type[AffinityEventsError]
) -> None:
    kube.faults.add(status=status)

    with pytest.raises(kind):
        async with api.watch(VOLUMES, {}):
            pass


async def test_a_watch_with_an_expired_token_reloads_it(kube: KubeServer, tmp_path: Path) -> None:
    path = kubeconfig(kube, tmp_path / "config", "old")
    async with api_with(load_from(path)) as api:
        await api.open()
        kubeconfig(kube, path, "new")
        kube.access.tokens = {"new": "me"}
        with pytest.raises(Unreachable):
            async with api.watch(VOLUMES, {}):
                pass

        async with api.watch(VOLUMES, {}):
            opened = kube.open_watches

    assert opened == 1


async def all_events(api: KubeApi) -> list[str]:
    async with api.watch(VOLUMES, {}) as events:
        return [event["type"] async for event in events]


GOOD = b'{"type":"ADDED","object":{"metadata":{"name":"x","uid":"u","resourceVersion":"1"}}}\n'


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        pytest.param(
            b'{"type":"ERROR","object":{"code":410,"message":"too old"}}\n', Expired, id="410"
        ),
        pytest.param(
            b'{"type":"ERROR","object":{"code":500,"message":"oh"}}\n', Unreachable, id="500"
        ),
        pytest.param(b'{"type":"ERROR","object":{}}\n', Unreachable, id="error without a word"),
        pytest.param(b"<html>\n", Unreachable, id="no JSON"),
        pytest.param(b'{"type":"ADDED"\n', Unreachable, id="half a line"),
        pytest.param(b"[]\n", Unreachable, id="a list"),
        pytest.param(b'{"type":"ADDED"}\n', Unreachable, id="no object"),
        pytest.param(b'{"type":"ADDED","object":[]}\n', Unreachable, id="object that is a list"),
        pytest.param(b'{"type":"ADDED","object":{}}\n', Unreachable, id="object without metadata"),
        pytest.param(
            b'{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n', Unreachable, id="no version"
        ),
        pytest.param(
            b'{"type":"ADDED","object":{"metadata":"x"}}\n', Unreachable, id="metadata that is text"
        ),
        pytest.param(b"x" * 6_000_000, Unreachable, id="a line without end"),
    ],
)
async def test_a_watch_that_fails_maps_to_the_next_step(
    line: bytes, kind: type[AffinityEventsError]
) -> None:
    async with serving(200, GOOD + line) as (url, _), api_at(url) as api:
        with pytest.raises(kind):
            await all_events(api)


async def test_empty_lines_in_a_watch_are_ignored() -> None:
    async with serving(200, b"\n" + GOOD + b"\n\n") as (url, _), api_at(url) as api:
        reported = await all_events(api)

    assert reported == ["ADDED"]


async def test_other_tasks_run_amid_events_that_arrived_together() -> None:
    async with (
        serving(200, 10 * PER_YIELD.lines * GOOD) as (url, _),
        api_at(url) as api,
        api.watch(VOLUMES, {}) as events,
        counted_yields() as yields,
    ):
        await anext(events)
        # By now all of it is in the buffer: a few kilobytes come in one piece.
        before = yields()
        reported = [event async for event in events]

    assert len(reported) == 10 * PER_YIELD.lines - 1
    assert yields() - before >= 10


async def test_a_watch_takes_the_largest_object_that_kubernetes_can_hold(
    api: KubeApi, cluster: FakeCluster
) -> None:
    large = volume("pv-1", metadata={"annotations": {"a": "x" * (255 * 1024)}})
    cluster.create("persistentvolumes", large)

    async with api.watch(VOLUMES, {}) as events:
        event = await anext(events)
        await events.aclose()

    assert event["object"]["metadata"]["name"] == "pv-1"


@pytest.mark.fast_clock(100)
async def test_a_server_that_never_responds_times_out() -> None:
    async with unresponsive_peer() as url, api_at(url) as api:
        with pytest.raises(Unreachable):
            async with asyncio.timeout(60):
                await api.get(PV)


@pytest.mark.fast_clock(100)
async def test_a_watch_that_is_never_opened_times_out() -> None:
    async with unresponsive_peer() as url, api_at(url) as api:
        with pytest.raises(Unreachable):
            async with asyncio.timeout(60), api.watch(VOLUMES, {}):
                pass


@pytest.mark.fast_clock(200)
async def test_a_watch_without_events_stays_open() -> None:
    cluster = FakeCluster()
    async with KubeServer(cluster) as server, api_at(server.url) as api:
        query = {"resourceVersion": str(cluster.version), "timeoutSeconds": "100000"}
        async with api.watch(VOLUMES, query) as events:
            # aiohttp's own limit is 300 s.
            await asyncio.sleep(310)
            cluster.create("persistentvolumes", volume("pv-1"))
            event = await anext(events)
            await events.aclose()

    assert event["type"] == "ADDED"
