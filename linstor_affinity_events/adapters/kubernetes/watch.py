"""Watches that end in time, whatever is between this service and the API server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.responses import WatchEvents
from linstor_affinity_events.errors import Unreachable

WATCH_END_GRACE = 30.0
"""Seconds. The server must end a watch after its timeout; a proxy may keep a dead one open."""


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
