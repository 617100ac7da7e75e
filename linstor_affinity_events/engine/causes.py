"""Why full reconciles are requested, and since when."""

import asyncio
from collections.abc import Mapping

PERIOD = "period"


class Causes:
    """Collects requests; those that arrive while a full reconcile runs share the next one."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._wanted = asyncio.Event()

    def add(self, causes: Mapping[str, float]) -> None:
        """Request a full reconcile for these causes, each since a time of the loop's clock."""
        for cause, since in causes.items():
            self._since[cause] = max(since, self._since.get(cause, since))
        self._wanted.set()

    async def next(self, *, until: float) -> Mapping[str, float]:
        """Wait for requests, or until that time of the loop's clock. Returns them with their times,
        and forgets them.
        """
        try:
            async with asyncio.timeout_at(until):
                await self._wanted.wait()
        except TimeoutError:
            self.add({PERIOD: asyncio.get_running_loop().time()})
        causes, self._since = self._since, {}
        self._wanted.clear()
        return causes


def still_open(causes: Mapping[str, float], read_since: float) -> Mapping[str, float]:
    """Causes that are newer than the oldest data of the last full reconcile, which it may have
    read in an attempt that timed out before they arrived.
    """
    return {c: since for c, since in causes.items() if c != PERIOD and since > read_since}
