"""Test beds for tests: most are run on the fake cluster and on the real one."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.service import Service
from tests.testbed.testbed import Testbed
from tests.testbed.warm import WarmStarts

BOTH = ["fake", pytest.param("real", marks=pytest.mark.real)]

NEVER = 24 * 3600.0
"""How often the fake binder resyncs, as with `real_cluster_quiet`: a resync that
falls into the moment in which a volume is away costs a claim, by chance.
"""

SHOWN = 60
"""How many lines of a service's log."""

MakeService = Callable[..., Service]


@pytest.fixture(params=BOTH)
def testbed(request: pytest.FixtureRequest) -> Testbed:
    """A test bed of each kind, empty but for nodes and classes."""
    found: Testbed = request.getfixturevalue(f"{request.param}_testbed")
    return found


@pytest.fixture(params=BOTH)
def mutable_testbed(request: pytest.FixtureRequest) -> Testbed:
    """One whose cluster lets an affinity be changed in place."""
    found: Testbed = request.getfixturevalue(f"{request.param}_mutable_testbed")
    return found


@pytest.fixture(scope="session")
def warm_starts() -> Iterator[WarmStarts]:
    with WarmStarts() as starts:
        yield starts


@pytest_asyncio.fixture
async def proxied(
    testbed: Testbed, tmp_path: Path, warm_starts: WarmStarts
) -> AsyncIterator[ProxiedTestbed]:
    """A test bed of each kind, with proxies between it and the service."""
    async with ProxiedTestbed.of(testbed, tmp_path, warm_starts) as found:
        yield found


@pytest_asyncio.fixture
async def proxied_mutable(
    mutable_testbed: Testbed, tmp_path: Path, warm_starts: WarmStarts
) -> AsyncIterator[ProxiedTestbed]:
    async with ProxiedTestbed.of(mutable_testbed, tmp_path, warm_starts) as found:
        yield found


@pytest_asyncio.fixture
async def fake_testbed(tmp_path: Path) -> AsyncIterator[Testbed]:
    async with (
        clusters.fake(tmp_path, resync=NEVER) as cluster,
        Testbed.of(cluster) as testbed,
    ):
        await testbed.prepare()
        yield testbed


@pytest_asyncio.fixture
async def fake_mutable_testbed(tmp_path: Path) -> AsyncIterator[Testbed]:
    async with clusters.fake(tmp_path, mutable=True) as cluster, Testbed.of(cluster) as testbed:
        await testbed.prepare()
        yield testbed


@pytest_asyncio.fixture
async def real_testbed(real_cluster_quiet: RealCluster) -> AsyncIterator[Testbed]:
    async with clusters.real(real_cluster_quiet) as cluster, Testbed.of(cluster) as testbed:
        await testbed.clear()
        await testbed.prepare()
        yield testbed
        await testbed.clear()


@pytest_asyncio.fixture
async def real_mutable_testbed(real_cluster_mutable: RealCluster) -> AsyncIterator[Testbed]:
    async with clusters.real(real_cluster_mutable) as cluster, Testbed.of(cluster) as testbed:
        await testbed.clear()
        await testbed.prepare()
        yield testbed
        await testbed.clear()


@pytest.fixture
def service_on(tmp_path: Path, warm_starts: WarmStarts) -> Iterator[MakeService]:
    """Makes instances of the service for a test bed, each with a log of its own, whose end is shown
    where a test fails. One that needs its own interpreter from the first moment starts `cold`.
    """
    made: list[Service] = []

    def make(testbed: Testbed, *flags: str, cold: bool = False, **env: str) -> Service:
        made.append(
            Service(
                kubeconfig=testbed.cluster.kubeconfig,
                linstor=env.pop("linstor", testbed.linstor.url),
                log=tmp_path / f"service-{len(made) + 1}.log",
                flags=("-v", "1", *flags),
                env=env,
                starts=None if cold else warm_starts,
                secrets=testbed.secrets,
            )
        )
        return made[-1]

    yield make
    for each in made:
        end = "\n".join(each.said().splitlines()[-SHOWN:])
        sys.stdout.write(f"the end of {each.log.name}:\n{end}\n")
