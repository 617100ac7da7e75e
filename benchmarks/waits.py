"""Waiting for what a running service does."""

import asyncio
import time

from tests.testbed.service import Service

FULL_RECONCILES = "linstor_affinity_full_reconcile_seconds_count"
READ_EVERY = 0.5
"""Seldom: to write all metrics down takes the service some milliseconds."""


class Ended(Exception):
    """The service ended, or did not come to it in time."""


async def until_full_reconciles(
    service: Service, wanted: int, *, within: float = 300.0, every: float = READ_EVERY
) -> float:
    """Wait for so many full reconciles; returns when they were done, by the monotonic clock."""
    try:
        async with asyncio.timeout(within):
            while await service.metric(FULL_RECONCILES) < wanted:
                if not service.runs:
                    raise Ended(f"the service ended: {service.said()[-2000:]}")
                await asyncio.sleep(every)
    except TimeoutError:
        raise Ended(f"no {wanted} full reconciles: {service.said()[-2000:]}") from None
    return time.monotonic()
