"""Keeps a store in sync with the API server: list, watch, and list again when required."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.pages import Pages
from linstor_affinity_events.adapters.kubernetes.responses import WatchEvents
from linstor_affinity_events.adapters.kubernetes.watch import EventDeadline, bounded_watch
from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import Again, Expired, Invalid, Missing, Refused, Unreachable
from linstor_affinity_events.logs import facts

log = logging.getLogger(__name__)

SHORTEST_WATCH = 1.0
"""Seconds. After a watch that ends sooner, there is a pause before the next one."""

_END_OF_LIST = "k8s.io/initial-events-end"


class Store(Protocol):
    """Where an informer stores objects."""

    def begin_list(self) -> None:
        """A complete list follows."""

    def listed(self, manifest: Mapping[str, Any]) -> None:
        """One object of the list."""

    def end_list(self) -> None:
        """The list is complete: objects that were not listed are deleted."""

    def changed(self, manifest: Mapping[str, Any]) -> None:
        """An object was created or changed."""

    def gone(self, manifest: Mapping[str, Any]) -> None:
        """An object was deleted."""


class Informer:
    """Lists and watches one kind of object. The list is streamed where the server supports it, so
    that only one object at a time is in memory; older servers return pages.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        store: Store,
        *,
        delays: Backoff,
        watch_for: float,
        deadline: EventDeadline | None = None,
    ) -> None:
        """`deadline` is told of changes that this service makes."""
        self._deadline = deadline or EventDeadline()
        self._api, self._path, self._store = api, path, store
        self._delays, self._watch_for = delays, watch_for
        self._version = ""
        self._streams_lists = True
        self.synced = asyncio.Event()
        self.failure: str | None = "not listed yet"
        """Why the store may be out of date; None while a watch is open."""

    async def run(self) -> None:
        """List and watch until cancelled, across any number of broken connections."""
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                await self._follow()
                if clock() - started < SHORTEST_WATCH:
                    await asyncio.sleep(SHORTEST_WATCH)
            except Expired as error:
                log.info(
                    "the API server no longer has the resourceVersion at which the watch "
                    "has to continue: listing all objects of this path again, so that no "
                    "change is missed",
                    extra=facts(path=self._path, error=error),
                )
                self._version = ""
                await asyncio.sleep(self._delays.next())
            except (Again, Refused, Missing) as error:
                if str(error) != self.failure:
                    log.warning(
                        "list or watch failed; retrying until it succeeds. Until then this "
                        "instance is not ready and sees no changes of these objects; "
                        "afterwards it sees all of them",
                        extra=facts(path=self._path, error=error),
                    )
                self.failure = str(error)
                await asyncio.sleep(self._delays.next())

    async def _follow(self) -> None:
        if not self._version and not self._streams_lists:
            self._version = await read_list(self._api, self._path, self._store)
            self._healthy()
        listing = not self._version
        if listing:
            self._store.begin_list()
        watch = bounded_watch(self._api, self._path, version=self._version, seconds=self._watch_for)
        try:
            async with watch as events, self._deadline.enforced(self._path):
                await self._take(events, listing=listing)
        except Invalid as error:
            if not listing:
                raise Unreachable(str(error)) from error
            log.info(
                "this API server does not support streaming lists: listing the objects of "
                "this path in pages instead. Nothing is missing",
                extra=facts(path=self._path),
            )
            self._streams_lists = False

    async def _take(self, events: WatchEvents, *, listing: bool) -> None:
        if not listing:
            self._healthy()
        async for event in events:
            self._deadline.arrived()
            kind, manifest = event.get("type"), event["object"]
            metadata = manifest["metadata"]
            if kind == "BOOKMARK":
                if listing and (metadata.get("annotations") or {}).get(_END_OF_LIST):
                    self._store.end_list()
                    listing = False
                    self._healthy()
            elif kind == "DELETED":
                self._store.gone(manifest)
            elif listing:
                self._store.listed(manifest)
            else:
                self._store.changed(manifest)
            if not listing:
                self._version = metadata["resourceVersion"]
        if listing:
            raise Unreachable(f"the list of {self._path} ended early")

    def _healthy(self) -> None:
        self._delays.reset()
        self.failure = None
        self.synced.set()


YIELD_EVERY = 8
"""Objects of a page between cooperative yields: each may have policies that take milliseconds."""


async def read_list(api: KubeApi, path: str, store: Store) -> str:
    """Fill a store with the present objects, page by page; returns the version to watch from.

    Raises Expired if the list takes so long that the server no longer has its version.
    """
    store.begin_list()
    pages = Pages(api, path)
    async for manifests in pages:
        async for manifest in yielding(manifests, every=YIELD_EVERY):
            store.listed(manifest)
    store.end_list()
    return pages.version
