"""The stages that hostile things are put on."""

from tests.stage.fixtures import fake_stage, proxied, real_stage, service_on, stage

__all__ = ["fake_stage", "proxied", "real_stage", "service_on", "stage"]
