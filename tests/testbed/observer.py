"""Watches volumes and claims from outside and remembers what it saw, and when.

A watch that breaks is restarted with a list; what came and went between the two is not seen.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

from tests.testbed.clusters import TIMEOUT, ApiError, Cluster
from tests.testbed.manifests import terms_of

Json = dict[str, Any]

PAUSE = 0.1
"""Before a watch is restarted."""


class _Over(Exception):
    """The API server ended the watch."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One state of a volume."""

    at: float
    """By the machine's monotonic clock, which all processes share."""

    kind: str
    manifest: Json


class Observer:
    """Use it as `async with Observer.of(cluster) as observer`."""

    def __init__(self) -> None:
        self.volumes: dict[str, Json] = {}
        self.claims: dict[tuple[str, str], Json] = {}
        self.history: dict[str, list[Observed]] = {}
        self.lost: list[tuple[str, str]] = []
        """Claims each time they became Lost."""
        self._changed = asyncio.Condition()

    @classmethod
    @asynccontextmanager
    async def of(cls, cluster: Cluster) -> AsyncIterator[Self]:
        observer = cls()
        async with asyncio.TaskGroup() as group:
            ready = []
            tasks = []
            for path, take in (
                ("/api/v1/persistentvolumes", observer._volume),
                ("/api/v1/persistentvolumeclaims", observer._claim),
            ):
                ready.append(asyncio.Event())
                watch = observer._watch(cluster, path, take, ready[-1])
                tasks.append(group.create_task(watch, name=f"observe-{path}"))
            for event in ready:
                await event.wait()
            try:
                yield observer
            finally:
                for task in tasks:
                    task.cancel()

    async def _watch(
        self,
        cluster: Cluster,
        path: str,
        take: Callable[[str, Json], None],
        ready: asyncio.Event,
    ) -> None:
        known: dict[str, Json] = {}
        while True:
            # A server that is down, or comes up, says so in many ways.
            with suppress(aiohttp.ClientError, ApiError, _Over, OSError):
                listed = await cluster.ask("GET", path)
                found = {item["metadata"]["uid"]: item for item in listed.get("items", ())}
                for uid in known.keys() - found.keys():
                    take("DELETED", known.pop(uid))
                known |= found
                for manifest in found.values():
                    take("ADDED", manifest)
                ready.set()
                await self._notify()
                version = listed["metadata"]["resourceVersion"]
                await self._follow(cluster, path, version, take, known)
            await asyncio.sleep(PAUSE)

    async def _follow(
        self,
        cluster: Cluster,
        path: str,
        version: str,
        take: Callable[[str, Json], None],
        known: dict[str, Json],
    ) -> None:
        async with cluster.session.get(
            path, params={"watch": "1", "resourceVersion": version}, timeout=None
        ) as response:
            try:
                async for line in response.content:
                    event = orjson.loads(line)
                    kind, manifest = event["type"], event["object"]
                    if kind == "ERROR":
                        raise _Over
                    known[manifest["metadata"]["uid"]] = manifest
                    if kind == "DELETED":
                        del known[manifest["metadata"]["uid"]]
                    take(kind, manifest)
                    await self._notify()
            finally:
                # Over TLS a polite end would take longer than the loop of a test lives.
                if response.connection is not None and response.connection.transport:
                    response.connection.transport.abort()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _volume(self, kind: str, manifest: Json) -> None:
        name = manifest["metadata"]["name"]
        self.history.setdefault(name, []).append(Observed(time.monotonic(), kind, manifest))
        if kind == "DELETED":
            self.volumes.pop(name, None)
        else:
            self.volumes[name] = manifest

    def _claim(self, kind: str, manifest: Json) -> None:
        metadata = manifest["metadata"]
        key = (metadata["namespace"], metadata["name"])
        before = self.claims.get(key)
        if kind == "DELETED":
            self.claims.pop(key, None)
            return
        self.claims[key] = manifest
        was = (before or {}).get("status", {}).get("phase")
        if manifest.get("status", {}).get("phase") == "Lost" and was != "Lost":
            self.lost.append(key)

    async def until(
        self, wanted: Callable[[], bool], what: str, *, within: float = TIMEOUT
    ) -> None:
        """Wait until what was seen is as wanted."""
        try:
            async with asyncio.timeout(within):
                async with self._changed:
                    await self._changed.wait_for(wanted)
        except TimeoutError:
            raise AssertionError(f"it was never seen that {what}") from None

    async def until_terms(self, name: str, *terms: Json, within: float = TIMEOUT) -> float:
        """Wait until a volume that stays has these terms; returns when it first had them."""
        wished = frozenset(frozenset(term.items()) for term in terms)
        await self.until(lambda: self.has_terms(name, wished), f"{name} has {terms}", within=within)
        return self.since(name, wished)

    def has_terms(self, name: str, wished: frozenset[frozenset[tuple[str, str]]]) -> bool:
        found = self.volumes.get(name)
        return (
            found is not None
            and "deletionTimestamp" not in found["metadata"]
            and terms_of(found) == wished
        )

    def since(self, name: str, wished: frozenset[frozenset[tuple[str, str]]]) -> float:
        """When a volume got the terms that it has had ever since."""
        at = 0.0
        for observed in reversed(self.history[name]):
            alive = (
                observed.kind != "DELETED"
                and "deletionTimestamp" not in observed.manifest["metadata"]
            )
            if alive and terms_of(observed.manifest) == wished:
                at = observed.at
            elif at:
                break
        return at

    def phases(self) -> dict[str, int]:
        """How many claims are in which phase."""
        found: dict[str, int] = {}
        for manifest in self.claims.values():
            phase = manifest.get("status", {}).get("phase", "")
            found[phase] = found.get(phase, 0) + 1
        return found
