"""Objects of one kind, kept as JSON bytes, with the history of their changes."""

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import orjson

Key = tuple[str, str]
"""Namespace and name; the namespace is empty where there is none."""

ChangeKind = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one object. Bytes, so that nobody can change it by accident."""

    key: Key
    version: int
    body: bytes
    """JSON without kind and apiVersion, as items of a list have it."""
    labels: Mapping[str, str]

    @property
    def content(self) -> dict[str, Any]:
        """A fresh copy, free to be changed."""
        content: dict[str, Any] = orjson.loads(self.body)
        return content


@dataclass(slots=True)
class Change:
    """One line of history."""

    kind: ChangeKind
    version: int
    now: Stored
    """For a deletion: the object as it was last, with the version of the deletion."""
    before: Stored | None
    line: bytes = b""
    """The watch event, encoded by the first watcher that needs it."""

    @property
    def object(self) -> dict[str, Any]:
        return self.now.content


class Subscription:
    """Changes from the moment it was made; use it as a context manager and iterate."""

    def __init__(self, collection: "Collection", backlog: deque[Change]) -> None:
        self._collection, self._waiting = collection, backlog
        self._event_arrived = asyncio.Event()
        self.closed = False
        if backlog:
            self._event_arrived.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._collection.forget(self)

    @property
    def pending(self) -> bool:
        return bool(self._waiting)

    def push(self, change: Change) -> None:
        self._waiting.append(change)
        self._event_arrived.set()

    def close(self) -> None:
        """Wake the reader for the last time."""
        self.closed = True
        self._event_arrived.set()

    def take(self) -> list[Change]:
        """All changes that wait, none if there are none."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._event_arrived.clear()
        return taken

    async def wait(self) -> None:
        """Return once there is something to take, or it was closed."""
        if not self.closed:
            await self._event_arrived.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._waiting:
            if self.closed:
                raise StopAsyncIteration
            self._event_arrived.clear()
            await self._event_arrived.wait()
        return self._waiting.popleft()


class Collection:
    """Look-ups cost the same however many objects there are."""

    def __init__(self, history_limit: int) -> None:
        self._objects: dict[Key, Stored] = {}
        self._keys: list[Key] = []
        self._history: deque[Change] = deque()
        self._history_limit = history_limit
        self._subscriptions: set[Subscription] = set()
        self.forgotten = 0
        """Changes up to this version can't be reported any more."""

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Stored | None:
        return self._objects.get(key)

    def put(self, stored: Stored) -> None:
        before = self._objects.get(stored.key)
        if before is None:
            insort(self._keys, stored.key)
        self._objects[stored.key] = stored
        kind: ChangeKind = "MODIFIED" if before else "ADDED"
        self._publish(Change(kind, stored.version, stored, before))

    def remove(self, last: Stored) -> None:
        """`last` carries the version of the removal."""
        before = self._objects.pop(last.key)
        del self._keys[bisect_left(self._keys, last.key)]
        self._publish(Change("DELETED", last.version, last, before))

    def sorted(self, namespace: str = "", after: Key | None = None) -> Iterator[Stored]:
        """Objects by namespace and name, those behind `after`."""
        start = bisect_right(self._keys, after) if after else 0
        if namespace:
            start = max(start, bisect_left(self._keys, (namespace, "")))
        for key in self._keys[start:]:
            if namespace and key[0] != namespace:
                return
            yield self._objects[key]

    def subscribe(self, since: int | None = None) -> Subscription:
        """Changes after version `since`, which must not be forgotten; None means from now on."""
        backlog: deque[Change] = deque()
        if since is not None:
            for change in reversed(self._history):
                if change.version <= since:
                    break
                backlog.appendleft(change)
        subscription = Subscription(self, backlog)
        self._subscriptions.add(subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def compact(self, version: int) -> None:
        """Drop the history up to and including `version`."""
        self._history.clear()
        self.forgotten = version

    def _publish(self, change: Change) -> None:
        self._history.append(change)
        if len(self._history) > self._history_limit:
            self.forgotten = self._history.popleft().version
        for subscription in self._subscriptions:
            subscription.push(change)
