"""Fixtures that every test may ask for."""

from tests.figures import figures, pytest_terminal_summary
from tests.real_parts.fixtures import (
    csi_programs,
    real_binaries,
    real_cluster,
    real_cluster_database,
    real_cluster_mutable,
    real_cluster_pods,
    real_cluster_quiet,
)

__all__ = [
    "csi_programs",
    "figures",
    "pytest_terminal_summary",
    "real_binaries",
    "real_cluster",
    "real_cluster_database",
    "real_cluster_mutable",
    "real_cluster_pods",
    "real_cluster_quiet",
]
