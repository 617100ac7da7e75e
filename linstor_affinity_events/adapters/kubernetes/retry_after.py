"""The retry-after gate: holds requests back for as long as the API server asked (Retry-After)."""

import asyncio
from collections.abc import Hashable

from linstor_affinity_events.errors import Unreachable


class RetryAfterGate:
    """Remembers when each request may be sent again, whichever trigger asks for it."""

    def __init__(self) -> None:
        self._not_before: dict[Hashable, float] = {}

    def check(self, request: Hashable, what: str) -> None:
        """Raise Unreachable, with the remaining delay, if it is too early for this request."""
        retry_at = self._not_before.get(request)
        if retry_at is None:
            return
        left = retry_at - asyncio.get_running_loop().time()
        if left > 0:
            raise Unreachable(f"Kubernetes: {what}: the server asked to retry later", after=left)
        del self._not_before[request]

    def record(self, request: Hashable, after: float | None) -> None:
        """Record the delay that the API server asked for; None or 0 means none."""
        if not after:
            return
        now = asyncio.get_running_loop().time()
        self._not_before = {key: at for key, at in self._not_before.items() if at > now}
        self._not_before[request] = now + after
