"""A tab for each test, or a loud skip where there is no browser."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.browser import chromium
from tests.e2e.conftest import fake_testbed, service_on
from tests.required import missing

__all__ = ["fake_testbed", "service_on"]


@pytest_asyncio.fixture
async def page() -> AsyncIterator[chromium.Page]:
    program = chromium.find()
    if program is None:
        missing("NOT TESTED IN A BROWSER", "there is no chromium")
    async with chromium.page(program) as found:
        yield found
