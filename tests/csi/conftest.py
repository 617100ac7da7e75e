"""The stage that these tests share, and the service on it."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.real_parts.cluster import RealCluster
from tests.stage.csi import CsiStage
from tests.stage.fixtures import service_on
from tests.stage.proxied import ProxiedStage
from tests.stage.warm import WarmStarts

__all__ = ["csi_proxied", "csi_stage", "driver_flags", "service_on"]

SHOWN = 40
"""How many lines of each program's log."""


@pytest.fixture
def driver_flags() -> tuple[str, ...]:
    """Those of the CSI driver, for test modules to override."""
    return ()


@pytest_asyncio.fixture
async def csi_stage(
    real_cluster_pods: RealCluster,
    csi_programs: dict[str, Path],
    tmp_path: Path,
    driver_flags: tuple[str, ...],
) -> AsyncIterator[CsiStage]:
    try:
        async with CsiStage.of(
            real_cluster_pods, csi_programs, tmp_path, driver_flags=driver_flags
        ) as stage:
            yield stage
    finally:
        for name in csi_programs:
            log = tmp_path / f"{name}.log"
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            sys.stdout.write(f"the end of {log.name}:\n" + "\n".join(lines[-SHOWN:]) + "\n")


@pytest_asyncio.fixture
async def csi_proxied(
    csi_stage: CsiStage, tmp_path: Path, warm_starts: WarmStarts
) -> AsyncIterator[ProxiedStage]:
    """With proxies between it and the service; all others know the peers themselves."""
    async with ProxiedStage.of(csi_stage.stage, tmp_path, warm_starts) as found:
        yield found
