"""What an action is: an operation that also reverts what it broke."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.soak.oracle import Oracle
from tests.testbed.proxy import Proxy


@dataclass(slots=True, kw_only=True)
class Context:
    """What actions operate on."""

    oracle: Oracle
    kubernetes: Proxy
    linstor: Proxy
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a steady phase is near: what goes wrong ends now."""
    down: set[str] = field(default_factory=set)
    """Nodes that something is wrong with."""
    halted: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whatever stops a part of Kubernetes, one at a time."""
    halted_at: float = float("-inf")
    """When a part was last known to be down."""

    @asynccontextmanager
    async def halt(self) -> AsyncIterator[None]:
        """Have all parts of Kubernetes for oneself."""
        async with self.halted:
            try:
                yield
            finally:
                self.halted_at = time.monotonic()

    @property
    def since_halted(self) -> float:
        """How long all parts of Kubernetes have been there."""
        return 0.0 if self.halted.locked() else time.monotonic() - self.halted_at

    async def a_while(self, seconds: float) -> None:
        """Leave things wrong for so long, or until there is hurry."""
        try:
            async with asyncio.timeout(seconds):
                await self.hurry.wait()
        except TimeoutError:
            pass


Action = Callable[[Context, random.Random], Awaitable[str]]
"""Returns what was done, for the log; nothing if there was nothing to do it to."""
