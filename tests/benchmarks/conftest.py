"""The stage on which the floor is watched."""

from tests.stage.fixtures import fake_stage

__all__ = ["fake_stage"]
