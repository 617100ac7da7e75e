"""The stages that the service is killed on."""

from tests.stage.fixtures import (
    fake_mutable_stage,
    fake_stage,
    mutable_stage,
    proxied,
    proxied_mutable,
    real_mutable_stage,
    real_stage,
    stage,
)

__all__ = [
    "fake_mutable_stage",
    "fake_stage",
    "mutable_stage",
    "proxied",
    "proxied_mutable",
    "real_mutable_stage",
    "real_stage",
    "stage",
]
