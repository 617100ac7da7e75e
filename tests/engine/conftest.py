"""Every async test here runs on a virtual clock: hours take milliseconds."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.fakes.clock import VirtualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualLoop}
