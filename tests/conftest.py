"""Fixtures that every test may ask for."""

from tests.real_parts.fixtures import real_binaries, real_cluster, real_cluster_mutable

__all__ = ["real_binaries", "real_cluster", "real_cluster_mutable"]
