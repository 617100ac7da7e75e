"""Nobody outside takes the descriptors that the service needs itself: on real sockets."""

import asyncio
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web_protocol
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from linstor_affinity_events.adapters.http import connection_limits
from linstor_affinity_events.adapters.http.connection_limits import (
    ACCEPT_AT_ONCE,
    MOST_CONNECTIONS,
    RECEIVE_BUFFER,
    most_connections,
)
from tests.adapters.test_http_endpoints import BIND, LOOPBACK, asked, listening

TIMEOUT = 20.0

MANY_CLIENTS = """
import resource, socket, sys
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
port, number, sent = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
held = []
for _ in range(number):
    one = socket.create_connection(("127.0.0.1", port))
    one.sendall(sent.replace(b"|", b"\\r\\n"))
    held.append(one)
print("there", flush=True)
sys.stdin.read()
"""


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def many_clients(port: int, number: int, sent: str = "") -> AsyncIterator[None]:
    """Another process that opens so many connections, sends that much on each, and waits."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MANY_CLIENTS, str(port), str(number), sent),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            assert await process.stdout.readline() == b"there\n"
            # Connections are taken in their order: all of these before this one.
            assert (await asked(port, "/healthz"))[0] == 200
        yield
    finally:
        process.stdin.close()
        await process.wait()


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """As many as are open now, and a hundred more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = descriptors() + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, before[1]))
    try:
        yield allowed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


IDLE = ["", "GET /healthz HTTP/1.1|Host: x|", "GET /metrics HTTP/1.1|Host: x||"]


@pytest.mark.parametrize("sent", IDLE, ids=["nothing", "half-a-head", "a-request"])
async def test_idle_connections_do_not_block_other_clients(sent: str) -> None:
    async with listening() as endpoints:
        port, before = endpoints.ports[BIND], descriptors()

        async with many_clients(port, 500, sent):
            for _ in range(10):
                assert (await asked(port, "/healthz"))[0] == 200

            assert descriptors() <= before + MOST_CONNECTIONS + 2 * ACCEPT_AT_ONCE


async def test_idle_connections_leave_descriptors_for_the_service_itself(
    few_descriptors: int,
) -> None:
    async with (
        listening() as endpoints,
        listening() as elsewhere,
        many_clients(endpoints.ports[BIND], 500),
        aiohttp.ClientSession() as session,
    ):
        assert descriptors() < few_descriptors - 20
        url = f"http://{LOOPBACK}:{elsewhere.ports[BIND]}/healthz"
        responses = await asyncio.gather(*(fetched(session, url) for _ in range(8)))

    assert responses == [200] * 8


async def fetched(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return response.status


async def test_one_peer_cannot_use_up_the_connections_of_another() -> None:
    async with listening() as endpoints:
        port = endpoints.ports[BIND]
        reader, writer = await asyncio.open_connection(LOOPBACK, port, local_addr=("127.0.0.2", 0))
        try:
            async with many_clients(port, 500):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        finally:
            writer.close()


@pytest.fixture(params=[HttpRequestParser, HttpRequestParserPy], ids=["C", "Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one aiohttp has depends on how it was built."""
    monkeypatch.setattr(web_protocol, "HttpRequestParser", request.param)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("path", ["/healthz", "/nothing"])
@pytest.mark.parametrize("header", ["", "Expect: x\r\n"], ids=["plain", "expect"])
async def test_one_connection_is_served_one_request(path: str, header: str) -> None:
    """Thousands of requests in one go would keep everything else waiting."""
    async with listening() as endpoints:
        reader, writer = await asyncio.open_connection(LOOPBACK, endpoints.ports[BIND])
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n"
            writer.write(request.encode() * 100)
            responded = await reader.read()
        finally:
            writer.close()

    assert responded.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in responded


HEAD = b" /healthz HTTP/1.1\r\nHost: x\r\n"
FLOODS = {
    "requests": (b"GET" + HEAD + b"\r\n", b""),
    "chunks": (b"1\r\na\r\n", b"POST" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
    "headers": (b"A: b\r\n", b"GET" + HEAD),
    "empty lines": (b"\r\n", b""),
}


def flooded(port: int, sent: bytes) -> None:
    """Send all of it, as far as it is taken."""
    with socket.create_connection((LOOPBACK, port), timeout=1.0) as one, suppress(OSError):
        one.sendall(sent)
        one.recv(1000)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were parsed at a time: until all of them are, nothing else runs."""
    sizes: list[int] = []
    parse = web_protocol.RequestHandler.data_received

    def counted(handler: web_protocol.RequestHandler, data: bytes) -> None:
        sizes.append(len(data))
        parse(handler, data)

    monkeypatch.setattr(web_protocol.RequestHandler, "data_received", counted)
    return sizes


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("flood", FLOODS)
async def test_other_tasks_run_whatever_is_sent(flood: str, received: list[int]) -> None:
    repeated, begin = FLOODS[flood]
    sent = begin + repeated * (500_000 // len(repeated))

    async with listening() as endpoints:
        port = endpoints.ports[BIND]
        await asyncio.to_thread(flooded, port, sent)
        assert (await asked(port, "/healthz"))[0] == 200

    # Linux doubles the buffer, and its small segments may fill it once more.
    assert RECEIVE_BUFFER <= max(received) <= 4 * RECEIVE_BUFFER


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX: "], ids=repr)
async def test_a_connection_without_request_headers_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection_limits, "HEAD_TIMEOUT", 0.5)
    async with listening() as endpoints:
        reader, writer = await asyncio.open_connection(LOOPBACK, endpoints.ports[BIND])
        writer.write(sent)

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.05)
                writer.write(b"x")

        dripping = asyncio.create_task(drip(), name="drip") if sent else None
        try:
            async with asyncio.timeout(TIMEOUT):
                ended = await reader.read()
        except ConnectionError:
            ended = b""
        finally:
            if dripping is not None:
                dripping.cancel()
            writer.close()

    assert ended == b""


@pytest.mark.parametrize(
    ("allowed", "most"),
    [(16, 4), (64, 8), (256, 32), (1024, MOST_CONNECTIONS), (2**20, MOST_CONNECTIONS)],
)
def test_the_share_of_other_tasks_is_small(
    monkeypatch: pytest.MonkeyPatch, allowed: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))

    assert most_connections() == most
