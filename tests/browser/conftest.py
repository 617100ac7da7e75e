"""A tab for each test, or a loud word where there is no browser."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.browser import chromium
from tests.e2e.conftest import fake_stage, service_on

__all__ = ["fake_stage", "service_on"]


@pytest_asyncio.fixture
async def page() -> AsyncIterator[chromium.Page]:
    program = chromium.find()
    if program is None:
        if os.environ.get("REQUIRE_REAL_PARTS") == "1":
            pytest.fail("REQUIRE_REAL_PARTS=1, but there is no chromium", pytrace=False)
        pytest.skip("NOT TESTED IN A BROWSER: there is no chromium")
    async with chromium.page(program) as found:
        yield found
