"""The test beds that the service is killed on."""

from tests.testbed.fixtures import (
    fake_mutable_testbed,
    fake_testbed,
    mutable_testbed,
    proxied,
    proxied_mutable,
    real_mutable_testbed,
    real_testbed,
    testbed,
)

__all__ = [
    "fake_mutable_testbed",
    "fake_testbed",
    "mutable_testbed",
    "proxied",
    "proxied_mutable",
    "real_mutable_testbed",
    "real_testbed",
    "testbed",
]
