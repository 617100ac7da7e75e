"""Fixtures that every test may ask for."""

from hypothesis import settings

from tests.figures import (
    figures,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from tests.real_parts.fixtures import (
    csi_programs,
    real_binaries,
    real_cluster,
    real_cluster_database,
    real_cluster_mutable,
    real_cluster_pods,
    real_cluster_quiet,
)
from tests.sharing import pytest_xdist_auto_num_workers
from tests.testbed.fixtures import warm_starts

# An example that takes long says that the machine is busy, and nothing of what is tested.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

__all__ = [
    "csi_programs",
    "figures",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_xdist_auto_num_workers",
    "real_binaries",
    "real_cluster",
    "real_cluster_database",
    "real_cluster_mutable",
    "real_cluster_pods",
    "real_cluster_quiet",
    "warm_starts",
]
