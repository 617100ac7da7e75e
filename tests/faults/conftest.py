"""The test beds that things go wrong on."""

import pytest

from tests.faults.fleet import MakeFleet, fleets
from tests.figures import Figures
from tests.testbed.fixtures import (
    fake_testbed,
    proxied,
    real_testbed,
    service_on,
    testbed,
)

__all__ = ["fake_testbed", "fleet", "proxied", "real_testbed", "service_on", "testbed"]


@pytest.fixture
def fleet(figures: Figures) -> MakeFleet:
    """Makes volumes that go on moving while something is wrong."""
    return fleets(figures)
