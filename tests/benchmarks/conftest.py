"""The test bed on which the baseline is watched."""

from tests.testbed.fixtures import fake_testbed

__all__ = ["fake_testbed"]
