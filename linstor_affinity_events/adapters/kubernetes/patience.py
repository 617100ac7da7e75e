"""What the API server asked us not to ask for again before some moment (Retry-After)."""

import asyncio
from collections.abc import Hashable

from linstor_affinity_events.errors import Unreachable


class Patience:
    """Hints, full passes and the clock may all want the same request; here it waits for all."""

    def __init__(self) -> None:
        self._not_before: dict[Hashable, float] = {}

    def check(self, wish: Hashable, what: str) -> None:
        """Raises Unreachable, with what is left to wait, if the moment has not come."""
        moment = self._not_before.get(wish)
        if moment is None:
            return
        left = moment - asyncio.get_running_loop().time()
        if left > 0:
            raise Unreachable(f"Kubernetes: {what}: is not to be asked for so soon", after=left)
        del self._not_before[wish]

    def take(self, wish: Hashable, after: float | None) -> None:
        """Keep what the API server said."""
        if not after:
            return
        now = asyncio.get_running_loop().time()
        self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        self._not_before[wish] = now + after
