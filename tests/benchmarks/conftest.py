"""The stage on which the floor is watched."""

from tests.testbed.fixtures import fake_testbed

__all__ = ["fake_testbed"]
