"""The stages that things go wrong on."""

import pytest

from tests.faults.fleet import MakeFleet, fleets
from tests.figures import Figures
from tests.stage.fixtures import (
    fake_stage,
    proxied,
    real_stage,
    service_on,
    stage,
)

__all__ = ["fake_stage", "fleet", "proxied", "real_stage", "service_on", "stage"]


@pytest.fixture
def fleet(figures: Figures) -> MakeFleet:
    """Makes volumes that go on moving while something is wrong."""
    return fleets(figures)
