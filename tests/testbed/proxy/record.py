"""All requests that came by, in their order."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.testbed.proxy.labels import Terms


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request, written down when it was whole and before anything was done with it."""

    at: float
    """By the machine's monotonic clock."""
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    terms: Terms
    status: int | None = None
    """What the peer responded, or a rule in its place, received or not; None before that."""

    @property
    def label(self) -> str:
        return self.terms.label

    def __str__(self) -> str:
        """For patterns and for people: label, method, path and query."""
        query = "&".join(f"{key}={value}" for key, value in self.query.items())
        return f"{self.label}: {self.method} {self.path}" + (f"?{query}" if query else "")


@dataclass(slots=True)
class Record:
    """Several proxies may share one, so that the order of all requests is known."""

    asked: list[Asked] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __iter__(self) -> Iterator[Asked]:
        return iter(self.asked)

    def labels(self) -> list[str]:
        return [each.label for each in self.asked]

    def forget(self) -> None:
        self.asked.clear()

    async def add(self, asked: Asked) -> None:
        self.asked.append(asked)
        async with self._changed:
            self._changed.notify_all()

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait for a request that makes it so."""
        async with self._changed:
            await self._changed.wait_for(wanted)

    async def until_quiet(self, pause: float) -> None:
        """Wait until nobody has asked for anything for so long."""
        while self.asked:
            left = self.asked[-1].at + pause - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(left)
