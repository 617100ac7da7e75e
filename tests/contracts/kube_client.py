"""A raw client for contract tests: what went over the wire, nothing interpreted."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"

VOLUMES = "/api/v1/persistentvolumes"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
CORE_EVENTS = "/api/v1/namespaces/default/events"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
STORAGE_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"

TIMEOUT = 30.0
"""The slowest thing waited for is the real binder's resync, every 15 s."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def message(self) -> str:
        """That of a Status."""
        return str(self.body["message"])

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", ""))

    @property
    def metadata(self) -> Json:
        found: Json = self.body["metadata"]
        return found

    @property
    def causes(self) -> list[tuple[str, str]]:
        """Reason and field of each."""
        return [(each["reason"], each["field"]) for each in self.body["details"]["causes"]]


class Lines:
    """The events of an open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> Json:
        async with asyncio.timeout(TIMEOUT):
            line = await self._response.content.readline()
        if not line:
            raise EOFError
        event: Json = json.loads(line)
        return event

    async def until(self, wanted: Callable[[Json], bool]) -> list[Json]:
        """All events up to the wanted one, which is the last."""
        observed = []
        while True:
            observed.append(await self.next())
            if wanted(observed[-1]):
                return observed


class KubeClient:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, **query: str) -> Reply:
        return await self.send("GET", path, None, query)

    async def post(self, path: str, body: Json, **query: str) -> Reply:
        return await self.send("POST", path, body, query)

    async def put(self, path: str, body: Json, **query: str) -> Reply:
        return await self.send("PUT", path, body, query)

    async def patch(self, path: str, patch: Any, kind: str = MERGE, **query: str) -> Reply:
        return await self.send("PATCH", path, patch, query, {"Content-Type": kind})

    async def delete(self, path: str, body: Json | None = None, **query: str) -> Reply:
        return await self.send("DELETE", path, body, query)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        given = {"Content-Type": "application/json", **(headers or {})}
        encoded = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        # aiohttp warns of large bytes, but not of the same ones in a file.
        data = None if encoded is None else io.BytesIO(encoded)
        async with self._session.request(
            method, path, data=data, params=query, headers=given
        ) as response:
            text = await response.read()
            is_json = response.content_type == "application/json"
            return Reply(response.status, json.loads(text) if is_json else text, response.headers)

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[Lines]:
        """A watch that was opened with a 200."""
        async with self._session.get(path, params={"watch": "1", **query}) as response:
            assert response.status == 200, await response.text()
            try:
                yield Lines(response)
            finally:
                # A polite end of TLS would wait for the server, and outlive the loop of the test.
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()

    async def until(self, path: str, wanted: Callable[[Json], bool]) -> Json:
        """The object once it is as wanted."""
        found: Json = {}
        try:
            async with asyncio.timeout(TIMEOUT):
                while True:
                    found = (await self.get(path)).body
                    if wanted(found):
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{path} stayed {json.dumps(found)}") from None

    async def until_phase(self, path: str, *phases: str) -> Json:
        return await self.until(
            path, lambda observed: observed.get("status", {}).get("phase") in phases
        )

    async def until_gone(self, path: str) -> None:
        await self.until(path, lambda observed: observed.get("code") == 404)
