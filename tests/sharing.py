"""Which tests stay together when several processes run them (pytest-xdist, --dist loadgroup).

A real control plane takes seconds to start and a core to serve, so all tests of one go to the same
process. All others go to whichever process is free.
"""

import os

import pytest

CLUSTERS = {
    "real_cluster_database": "database",
    "real_cluster_pods": "pods",
    "mutable_stage": "mutable",
    "mutable_apiserver": "mutable",
    "apiserver": "defaults",
}
"""What a test asks for, and the control plane that it gets."""

QUIET = "quiet"
"""The control plane of all other tests."""

AT_MOST = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` is: most tests wait for others more than they compute."""
    return min(2 * (os.cpu_count() or 1), AT_MOST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        chosen = item.get_closest_marker("xdist_group") is not None
        if chosen or item.get_closest_marker("real") is None:
            continue
        asked = getattr(item, "fixturenames", ())
        shared = next((name for asks, name in CLUSTERS.items() if asks in asked), QUIET)
        item.add_marker(pytest.mark.xdist_group(shared))
