"""Helm, promtool, and a real cluster with the kinds that the chart makes objects of."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chart.crds import CRDS
from tests.chart.helm import Helm
from tests.chart.release import NAMESPACE
from tests.chart.release import helm as ask
from tests.real_parts.build import HELM, NO_GO, BuildError, ensure_built, locate, toolchain
from tests.real_parts.cluster import RealCluster
from tests.required import missing
from tests.testbed import clusters
from tests.testbed.clusters import Cluster, until


@pytest.fixture(scope="session")
def helm_binaries() -> Path:
    built = locate(HELM)
    if built is not None:
        return built
    if toolchain() is None:
        missing("CHART NOT TESTED WITH HELM", NO_GO)
    try:
        return ensure_built(HELM)
    except BuildError as failure:
        pytest.fail(str(failure), pytrace=False)


@pytest.fixture(scope="session")
def helm(helm_binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(helm_binaries / "helm", tmp_path_factory.mktemp("helm"))


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        missing(
            "CHART NOT TESTED WITH PROMTOOL",
            "there is no promtool, which Debian's package prometheus brings",
        )
    return found


@pytest_asyncio.fixture
async def cluster(real_cluster_quiet: RealCluster) -> AsyncIterator[Cluster]:
    """A real one that knows the custom resources of Prometheus' operator and of Piraeus."""
    async with clusters.real(real_cluster_quiet) as found:
        for crd in CRDS:
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            name = crd["metadata"]["name"]
            if await found.find(f"{path}/{name}") is None:
                await found.ask("POST", path, crd)

            async def served(path: str = f"{path}/{name}") -> bool:
                status = (await found.ask("GET", path)).get("status") or {}
                return any(
                    each["type"] == "Established" and each["status"] == "True"
                    for each in status.get("conditions") or ()
                )

            await until(served, f"{name} is served")
        yield found


@pytest.fixture
def helm_there(helm: Helm, cluster: Cluster) -> Helm:
    """Helm with the real cluster at its hands."""
    return Helm(helm.binary, helm.home, cluster.kubeconfig)


@pytest_asyncio.fixture
async def there(helm_there: Helm, cluster: Cluster) -> AsyncIterator[Helm]:
    """Helm with a namespace that is empty before and after."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    if await cluster.find(f"/api/v1/namespaces/{NAMESPACE}") is None:
        await cluster.ask("POST", "/api/v1/namespaces", namespace)
    yield helm_there
    for name in (await ask(helm_there, "list", "--short", "--all")).split():
        await ask(helm_there, "uninstall", name, "--no-hooks")
