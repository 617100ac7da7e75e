"""Stages for tests: most are played on the pretended cluster and on the real one."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.real_parts.cluster import RealCluster
from tests.stage import clusters
from tests.stage.proxied import ProxiedStage
from tests.stage.service import Service
from tests.stage.stage import Stage
from tests.stage.warm import WarmStarts

BOTH = ["fake", pytest.param("real", marks=pytest.mark.real)]

NEVER = 24 * 3600.0
"""How often the pretended binder looks at everything, as with `real_cluster_quiet`: a look that
falls into the moment in which a volume is away costs a claim, by chance.
"""

SHOWN = 60
"""How many lines of a service's log."""

MakeService = Callable[..., Service]


@pytest.fixture(params=BOTH)
def stage(request: pytest.FixtureRequest) -> Stage:
    """A stage of each kind, empty but for nodes and classes."""
    found: Stage = request.getfixturevalue(f"{request.param}_stage")
    return found


@pytest.fixture(params=BOTH)
def mutable_stage(request: pytest.FixtureRequest) -> Stage:
    """One whose cluster lets an affinity be changed in place."""
    found: Stage = request.getfixturevalue(f"{request.param}_mutable_stage")
    return found


@pytest.fixture(scope="session")
def warm_starts() -> Iterator[WarmStarts]:
    with WarmStarts() as starts:
        yield starts


@pytest_asyncio.fixture
async def proxied(
    stage: Stage, tmp_path: Path, warm_starts: WarmStarts
) -> AsyncIterator[ProxiedStage]:
    """A stage of each kind, with proxies between it and the service."""
    async with ProxiedStage.of(stage, tmp_path, warm_starts) as found:
        yield found


@pytest_asyncio.fixture
async def proxied_mutable(
    mutable_stage: Stage, tmp_path: Path, warm_starts: WarmStarts
) -> AsyncIterator[ProxiedStage]:
    async with ProxiedStage.of(mutable_stage, tmp_path, warm_starts) as found:
        yield found


@pytest_asyncio.fixture
async def fake_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        clusters.fake(tmp_path, resync=NEVER) as cluster,
        Stage.of(cluster) as stage,
    ):
        await stage.prepare()
        yield stage


@pytest_asyncio.fixture
async def fake_mutable_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with clusters.fake(tmp_path, mutable=True) as cluster, Stage.of(cluster) as stage:
        await stage.prepare()
        yield stage


@pytest_asyncio.fixture
async def real_stage(real_cluster_quiet: RealCluster) -> AsyncIterator[Stage]:
    async with clusters.real(real_cluster_quiet) as cluster, Stage.of(cluster) as stage:
        await stage.clear()
        await stage.prepare()
        yield stage
        await stage.clear()


@pytest_asyncio.fixture
async def real_mutable_stage(real_cluster_mutable: RealCluster) -> AsyncIterator[Stage]:
    async with clusters.real(real_cluster_mutable) as cluster, Stage.of(cluster) as stage:
        await stage.clear()
        await stage.prepare()
        yield stage
        await stage.clear()


@pytest.fixture
def service_on(tmp_path: Path, warm_starts: WarmStarts) -> Iterator[MakeService]:
    """Makes instances of the service for a stage, each with a log of its own, whose end is shown
    where a test fails. One that needs its own interpreter from the first moment starts `cold`.
    """
    made: list[Service] = []

    def make(stage: Stage, *flags: str, cold: bool = False, **env: str) -> Service:
        made.append(
            Service(
                kubeconfig=stage.cluster.kubeconfig,
                linstor=env.pop("linstor", stage.linstor.url),
                log=tmp_path / f"service-{len(made) + 1}.log",
                flags=("-v", "1", *flags),
                env=env,
                starts=None if cold else warm_starts,
                secrets=stage.secrets,
            )
        )
        return made[-1]

    yield make
    for each in made:
        end = "\n".join(each.said().splitlines()[-SHOWN:])
        sys.stdout.write(f"the end of {each.log.name}:\n{end}\n")
