"""The peers of the adapters, on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from tests.adapters.peers import linstor_world, loads
from tests.fakes.clock import loop_factories
from tests.fakes.kube_server import FakeCluster, KubeServer
from tests.fakes.linstor_server import LinstorServer, LinstorWorld


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_factories(item)


@pytest.fixture
def world() -> LinstorWorld:
    return linstor_world()


@pytest.fixture
async def linstor(world: LinstorWorld) -> AsyncIterator[LinstorServer]:
    async with LinstorServer(world) as server:
        yield server
    world.close()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
async def kube(cluster: FakeCluster) -> AsyncIterator[KubeServer]:
    async with KubeServer(cluster) as server:
        yield server


@pytest.fixture
async def api(kube: KubeServer) -> AsyncIterator[KubeApi]:
    api = KubeApi(loads(kube.url))
    yield api
    await api.close()
