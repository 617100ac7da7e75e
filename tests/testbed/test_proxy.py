"""The proxy passes everything on as it is, writes it down, and injects configured faults."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from tests.testbed.proxy import (
    Action,
    After,
    Asked,
    CutBody,
    Delay,
    Hang,
    Instead,
    Late,
    Proxy,
    Reset,
    Respond,
    kubernetes_terms,
    linstor_terms,
)

PV = "/api/v1/persistentvolumes/pvc-1"
DRY = b'{"dryRun":["All"]}'


@dataclass
class Heard:
    """What the peer was asked, and leave to continue its stream."""

    requests: list[tuple[str, str, bytes, str]] = field(default_factory=list)
    more: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest_asyncio.fixture
async def proxy(heard: Heard) -> AsyncIterator[Proxy]:
    async def respond(request: web.Request) -> web.StreamResponse:
        sign_in = request.headers.get("Authorization", "")
        heard.requests.append((request.method, request.raw_path, await request.read(), sign_in))
        if "watch" not in request.query:
            return web.Response(status=202, text="0123456789", headers={"X-Peer": "here"})
        out = web.StreamResponse()
        await out.prepare(request)
        await out.write(b"first\n")
        await heard.more.wait()
        await out.write(b"second\n")
        return out

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Proxy(f"http://127.0.0.1:{runner.addresses[0][1]}", kubernetes_terms) as made:
            yield made
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def client(proxy: Proxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(proxy.url) as session:
        yield session


async def test_requests_and_responses_are_forwarded_unchanged(
    proxy: Proxy, client: aiohttp.ClientSession, heard: Heard
) -> None:
    headers = {"Authorization": "Bearer let-me-in"}
    url = URL(f"{proxy.url}{PV}?a=%2Fb", encoded=True)
    async with client.post(url, data=b"body", headers=headers) as response:
        got = response.status, response.headers["X-Peer"], await response.text()

    assert got == (202, "here", "0123456789")
    assert heard.requests == [("POST", f"{PV}?a=%2Fb", b"body", "Bearer let-me-in")]
    assert [each.status for each in proxy.record] == [202]


async def test_a_stream_is_forwarded_as_it_arrives_and_closed_with_its_reader(
    client: aiohttp.ClientSession, heard: Heard
) -> None:
    async with client.get("/api/v1/persistentvolumes?watch=1") as response:
        first = await response.content.readline()
        heard.more.set()
        second = await response.content.readline()

    assert (first, second) == (b"first\n", b"second\n")


@pytest.mark.parametrize(
    ("method", "path", "body", "label"),
    [
        ("GET", PV, b"", "get persistentvolumes"),
        ("GET", "/api/v1/persistentvolumes?limit=5", b"", "list persistentvolumes"),
        ("GET", "/api/v1/persistentvolumes?watch=true", b"", "watch persistentvolumes"),
        ("PUT", f"{PV}/status", b"", "update persistentvolumes/status"),
        ("PATCH", f"{PV}?dryRun=All", b"", "patch persistentvolumes (dry run)"),
        ("DELETE", PV, DRY, "delete persistentvolumes (dry run)"),
        ("DELETE", PV, b"{}", "delete persistentvolumes"),
        (
            "POST",
            "/apis/events.k8s.io/v1/namespaces/default/events",
            b"",
            "create events.events.k8s.io",
        ),
        ("GET", "/api/v1/namespaces/kube-system", b"", "get namespaces"),
        ("GET", "/version", b"", "get /version"),
    ],
)
def test_labels_use_the_terms_of_permissions(
    method: str, path: str, body: bytes, label: str
) -> None:
    path, _, query = path.partition("?")
    pairs = dict(pair.split("=") for pair in query.split("&") if pair)

    assert kubernetes_terms(method, path, pairs, body).label == label


def test_labels_of_linstor_distinguish_one_definition_from_all() -> None:
    path = "/v1/resource-definitions"

    every = linstor_terms("GET", path, {"with_volume_definitions": "true"}, b"")
    one = linstor_terms("GET", path, {"resource_definitions": "pvc-1"}, b"")
    placed = linstor_terms("GET", f"{path}/pvc-1/resources", {}, b"")

    assert every.label == "linstor get resource-definitions"
    assert one.label == "linstor get resource-definitions/*"
    assert placed.label == "linstor get resource-definitions/*/resources"


async def status_of(client: aiohttp.ClientSession, path: str = PV) -> int:
    """0 where the connection broke."""
    try:
        async with client.put(path, data=b"x") as response:
            await response.read()
            return response.status
    except aiohttp.ClientError:
        return 0


async def test_a_rule_applies_from_its_nth_request_on_as_often_as_configured(
    proxy: Proxy, client: aiohttp.ClientSession
) -> None:
    rule = proxy.on(re.compile("^update persistentvolumes: PUT"), Respond(429), nth=2, times=2)

    statuses = [await status_of(client) for _ in range(4)]

    assert statuses == [202, 429, 429, 202]
    assert (rule.observed, rule.hits, rule.struck.is_set()) == (4, 2, True)


async def test_the_oldest_due_rule_takes_the_request(
    proxy: Proxy, client: aiohttp.ClientSession
) -> None:
    proxy.on("update persistentvolumes", Respond(500))
    proxy.on(lambda asked: asked.method == "PUT", Respond(503), nth=2)

    assert [await status_of(client) for _ in range(3)] == [500, 503, 202]


async def test_a_generated_response_has_headers_and_never_reaches_the_peer(
    proxy: Proxy, client: aiohttp.ClientSession, heard: Heard
) -> None:
    proxy.on("get persistentvolumes", Respond(429, b'{"a":1}', {"Retry-After": "7"}))

    async with client.get(PV) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert await response.json() == {"a": 1}
    assert heard.requests == []


@pytest.mark.parametrize(("forwarded", "reached"), [(False, 0), (True, 1)])
async def test_a_reset_breaks_the_connection_with_or_without_the_peer(
    proxy: Proxy, client: aiohttp.ClientSession, heard: Heard, forwarded: bool, reached: int
) -> None:
    # A POST: aiohttp would send a PUT again by itself.
    proxy.on("create persistentvolumes", Reset(forwarded=forwarded))

    with pytest.raises(aiohttp.ClientError):
        await client.post("/api/v1/persistentvolumes")

    assert len(heard.requests) == reached


@pytest.mark.parametrize(("after", "reached"), [(False, 0), (True, 1)])
async def test_a_callback_runs_before_the_request_or_after_the_response(
    proxy: Proxy, client: aiohttp.ClientSession, heard: Heard, after: bool, reached: int
) -> None:
    then: list[int] = []

    async def call(asked: Asked) -> None:
        then.append(len(heard.requests))

    action: Action = After(call) if after else Instead(call)
    proxy.on("create persistentvolumes", action)
    with pytest.raises(aiohttp.ClientError):
        await client.post("/api/v1/persistentvolumes")

    assert then == [reached]
    assert len(heard.requests) == reached


async def test_a_body_can_be_truncated(proxy: Proxy, client: aiohttp.ClientSession) -> None:
    proxy.on("get persistentvolumes", CutBody(4))

    async with client.get(PV) as response:
        assert await response.content.read(4) == b"0123"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read(1)


async def test_a_late_request_arrives_after_its_sender_timed_out(
    proxy: Proxy, client: aiohttp.ClientSession, heard: Heard
) -> None:
    proxy.on("create persistentvolumes", Late(seconds=0.2))

    with pytest.raises(aiohttp.ClientError):
        await client.post("/api/v1/persistentvolumes", data=b"late")
    before = len(heard.requests)
    await proxy.until_idle()

    assert before == 0
    assert [body for _, _, body, _ in heard.requests] == [b"late"]


@pytest.mark.parametrize(
    ("action", "reached"),
    [(Hang(forwarded=False), 0), (Hang(forwarded=True), 1), (Late(seconds=0.0, reset=False), 1)],
    ids=["hang", "hang, forwarded", "late"],
)
async def test_a_silent_peer_sends_nothing_until_the_sender_times_out(
    proxy: Proxy, client: aiohttp.ClientSession, heard: Heard, action: Action, reached: int
) -> None:
    proxy.on("create persistentvolumes", action)

    with pytest.raises(TimeoutError):
        await client.post("/api/v1/persistentvolumes", timeout=aiohttp.ClientTimeout(total=0.3))

    assert len(heard.requests) == reached


async def test_a_delayed_request_continues_although_its_sender_is_gone(
    proxy: Proxy, client: aiohttp.ClientSession, heard: Heard
) -> None:
    proxy.on("create persistentvolumes", Delay(request=0.3))

    with pytest.raises(TimeoutError):
        await client.post("/api/v1/persistentvolumes", timeout=aiohttp.ClientTimeout(total=0.1))
    assert heard.requests == []
    await proxy.until_idle()

    assert len(heard.requests) == 1
