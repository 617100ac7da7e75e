"""What an act is: something that is played, and put right again by itself where it was wrong."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.soak.ledger import Ledger
from tests.stage.proxy import Proxy


@dataclass(slots=True, kw_only=True)
class Scene:
    """What acts are played on."""

    ledger: Ledger
    kubernetes: Proxy
    linstor: Proxy
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a calm is near: what goes wrong ends now."""
    down: set[str] = field(default_factory=set)
    """Nodes that something is wrong with."""
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whatever stops a part of Kubernetes: two at a time could not tell who is to blame."""

    async def a_while(self, seconds: float) -> None:
        """Leave things wrong for so long, or until there is hurry."""
        try:
            async with asyncio.timeout(seconds):
                await self.hurry.wait()
        except TimeoutError:
            pass


Act = Callable[[Scene, random.Random], Awaitable[str]]
"""Answers what was done, for the log; nothing if there was nothing to do it to."""
