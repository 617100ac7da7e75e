"""Watches: changes as lines of JSON, from a version on or from the present state."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from tests.fakes.kube_server.collection import Change, Stored, Subscription
from tests.fakes.kube_server.lists import encoded_object
from tests.fakes.kube_server.refusals import (
    Mistake,
    bad_request,
    expired,
    forbidden_field,
    internal,
    invalid,
    unsupported,
)
from tests.fakes.kube_server.resources import Resource
from tests.fakes.kube_server.selectors import Selector
from tests.fakes.kube_server.store import Store

DEFAULT_TIMEOUT = 2700.0
"""The real one takes a random time between half an hour and an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """A watch request, checked."""

    since: int | None
    """Send the changes after this version; None: the current state first."""
    end_mark: bool
    """Say when the present state has been reported."""
    bookmarks: bool
    timeout: float

    @classmethod
    def of(cls, query: Mapping[str, str], *, initial_events_supported: bool) -> "WatchOptions":
        """Raises Refusal."""
        initial = query.get("sendInitialEvents")
        _check(initial, query.get("resourceVersionMatch", ""), supported=initial_events_supported)
        version = query.get("resourceVersion", "")
        if version and not version.isdigit():
            raise internal(
                f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: '
                f'parsing "{version}": invalid syntax'
            )
        bookmarks = is_true(query.get("allowWatchBookmarks"))
        from_state = is_true(initial) or version in {"", "0"}
        return cls(
            since=None if from_state else int(version),
            end_mark=is_true(initial) and bookmarks,
            bookmarks=bookmarks,
            timeout=_timeout(query),
        )


def _check(initial: str | None, match: str, *, supported: bool) -> None:
    found: list[Mistake] = []
    if initial is not None and not supported:
        found.append(forbidden_field("sendInitialEvents", NO_WATCH_LIST))
    elif initial is not None and match != "NotOlderThan":
        why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        found.append(forbidden_field("resourceVersionMatch", why))
        if match:
            found.append(unsupported("resourceVersionMatch", f'"{match}"', ("NotOlderThan",)))
    elif initial is None and match:
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        found.append(forbidden_field("resourceVersionMatch", why))
    if found:
        raise invalid("ListOptions", "", found, group="meta.k8s.io")


def _timeout(query: Mapping[str, str]) -> float:
    given = query.get("timeoutSeconds", "") or "0"
    try:
        return float(int(given)) or DEFAULT_TIMEOUT
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{given}": invalid syntax') from None


class Watch:
    """One open watch; `lines` is what goes over the wire."""

    def __init__(
        self,
        store: Store,
        resource: Resource,
        namespace: str,
        selector: Selector,
        options: WatchOptions,
        bookmark_every: float,
    ) -> None:
        self._store, self._resource = store, resource
        self._namespace, self._selector = namespace, selector
        self._options, self._bookmark_every = options, bookmark_every
        self._subscription: Subscription | None = None
        self._expired = False

    def expire(self) -> None:
        """End it with the error that says "list again"."""
        self._expired = True
        if self._subscription is not None:
            self._subscription.close()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Chunks of whole lines until the time is up. Close the iterator when done with it."""
        collection, options = self._store.collection(self._resource), self._options
        ends = asyncio.get_running_loop().time() + options.timeout
        version, since = self._store.version, options.since
        if since is not None and since < collection.forgotten:
            yield self._too_old(since)
            return
        with collection.subscribe(since) as subscription:
            self._subscription = subscription
            if since is None:
                # Taken at once: changes that come while it is sent are in the subscription.
                for chunk in self._state(list(collection.sorted(self._namespace)), version):
                    yield chunk
            async for chunk in self._changes(subscription, ends):
                yield chunk
        if self._expired:
            yield self._too_old(since or version)

    def _state(self, objects: list[Stored], version: int) -> Iterator[bytes]:
        chosen = [stored for stored in objects if self._selector.matches(stored)]
        for start in range(0, len(chosen), 200):
            some = chosen[start : start + 200]
            yield b"".join(self._line("ADDED", stored) for stored in some)
        if self._options.end_mark:
            yield self._bookmark(version, {"annotations": {"k8s.io/initial-events-end": "true"}})

    async def _changes(
        self, subscription: Subscription, ends: float
    ) -> AsyncGenerator[bytes, None]:
        clock = asyncio.get_running_loop().time
        next_mark = clock() + self._bookmark_every
        while not subscription.closed and clock() < ends:
            wait = ends - clock()
            if self._options.bookmarks:
                wait = min(wait, max(0.0, next_mark - clock()))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await subscription.wait()
            if chunk := b"".join(self._reported(change) for change in subscription.take()):
                yield chunk
            if self._options.bookmarks and clock() >= next_mark:
                next_mark = clock() + self._bookmark_every
                yield self._bookmark(self._store.version, {})

    def _reported(self, change: Change) -> bytes:
        if self._namespace and change.now.key[0] != self._namespace:
            return b""
        # Events look different in their two groups; all other plain watches share their bytes.
        if not self._selector.narrows and self._resource.plural != "events":
            if not change.line:
                change.line = self._line(change.kind, change.now)
            return change.line
        matches = change.kind != "DELETED" and self._selector.matches(change.now)
        fitted = change.before is not None and self._selector.matches(change.before)
        if matches:
            return self._line("MODIFIED" if fitted else "ADDED", change.now)
        return self._line("DELETED", change.now) if fitted else b""

    def _line(self, kind: str, stored: Stored) -> bytes:
        body = encoded_object(self._resource, stored)
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)

    def _bookmark(self, version: int, more: dict[str, Any]) -> bytes:
        mark = {
            "type": "BOOKMARK",
            "object": {
                "kind": self._resource.kind,
                "apiVersion": self._resource.api_version,
                "metadata": {"resourceVersion": str(version), **more},
                "spec": {},
                "status": {},
            },
        }
        return orjson.dumps(mark) + b"\n"

    def _too_old(self, since: int) -> bytes:
        forgotten = self._store.collection(self._resource).forgotten
        refusal = expired(f"too old resource version: {since} ({forgotten})")
        return orjson.dumps({"type": "ERROR", "object": refusal.status}) + b"\n"


def is_true(given: str | None) -> bool:
    return given is not None and given.lower() in {"1", "t", "true"}


NO_WATCH_LIST = (
    "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
)
