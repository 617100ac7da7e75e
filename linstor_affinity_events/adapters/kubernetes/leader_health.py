"""When an unhealthy leader gives up the Lease, and for how long."""

from collections.abc import Callable

YIELD_AFTER_FIRST, YIELD_AFTER_MOST = 10.0, 300.0
"""Seconds that a leader may be unhealthy before it yields leadership; doubled after each time."""


class LeaderHealth:
    """An unhealthy leader yields leadership for `pause` seconds, unless it is healthy before.

    As a sidecar of LINSTOR controllers, each instance reaches only its own controller, and only
    one of these is active.
    """

    def __init__(self, is_healthy: Callable[[], bool], *, pause: float) -> None:
        self.is_healthy, self.pause = is_healthy, pause
        self._unhealthy_since = float("inf")
        self._yield_after, self._yields_until = YIELD_AFTER_FIRST, float("-inf")

    def yields(self, at: float) -> bool:
        return at < self._yields_until and not self.is_healthy()

    def should_yield(self, at: float, *, leading: bool) -> bool:
        """Return whether to release the Lease now; if so, the instance yields from now on."""
        if self.is_healthy():
            self._unhealthy_since, self._yield_after = float("inf"), YIELD_AFTER_FIRST
            return False
        self._unhealthy_since = min(self._unhealthy_since, at)
        if not leading or at - self._unhealthy_since < self._yield_after:
            return False
        self._yield_after = min(self._yield_after * 2, YIELD_AFTER_MOST)
        self._yields_until = at + self.pause
        return True
