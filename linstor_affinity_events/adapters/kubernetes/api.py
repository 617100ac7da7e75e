"""The client of the API server: JSON in and out, and errors by what the caller should do next."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from linstor_affinity_events.adapters.kubernetes.credentials import Credentials
from linstor_affinity_events.adapters.kubernetes.responses import (
    WatchEvents,
    checked_body,
    retry_after,
    watch_events,
)
from linstor_affinity_events.adapters.kubernetes.retry_after import RetryAfterGate
from linstor_affinity_events.adapters.kubernetes.session import KubeSession, LoadConfiguration
from linstor_affinity_events.adapters.transport.bodies import LONGEST_FIELDS, MIB, read_bounded
from linstor_affinity_events.adapters.transport.sockets import keep_alive
from linstor_affinity_events.errors import Invalid, Unreachable
from linstor_affinity_events.model.keys import OURSELVES

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
METADATA_ALONE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
REQUEST_TIMEOUT = 15.0
BODY_LIMIT = 64 * MIB

MOST_PATH = 400
"""Characters of a path in messages. A name has at most 253."""

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Query = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content_type: str = JSON
    accept: str = JSON
    limit: int = BODY_LIMIT

    def __str__(self) -> str:
        # Names in a path may come from others, and messages are logged and stored.
        return f"{self.method} {self.path[:MOST_PATH]}"

    @property
    def headers(self) -> dict[str, str]:
        kind = {} if self.body is None else {"Content-Type": self.content_type}
        return {"Accept": self.accept} | kind

    @property
    def identity(self) -> tuple[object, ...]:
        """What distinguishes requests: method and path, the name of the created object, and
        whether the request is a dry run.
        """
        given = self.body or {}
        is_dry_run = given.get("dryRun") or "dryRun" in self.query
        return self.method, self.path, (given.get("metadata") or {}).get("name"), bool(is_dry_run)


class KubeApi:
    """One API server. Credentials are loaded again when it no longer accepts the present ones."""

    def __init__(self, load: LoadConfiguration) -> None:
        self._credentials = Credentials(load)
        self._retry_after_gate = RetryAfterGate()

    async def open(self) -> None:
        """Load the configuration. Raises BadSettings."""
        await self._credentials.session()

    async def close(self) -> None:
        await self._credentials.close()

    @property
    def where(self) -> str:
        """The API server and the proxy to it, for messages."""
        return self._credentials.where

    async def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """Read one object or list. Raises Missing."""
        return await self._body_of(_Request("GET", path, query or {}))

    async def get_page(
        self, path: str, query: Query, *, limit: int, metadata_only: bool
    ) -> tuple[dict[str, Any], int]:
        """Read one page of a list, with only the metadata of its items if that is enough. Returns
        the page and its size in bytes. Raises Expired, and TooLong beyond `limit` bytes or too many
        values.
        """
        accept = METADATA_ALONE if metadata_only else JSON
        return await self._send(_Request("GET", path, query, accept=accept, limit=limit))

    async def create(
        self, path: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Create an object. Raises Conflict if the name is taken, Invalid, Forbidden."""
        return await self._body_of(_Request("POST", path, _write(dry_run=dry_run), body))

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object (PUT). Raises Missing, Conflict, Invalid, Forbidden."""
        return await self._body_of(_Request("PUT", path, _write(dry_run=False), body))

    async def patch(
        self, path: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Apply a merge patch. Raises Missing, Conflict, Invalid, Forbidden."""
        query = _write(dry_run=dry_run)
        return await self._body_of(_Request("PATCH", path, query, body, MERGE_PATCH))

    async def delete(
        self, path: str, *, uid: str, version: str, dry_run: bool = False
    ) -> dict[str, Any]:
        """Delete exactly this version. Raises Missing, Conflict, Invalid, Forbidden."""
        body: dict[str, Any] = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "preconditions": {"uid": uid, "resourceVersion": version},
        }
        if dry_run:
            body["dryRun"] = ["All"]
        return await self._body_of(_Request("DELETE", path, body=body))

    async def _body_of(self, request: _Request) -> dict[str, Any]:
        return (await self._send(request))[0]

    async def _send(self, request: _Request) -> tuple[dict[str, Any], int]:
        """Return the body of the response and its size; credentials are renewed once if needed."""
        raw = None if request.body is None else _payload(request.body)
        self._retry_after_gate.check(request.identity, str(request))
        for last in (False, True):
            sent: list[str] = []
            async with (
                self._signed_in(str(request)) as (session, authorization),
                session.http.request(
                    request.method,
                    _url(session, request.path, request.query),
                    data=_request_body(raw),
                    headers={**request.headers, **authorization},
                    timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
                    allow_redirects=False,
                    trace_request_ctx=sent,
                    **session.route,
                ) as response,
            ):
                raw_body = await read_bounded(response, request.limit)
                if not last and await self._credentials.reload_if_rejected(
                    response.status, session
                ):
                    continue
                if response.status == 409 and len(sent) > 1:
                    # The request was sent again on a new connection because the first response was
                    # lost: the conflict may be with the first request.
                    raise Unreachable(f"Kubernetes: {request}: the response was lost")
                self._retry_after_gate.record(request.identity, retry_after(response))
                # Nobody reads the fields of those of which the metadata is enough.
                longest = 0 if request.accept == METADATA_ALONE else LONGEST_FIELDS
                body = await checked_body(response, raw_body, str(request), longest_fields=longest)
                return body, len(raw_body)
        raise AssertionError("the second round always returns")

    @asynccontextmanager
    async def watch(self, path: str, query: Query) -> AsyncIterator[WatchEvents]:
        """Open a watch and yield its events unchanged. Raises Expired if the server no longer has
        the start version, Invalid if it does not support this kind of watch.
        """
        what = f"watch {path}"
        self._retry_after_gate.check(what, what)
        async with self._signed_in(what) as (session, authorization):
            async with asyncio.timeout(REQUEST_TIMEOUT):
                opened = await session.http.get(
                    _url(session, path, {**query, "watch": "1"}),
                    headers=authorization,
                    timeout=aiohttp.ClientTimeout(total=None),
                    allow_redirects=False,
                    **session.route,
                )
            async with opened as response:
                if response.status != 200:
                    await self._credentials.reload_if_rejected(response.status, session)
                    async with asyncio.timeout(REQUEST_TIMEOUT):
                        raw_body = await read_bounded(response, MIB)
                    self._retry_after_gate.record(what, retry_after(response))
                    await checked_body(response, raw_body, what)
                keep_alive(response)
                yield watch_events(response, path)

    @asynccontextmanager
    async def _signed_in(self, what: str) -> AsyncIterator[tuple[KubeSession, dict[str, str]]]:
        """Yield session and authorization of one request or watch. Raises Unreachable for errors of
        the connection, after which credentials are reloaded if they may be the cause.
        """
        async with self._credentials.signed_in() as (session, authorization):
            try:
                yield session, authorization
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                advice = await self._credentials.reload_after(error, session)
                raise Unreachable(
                    f"Kubernetes: {what}: {str(error) or type(error).__name__}{advice}"
                ) from error


