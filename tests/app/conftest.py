"""The clock of each test is as its marker says."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.fakes.clock import loop_factories


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_factories(item)
