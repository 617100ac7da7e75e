"""Stages for end-to-end tests."""

from tests.stage.fixtures import (
    MakeService,
    fake_mutable_stage,
    fake_stage,
    mutable_stage,
    proxied,
    proxied_mutable,
    real_mutable_stage,
    real_stage,
    service_on,
    stage,
)

__all__ = [
    "MakeService",
    "fake_mutable_stage",
    "fake_stage",
    "mutable_stage",
    "proxied",
    "proxied_mutable",
    "real_mutable_stage",
    "real_stage",
    "service_on",
    "stage",
]
