"""The test beds that hostile things are put on."""

from tests.testbed.fixtures import fake_testbed, proxied, real_testbed, service_on, testbed

__all__ = ["fake_testbed", "proxied", "real_testbed", "service_on", "testbed"]
