"""The client of the API server: JSON in and out, and errors by what the caller should do next."""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from linstor_affinity_events.adapters.bodies import MIB, parse_json, read_bounded
from linstor_affinity_events.adapters.kubernetes.retry_after import RetryAfterGate
from linstor_affinity_events.adapters.kubernetes.session import KubeSession, LoadConfiguration
from linstor_affinity_events.adapters.sockets import keep_alive
from linstor_affinity_events.errors import (
    BadSettings,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    Missing,
    Unreachable,
)
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import OURSELVES

log = logging.getLogger(__name__)

MERGE_PATCH = "application/merge-patch+json"
METADATA_ALONE = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
REQUEST_TIMEOUT = 15.0
BODY_LIMIT = 64 * MIB
MOST_VALUES = 2_000_000
"""The most values in one response. A page of 500 volumes has 150,000; no object has a million."""

YIELD_EVERY = 32
"""Watch events between cooperative yields."""

Query = Mapping[str, str]
WatchEvents = AsyncGenerator[dict[str, Any], None]


class KubeApi:
    """One API server. Credentials are loaded again when it no longer accepts the present ones."""

    def __init__(self, load: LoadConfiguration) -> None:
        self._load = load
        self._session: KubeSession | None = None
        self._opening = asyncio.Lock()
        self._retry_after_gate = RetryAfterGate()
        self._retired: list[KubeSession] = []
        """Sessions from before the last reload of credentials; requests may still use them."""

    async def open(self) -> None:
        """Load the configuration. Raises BadSettings."""
        await self._opened()

    async def _opened(self) -> KubeSession:
        if self._session is None:
            async with self._opening:
                if self._session is None:
                    self._session = await KubeSession.begin(self._load)
                return self._session
        return self._session

    async def _signed_in(self) -> tuple[KubeSession, dict[str, str]]:
        """Return a session and its authorization headers. Getting these may take long enough for
        two reloads of credentials, after which the session would be closed: then start over.
        """
        while True:
            session = await self._opened()
            headers = await session.authorization()
            if session is self._session:
                return session, headers

    async def close(self) -> None:
        async with self._opening:
            for session in (*self._retired, self._session):
                if session is not None:
                    await session.close()
            self._session = None
            self._retired.clear()

    @property
    def host(self) -> str:
        return "" if self._session is None else self._session.host

    @property
    def where(self) -> str:
        """The API server and the proxy to it, for messages."""
        return "" if self._session is None else self._session.where

    async def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """Read one object or list. Raises Missing."""
        return await self._request("GET", path, query)

    async def get_metadata(
        self, path: str, query: Query, *, limit: int
    ) -> tuple[dict[str, Any], int]:
        """Read one page of a list with only the metadata of its items. Returns the page and its
        size in bytes. Raises Expired, and TooLong beyond `limit` bytes.
        """
        return await self._sized("GET", path, query, accept=METADATA_ALONE, limit=limit)

    async def create(
        self, path: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Create an object. Raises Conflict if the name is taken, Invalid, Forbidden."""
        return await self._request("POST", path, _write(dry_run=dry_run), body)

    async def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Replace an object (PUT). Raises Missing, Conflict, Invalid, Forbidden."""
        return await self._request("PUT", path, _write(dry_run=False), body)

    async def patch(
        self, path: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Apply a merge patch. Raises Missing, Conflict, Invalid, Forbidden."""
        query = _write(dry_run=dry_run)
        return await self._request("PATCH", path, query, body, MERGE_PATCH)

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
        return await self._request("DELETE", path, None, body)

    async def _request(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        answer, _ = await self._sized(method, path, query, body, content_type)
        return answer

    async def _sized(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        *,
        accept: str = "application/json",
        limit: int = BODY_LIMIT,
    ) -> tuple[dict[str, Any], int]:
        raw = None if body is None else orjson.dumps(body)
        headers = {"Accept": accept} | ({} if raw is None else {"Content-Type": content_type})
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        request = (method, path, *_identity_of(query, body))
        self._retry_after_gate.check(request, f"{method} {path}")
        for last in (False, True):
            sent: list[str] = []
            session, authorization = await self._signed_in()
            try:
                async with session.http.request(
                    method,
                    _url(session, path, query),
                    data=_request_body(raw),
                    headers={**headers, **authorization},
                    timeout=timeout,
                    allow_redirects=False,
                    trace_request_ctx=sent,
                    **session.route,
                ) as response:
                    answer = await read_bounded(response, limit)
                    if response.status == 401 and not last:
                        await self._renew(session)
                        continue
                    if response.status == 409 and len(sent) > 1:
                        # The request was sent again on a new connection because the first
                        # response was lost: the conflict may be with the first request.
                        raise Unreachable(f"Kubernetes: {method} {path}: the response was lost")
                    self._retry_after_gate.record(request, _retry_after(response))
                    return _checked_body(response, answer, f"{method} {path}"), len(answer)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                cause = await self._likely_cause(error, session)
                raise Unreachable(
                    f"Kubernetes: {method} {path}: {_message(error)}{cause}"
                ) from error
        raise AssertionError("the second round always returns")

    @asynccontextmanager
    async def watch(self, path: str, query: Query) -> AsyncIterator[WatchEvents]:
        """Open a watch and yield its events unchanged. Raises Expired if the server no longer has
        the start version, Invalid if it does not support this kind of watch.
        """
        request = ("watch", path)
        self._retry_after_gate.check(request, f"watch {path}")
        session, authorization = await self._signed_in()
        try:
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
                    if response.status == 401:
                        await self._renew(session)
                    async with asyncio.timeout(REQUEST_TIMEOUT):
                        answer = await read_bounded(response, MIB)
                    self._retry_after_gate.record(request, _retry_after(response))
                    _checked_body(response, answer, f"watch {path}")
                keep_alive(response)
                yield _lines(response, path)
        except (aiohttp.ClientError, LineTooLong, TimeoutError, OSError) as error:
            cause = await self._likely_cause(error, session)
            raise Unreachable(f"Kubernetes: watch {path}: {_message(error)}{cause}") from error

    async def _likely_cause(self, error: Exception, session: KubeSession) -> str:
        """Reload credentials if they may be the cause; returns a hint for the error message.

        With TLS 1.3, a rejected client certificate looks like a connection that ends before the
        first response.
        """
        if _is_about_tls(error):
            await self._renew(session)
        elif isinstance(error, aiohttp.ServerDisconnectedError) and session.certified:
            await self._renew(session)
            return " (the server may have rejected the client certificate)"
        return ""

    async def _renew(self, old: KubeSession) -> None:
        """Load tokens and certificates again: they rotate, and clocks do not reliably show when."""
        async with self._opening:
            if self._session is not old:
                return
            log.info(
                "Kubernetes may have rejected the credentials: reading them from disk again",
                extra=facts(server=self.where),
            )
            try:
                session = await KubeSession.begin(self._load)
            except BadSettings as error:
                raise Unreachable(str(error)) from error
            # Closing the session in use would fail requests that are about to be sent.
            for retired in self._retired:
                await retired.close()
            self._retired = [self._session]
            self._session = session


def _url(session: KubeSession, path: str, query: Query | None) -> URL:
    text = f"{session.host}{path}" + (f"?{urlencode(query)}" if query else "")
    return URL(text, encoded=True)


def _request_body(raw: bytes | None) -> bytes | BytesIO | None:
    """Return a body as aiohttp expects it. It warns about bytes of more than 1 MiB; a file may have
    any size, but each read takes a switch to another thread.
    """
    return BytesIO(raw) if raw is not None and len(raw) > MIB else raw


def list_metadata(page: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata of a list; raises Unreachable if the page is not a list."""
    metadata = page.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(page.get("items") or [], list):
        raise Unreachable("Kubernetes did not return a list")
    return metadata


def escaped(name: str) -> str:
    """Return a name, whatever it contains, as one segment of a URL path."""
    return quote(name, safe="")


def _write(*, dry_run: bool) -> dict[str, str]:
    query = {"fieldManager": OURSELVES}
    return {**query, "dryRun": "All"} if dry_run else query


def _identity_of(query: Query | None, body: Mapping[str, Any] | None) -> tuple[object, ...]:
    """Return what distinguishes requests with the same method and path: the name of the created
    object, and whether the request is a dry run.
    """
    given = body or {}
    is_dry_run = given.get("dryRun") or "dryRun" in (query or {})
    return (given.get("metadata") or {}).get("name"), bool(is_dry_run)


async def _lines(response: aiohttp.ClientResponse, path: str) -> WatchEvents:
    count = 0
    async for line in response.content:
        if not line.strip():
            continue
        event = parse_json(line, f"watch {path}", most=MOST_VALUES)
        if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
            raise Unreachable(f"watch {path} did not return events")
        if event.get("type") == "ERROR":
            status = event["object"]
            if status.get("code") == 410:
                raise Expired(str(status.get("message", "expired")))
            raise Unreachable(f"watch {path}: {status.get('message', 'error')}")
        metadata = event["object"].get("metadata")
        if not isinstance(metadata, dict) or not isinstance(metadata.get("resourceVersion"), str):
            raise Unreachable(f"watch {path} returned an object without a resourceVersion")
        yield event
        count += 1
        if count % YIELD_EVERY == 0:
            # Reading a buffered line never waits, and an initial list fills the buffer.
            await asyncio.sleep(0)


def _is_about_tls(error: BaseException | None) -> bool:
    """Return whether a certificate of either side was rejected: both are files that rotate.

    The peer may reject the client's certificate after the connection is made, so that the error is
    one of the connection.
    """
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = getattr(error, "os_error", None) or error.__cause__
    return False


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__


def _checked_body(response: aiohttp.ClientResponse, raw: bytes, what: str) -> dict[str, Any]:
    """Return the body of a successful response; otherwise raise the error for the next action."""
    status = response.status
    if 300 <= status < 400:
        raise Unreachable(
            f"Kubernetes: {what}: the server redirected the request elsewhere; "
            "redirects are not followed"
        )
    try:
        body = parse_json(raw, what, most=MOST_VALUES)
    except Unreachable:
        if status < 400:
            raise
        body = {}
    if not isinstance(body, dict):
        raise Unreachable(f"Kubernetes: {what}: the response is not an object")
    if status < 400:
        return body
    _raise(status, body, what, _retry_after(response))
    raise AssertionError("every error response raises")


def _raise(status: int, body: Mapping[str, Any], what: str, after: float | None) -> None:
    message = f"{what}: {str(body.get('message') or f'HTTP {status}')[:1000]}"
    match status:
        case 404:
            raise Missing(message)
        case 409:
            raise Conflict(message)
        case 410:
            raise Expired(message, go_on=_continue_token(body))
        case 403:
            raise Forbidden(message)
        case 400 | 413 | 415 | 422:
            raise Invalid(message, fields=_causes(body.get("details")))
        case _:
            raise Unreachable(f"Kubernetes: {message}", after=after)


def _continue_token(status: Mapping[str, Any]) -> str:
    metadata = status.get("metadata")
    return str(metadata.get("continue") or "") if isinstance(metadata, Mapping) else ""


def _causes(details: object) -> tuple[str, ...]:
    causes = details.get("causes") if isinstance(details, Mapping) else None
    found = causes if isinstance(causes, list) else []
    return tuple(str(c.get("field", "")) for c in found if isinstance(c, Mapping))


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    if response.status != 429 and response.status < 500:
        return None
    text = response.headers.get("Retry-After", "")
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else None
