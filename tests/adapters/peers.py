"""How the adapters find their peers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from aiohttp import web
from kubernetes_asyncio.client.configuration import Configuration

from linstor_affinity_events.adapters.kubernetes.session import LoadConfiguration
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection, Login, Tls
from tests.fakes.linstor_server import LinstorWorld

TIMEOUT = 10.0
CLOSED = "http://127.0.0.1:1"
"""Where nobody listens."""


def linstor_world() -> LinstorWorld:
    """pvc-1 with data on n1 and a tie-breaker on n3, pvc-2 without a replica; n2 is empty."""
    world = LinstorWorld()
    for name in ("n1", "n2", "n3"):
        world.add_node(name, labels={"zone": f"z-{name}"})
    world.add_definition("pvc-1", volumes=2)
    world.place("pvc-1", "n1")
    world.place("pvc-1", "n3", diskless=True, flags=["TIE_BREAKER"])
    world.add_definition("pvc-2")
    return world


def linstor_at(*urls: str, login: Login | None = None, tls: Tls | None = None) -> LinstorConnection:
    return LinstorConnection(urls, login or Login(), tls or Tls())


def loads(url: str, *, token: str = "") -> LoadConfiguration:
    async def load() -> Configuration:
        configuration = Configuration()
        configuration.host = url
        if token:
            configuration.api_key = {"BearerToken": f"Bearer {token}"}
        return configuration

    return load


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(TIMEOUT):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


@asynccontextmanager
async def unresponsive_peer() -> AsyncIterator[str]:
    """A peer that accepts every connection and never responds."""
    writers: list[asyncio.StreamWriter] = []
    hung_up: list[asyncio.Event] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        hung_up.append(over := asyncio.Event())
        with suppress(ConnectionError):
            while await reader.read(1024):
                pass
        over.set()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
        for over in hung_up:
            await over.wait()


@contextmanager
def deaf_peer() -> Iterator[str]:
    """A peer that accepts no connection, as if its host were down: its queue is full."""
    with socket.socket() as listening, ExitStack() as queued:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@asynccontextmanager
async def serving(
    status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A peer that responds to everything in the same way, and its requests."""
    heard: list[web.Request] = []

    async def respond(request: web.Request) -> web.Response:
        heard.append(request)
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", heard
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Have something run beside the block; what it fails with is raised at the end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def counted_yields() -> AsyncIterator[Callable[[], int]]:
    """Count how often another task has run since the block began."""
    found = 0

    async def count() -> None:
        nonlocal found
        while True:
            found += 1
            await asyncio.sleep(0)

    async with running(count()):
        yield lambda: found
