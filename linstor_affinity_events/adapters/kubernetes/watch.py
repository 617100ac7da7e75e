"""Watches that end in time, and deliver in time, whatever is between this service and the API
server.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.responses import WatchEvents
from linstor_affinity_events.errors import Unreachable

WATCH_END_GRACE = 30.0
"""Seconds. The server must end a watch after its timeout; a proxy may keep a dead one open."""


EVENT_OVERDUE_AFTER = 10.0
"""Seconds after a change in which a watch must have delivered something."""


class EventDeadline:
    """By when a watch has to deliver an event, because a write has succeeded since the last one.

    A connection to a peer that is gone looks like one on which nothing happens, and TCP keepalive
    needs 30 s to tell them apart, or longer while segments still arrive. What this service has
    written itself must arrive as an event.
    """

    def __init__(self) -> None:
        self._timeout: asyncio.Timeout | None = None
        self._arrived_at = float("-inf")

    def changed_since(self, began: float) -> None:
        """A write has changed an object, and was sent at `began`, by the loop's clock."""
        timeout = self._timeout
        if timeout is not None and timeout.when() is None and self._arrived_at <= began:
            timeout.reschedule(asyncio.get_running_loop().time() + EVENT_OVERDUE_AFTER)

    def arrived(self) -> None:
        """The watch has delivered an event, whatever of."""
        self._arrived_at = asyncio.get_running_loop().time()
        if self._timeout is not None and self._timeout.when() is not None:
            self._timeout.reschedule(None)

    @asynccontextmanager
    async def enforced(self, path: str) -> AsyncIterator[None]:
        """Raise Unreachable once an event is overdue, while the block follows a watch."""
        self._timeout = timeout = asyncio.timeout(None)
        try:
            async with timeout:
                yield
        except TimeoutError as error:
            if not timeout.expired():
                # An error of the connection (ETIMEDOUT).
                raise
            raise Unreachable(
                f"the watch of {path} has not delivered a change of {EVENT_OVERDUE_AFTER:g} s ago"
            ) from error
        finally:
            self._timeout = None


@asynccontextmanager
async def bounded_watch(
    api: KubeApi, path: str, *, version: str, seconds: float
) -> AsyncIterator[WatchEvents]:
    """Watch from `version`; an empty version means that all present objects come first.

    Raises Unreachable if the watch does not end in time, Expired if the server no longer has the
    version, Invalid if it cannot stream present objects.
    """
    query = {"allowWatchBookmarks": "true", "timeoutSeconds": str(int(seconds))}
    if version:
        query["resourceVersion"] = version
    else:
        query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    try:
        async with (
            asyncio.timeout(seconds + WATCH_END_GRACE),
            api.watch(path, query) as watch,
            aclosing(watch) as events,
        ):
            yield events
    except TimeoutError as error:
        raise Unreachable(f"the watch of {path} did not end after its timeout") from error
