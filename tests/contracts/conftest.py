"""The servers under contract: every test here meets the fake and the real one."""

import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from tests.contracts.kube_client import KubeClient
from tests.fakes.kube_server import Binder, FakeCluster, KubeServer
from tests.real_parts.build import chosen, kubernetes_version
from tests.real_parts.cluster import RealCluster


@dataclass(frozen=True, slots=True)
class Apiserver:
    """A server with binding controllers at work."""

    kube: KubeClient
    forget_history: Callable[[], Awaitable[None]]
    """Make every version so far too old to watch."""
    sign_in: Callable[[str | None], aiohttp.ClientSession]
    """A session with another Authorization header."""
    version: str
    """What it is, such as "v1.37.2"."""


BOTH = ["fake", pytest.param("real", marks=pytest.mark.real)]


# Not async, because an async fixture can't ask for another one while its loop runs.
@pytest.fixture(params=BOTH)
def apiserver(request: pytest.FixtureRequest) -> Apiserver:
    server: Apiserver = request.getfixturevalue(f"{request.param}_apiserver")
    return server


@pytest.fixture(params=BOTH)
def mutable_apiserver(request: pytest.FixtureRequest) -> Apiserver:
    """One whose volumes may change their affinity in place."""
    server: Apiserver = request.getfixturevalue(f"{request.param}_mutable_apiserver")
    return server


@pytest.fixture
def kube(apiserver: Apiserver) -> KubeClient:
    return apiserver.kube


@pytest.fixture
def name() -> str:
    """Unlike that of any other object, since all tests share one real cluster."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def fake_apiserver() -> AsyncIterator[Apiserver]:
    async with _fake(FakeCluster()) as server:
        yield server


@pytest_asyncio.fixture
async def fake_mutable_apiserver() -> AsyncIterator[Apiserver]:
    async with _fake(FakeCluster(mutable_affinity=True)) as server:
        yield server


@pytest_asyncio.fixture
async def real_apiserver(real_cluster: RealCluster) -> AsyncIterator[Apiserver]:
    async with _real(real_cluster) as server:
        yield server


@pytest_asyncio.fixture
async def real_mutable_apiserver(real_cluster_mutable: RealCluster) -> AsyncIterator[Apiserver]:
    async with _real(real_cluster_mutable) as server:
        yield server


@asynccontextmanager
async def _fake(cluster: FakeCluster) -> AsyncIterator[Apiserver]:
    async with (
        Binder(cluster, resync_every=0.5),
        KubeServer(cluster, tokens={"secret": "admin"}) as server,
    ):

        async def forget_history() -> None:
            server.compact()

        def sign_in(authorization: str | None) -> aiohttp.ClientSession:
            headers = {} if authorization is None else {"Authorization": authorization}
            return aiohttp.ClientSession(server.url, headers=headers)

        async with sign_in("Bearer secret") as session:
            yield Apiserver(KubeClient(session), forget_history, sign_in, kubernetes_version())


@asynccontextmanager
async def _real(cluster: RealCluster) -> AsyncIterator[Apiserver]:
    tls = ssl.create_default_context(cafile=str(cluster.ca_file))

    def sign_in(authorization: str | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            cluster.url,
            headers={} if authorization is None else {"Authorization": authorization},
            connector=aiohttp.TCPConnector(ssl=tls),
        )

    async with sign_in(f"Bearer {cluster.token}") as session:
        version = kubernetes_version(chosen().directory)
        yield Apiserver(KubeClient(session), cluster.forget_history, sign_in, version)
