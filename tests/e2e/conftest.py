"""Test beds for end-to-end tests."""

from tests.testbed.fixtures import (
    MakeService,
    fake_mutable_testbed,
    fake_testbed,
    mutable_testbed,
    proxied,
    proxied_mutable,
    real_mutable_testbed,
    real_testbed,
    service_on,
    testbed,
)

__all__ = [
    "MakeService",
    "fake_mutable_testbed",
    "fake_testbed",
    "mutable_testbed",
    "proxied",
    "proxied_mutable",
    "real_mutable_testbed",
    "real_testbed",
    "service_on",
    "testbed",
]