def _url(session: KubeSession, path: str, query: Query) -> URL:
    text = f"{session.host}{path}" + (f"?{urlencode(query)}" if query else "")
    return URL(text, encoded=True)


def _payload(body: Mapping[str, Any]) -> bytes:
    """Return the JSON of a body without its `managedFields`, which the API server keeps if it gets
    none. Others can write so many levels there that orjson reads, but does not write them.

    Raises Invalid for texts that UTF-8 can't encode.
    """
    metadata = body.get("metadata")
    if isinstance(metadata, Mapping) and "managedFields" in metadata:
        rest = {key: value for key, value in metadata.items() if key != "managedFields"}
        body = {**body, "metadata": rest}
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise Invalid(f"it cannot be sent to Kubernetes: {error}") from error


def _request_body(raw: bytes | None) -> bytes | BytesIO | None:
    """Return a body as aiohttp expects it. It warns about bytes of more than 1 MiB; a file may have
    any size, but each read takes a switch to another thread.
    """
    return BytesIO(raw) if raw is not None and len(raw) > MIB else raw


def escaped(name: str) -> str:
    """Return a name, whatever it contains, as one segment of a URL path."""
    return quote(name, safe="")


def _write(*, dry_run: bool) -> dict[str, str]:
    query = {"fieldManager": OURSELVES}
    return {**query, "dryRun": "All"} if dry_run else query
