"""The test bed that these tests share, and the service on it."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.real_parts.cluster import RealCluster
from tests.testbed.csi import CsiTestbed
from tests.testbed.fixtures import service_on
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.warm import WarmStarts

__all__ = ["csi_proxied", "csi_testbed", "driver_flags", "service_on"]

SHOWN = 40
"""How many lines of each program's log."""


@pytest.fixture
def driver_flags() -> tuple[str, ...]:
    """Those of the CSI driver, for test modules to override."""
    return ()


@pytest_asyncio.fixture
async def csi_testbed(
    real_cluster_pods: RealCluster,
    csi_programs: dict[str, Path],
    tmp_path: Path,
    driver_flags: tuple[str, ...],
) -> AsyncIterator[CsiTestbed]:
    try:
        async with CsiTestbed.of(
            real_cluster_pods, csi_programs, tmp_path, driver_flags=driver_flags
        ) as testbed:
            yield testbed
    finally:
        for name in csi_programs:
            log = tmp_path / f"{name}.log"
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            sys.stdout.write(f"the end of {log.name}:\n" + "\n".join(lines[-SHOWN:]) + "\n")


@pytest_asyncio.fixture
async def csi_proxied(
    csi_testbed: CsiTestbed, tmp_path: Path, warm_starts: WarmStarts
) -> AsyncIterator[ProxiedTestbed]:
    """With proxies between it and the service; all others know the peers themselves."""
    async with ProxiedTestbed.of(csi_testbed.testbed, tmp_path, warm_starts) as found:
        yield found
