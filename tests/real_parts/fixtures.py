"""Fixtures that lend tests a real control plane, or skip them loudly where none can be had."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.real_parts import build
from tests.real_parts.build import (
    NO_GO,
    OLDEST,
    BuildError,
    Module,
    chosen,
    ensure_built,
    kubernetes_version,
    locate,
    toolchain,
)
from tests.real_parts.cluster import CONTROLLERS_FOR_PODS, RealCluster
from tests.required import missing


def _binaries(module: Module | None = None) -> Path:
    """The built parts; to build them takes longer than a test may, so `make test` does it first."""
    built = locate(module)
    if built is not None:
        return built
    if toolchain() is None:
        missing("NOT TESTED AGAINST A REAL KUBERNETES", NO_GO)
    try:
        return ensure_built(module)
    except BuildError as failure:
        # With Go at hand nothing is missing; something is broken.
        pytest.fail(str(failure), pytrace=False)


@pytest.fixture(scope="session")
def real_binaries() -> Path:
    return _binaries()


@pytest.fixture(scope="session")
def csi_programs() -> dict[str, Path]:
    """The scheduler, the CSI driver and its sidecars, by their names."""
    return build.csi_programs(_binaries)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_cluster(
    real_binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RealCluster]:
    """One control plane with the default feature gates, shared by all tests of the run."""
    directory = tmp_path_factory.mktemp("real-cluster")
    async with RealCluster(binaries=real_binaries, directory=directory) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_cluster_quiet(
    real_binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RealCluster]:
    """The same with a binder that acts on events only, and never resyncs.

    So a claim that becomes Lost stays so, and has a cause: the usual resync,
    each 15 s, may fall into the moment in which a volume is away.
    """
    directory = tmp_path_factory.mktemp("real-cluster-quiet")
    async with RealCluster(binaries=real_binaries, directory=directory, resync="24h") as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_cluster_database(
    real_binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RealCluster]:
    """A quiet one for tests that keep LINSTOR's own database there; others want none."""
    directory = tmp_path_factory.mktemp("real-cluster-database")
    async with RealCluster(binaries=real_binaries, directory=directory, resync="24h") as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_cluster_mutable(
    real_binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RealCluster]:
    """The same with the alpha gate that lets a volume's affinity change in place."""
    if chosen() is OLDEST:
        pytest.skip(f"Kubernetes {kubernetes_version(OLDEST.directory)} has no such gate")
    directory = tmp_path_factory.mktemp("real-cluster-mutable")
    async with RealCluster(
        binaries=real_binaries,
        directory=directory,
        feature_gates={"MutablePVNodeAffinity": True},
    ) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_cluster_pods(
    real_binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RealCluster]:
    """One whose volumes are attached and grown too; its controllers are at their defaults."""
    directory = tmp_path_factory.mktemp("real-cluster-pods")
    async with RealCluster(
        binaries=real_binaries,
        directory=directory,
        controller_qps=None,
        controllers=CONTROLLERS_FOR_PODS,
    ) as cluster:
        yield cluster
