"""Requests to an API server that may be down or coming up."""

import asyncio
import time
from collections.abc import Collection
from typing import Any

import aiohttp

from tests.testbed.clusters import ApiError, Cluster

Json = dict[str, Any]

AGAIN = 0.3
TIMEOUT = 120.0
REQUEST = 20.0


async def surely(
    cluster: Cluster,
    method: str,
    path: str,
    body: Json | None = None,
    *,
    fine: Collection[int] = (),
) -> Json | None:
    """Ask until there is a response; None for a refusal that is as good as one.

    What was asked may have been done more than once, so a POST should take 409 for fine.
    """
    until = time.monotonic() + TIMEOUT
    while True:
        try:
            async with asyncio.timeout(REQUEST):
                return await cluster.ask(method, path, body)
        except ApiError as error:
            if error.status in fine:
                return None
            # A server that is coming up refuses in many ways what it will take a moment later.
            if time.monotonic() > until:
                raise
        except (aiohttp.ClientError, OSError):
            if time.monotonic() > until:
                raise
        await asyncio.sleep(AGAIN)


async def listed(cluster: Cluster, path: str) -> list[Json]:
    found = await surely(cluster, "GET", path)
    items: list[Json] = [] if found is None else found["items"]
    return items
