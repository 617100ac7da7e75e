"""A Kubernetes to run on, fake or real, behind one face."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.fakes.kube_server import Binder, FakeCluster, KubeServer
from tests.fakes.kube_server.patches import MERGE
from tests.real_parts.cluster import RealCluster

Json = dict[str, Any]

TIMEOUT = 60.0


class ApiError(Exception):
    """The API server said no."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where the API server is, and a session signed in as its admin."""

    url: str
    kubeconfig: Path
    session: aiohttp.ClientSession
    is_real: bool
    server: KubeServer | None = None
    binder: Binder | None = None
    real: RealCluster | None = None
    token: str = ""
    """The admin's; empty where nobody signs in."""
    tls: ssl.SSLContext | None = None

    async def ask(
        self, method: str, path: str, body: Any = None, *, patch_type: str = MERGE, **query: str
    ) -> Json:
        """Send one request; raises ApiError for whatever is not good."""
        kind = patch_type if method == "PATCH" else "application/json"
        async with self.session.request(
            method, path, json=body, params=query, headers={"Content-Type": kind}
        ) as response:
            if response.status >= 400:
                # What never got as far as Kubernetes' own handlers has a plain text response.
                raise ApiError(response.status, await response.text())
            shown: Json = await response.json()
            return shown

    async def stop_binder(self) -> None:
        """Let nobody bind, release or lose anything."""
        if self.binder is not None:
            self.binder.pause()
        if self.real is not None:
            await self.real.stop_controller_manager()

    async def start_binder(self) -> None:
        if self.binder is not None:
            self.binder.resume()
        if self.real is not None:
            await self.real.start_controller_manager()

    async def at_rest(self) -> None:
        """Wait until the binder has nothing left to sync, where that can be known."""
        if self.binder is not None:
            await self.binder.until_idle()

    async def find(self, path: str) -> Json | None:
        try:
            return await self.ask("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise


async def until(
    wanted: Callable[[], Awaitable[bool]], what: str, *, within: float = TIMEOUT
) -> None:
    """Ask again and again until it is so."""
    try:
        async with asyncio.timeout(within):
            while not await wanted():  # noqa: ASYNC110, other processes set no asyncio.Event
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it never came to be that {what}") from None


@asynccontextmanager
async def fake(
    directory: Path, *, mutable: bool = False, binder_delay: float = 0.002, resync: float = 15.0
) -> AsyncIterator[Cluster]:
    """A fake cluster with a binder at work."""
    world = FakeCluster(mutable_affinity=mutable)
    async with AsyncExitStack() as stack:
        binder = await stack.enter_async_context(
            Binder(world, delay=binder_delay, resync_every=resync)
        )
        server = await stack.enter_async_context(KubeServer(world))
        session = await stack.enter_async_context(aiohttp.ClientSession(server.url))
        yield Cluster(
            url=server.url,
            kubeconfig=server.write_kubeconfig(directory / "fake.kubeconfig"),
            session=session,
            is_real=False,
            server=server,
            binder=binder,
        )


@asynccontextmanager
async def real(cluster: RealCluster) -> AsyncIterator[Cluster]:
    """A real control plane that was started before."""
    tls = ssl.create_default_context(cafile=str(cluster.ca_file))
    async with aiohttp.ClientSession(
        cluster.url,
        headers={"Authorization": f"Bearer {cluster.token}"},
        connector=aiohttp.TCPConnector(ssl=tls, limit=50),
        read_bufsize=2**21,
    ) as session:
        yield Cluster(
            url=cluster.url,
            kubeconfig=cluster.kubeconfig,
            session=session,
            is_real=True,
            real=cluster,
            token=cluster.token,
            tls=tls,
        )
