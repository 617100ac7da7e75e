"""The client of LINSTOR's REST API: asks the controllers in turn."""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

from linstor_affinity_events.adapters.linstor.connection import LinstorConnection
from linstor_affinity_events.adapters.linstor.connector import Connector
from linstor_affinity_events.adapters.linstor.json_stream import LONGEST, Overlong, objects_in
from linstor_affinity_events.adapters.linstor.replies import (
    checked_body,
    is_from_linstor,
    redirected,
    text_of,
)
from linstor_affinity_events.adapters.transport.bodies import MIB, read_bounded, size_text
from linstor_affinity_events.adapters.transport.plain_response import PlainResponse
from linstor_affinity_events.errors import TooLong, Unreachable
from linstor_affinity_events.printable import shortened

OBJECT_LIMIT = MIB
"""The size limit of a response that is not a list: a version, a number, an error."""

ONE_LIMIT = 16 * MIB
"""The size limit of a response about one resource."""

BULK_LIMIT = 640 * MIB
"""The size limit of a bulk read, also of all nodes. It is parsed incrementally, and objects that
are too long are skipped, so this limits time and not memory: about 200,000 resources.
"""

MOST_ROWS = 200_000
"""The most rows of a bulk read; they take about 80 MB of memory."""

MOST_OF_ONE = 1000
"""The most rows of a response about one resource."""

CONNECT_TIMEOUT = 5.0
BULK_TIMEOUT = 30.0

Take = Callable[[Mapping[str, Any]], None]
Skip = Callable[[str], None]
"""Is called with the name of an object that is too long to be read."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """What to do with the objects of a list, and its limits in bytes and objects."""

    take: Take
    skip: Skip
    limit: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    method: str = "GET"
    path: str
    within: float
    body: object = None
    rows: _Rows | None = None

    def at(self, url: str) -> str:
        return f"LINSTOR {url}: {self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class _Response:
    """A response to a read."""

    url: str
    status: int
    raw: bytes

    @property
    def from_linstor(self) -> bool:
        return is_from_linstor(self.raw)

    @property
    def may_be_none_of_linstor(self) -> bool:
        """Whether it is an error that another controller may not have."""
        return self.status >= 500 or (self.status >= 400 and not self.from_linstor)


class LinstorClient:
    """Use as an async context manager."""

    def __init__(self, connection: LinstorConnection, *, timeout: float) -> None:
        self._connection, self._timeout = connection, timeout
        self._open: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # LINSTOR closes connections that are idle for 30 s; a shorter time avoids that race.
        connector = Connector(limit=32, keepalive_timeout=20)
        # A cookie of one response would be in all later requests, and could make them too long.
        self._open = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=PlainResponse,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._open is not None:
            await self._open.close()

    async def get(self, path: str) -> Any:
        return await self._ask(_Request(path=path, within=self._timeout))

    async def put(self, path: str, body: object) -> None:
        await self._ask(_Request(method="PUT", path=path, within=BULK_TIMEOUT, body=body))

    async def read_list(
        self,
        path: str,
        take: Take,
        skip: Skip,
        *,
        most: int = MOST_OF_ONE,
        limit: int = ONE_LIMIT,
    ) -> None:
        """Read a list and pass each of its objects to `take`, or its name to `skip` if it is too
        long. Raises TooLong if the list is, in objects or bytes.
        """
        rows = _Rows(take, skip, limit, most)
        await self._ask(_Request(path=path, within=self._timeout, rows=rows))

    async def read_long_list(self, path: str, take: Take, skip: Skip) -> None:
        """Do the same with a list of all resources or definitions."""
        rows = _Rows(take, skip, BULK_LIMIT, MOST_ROWS)
        await self._ask(_Request(path=path, within=max(BULK_TIMEOUT, self._timeout), rows=rows))

    async def _ask(self, request: _Request) -> Any:
        """Ask the controllers in turn until one responds, and use that response.

        For a read, a 5xx, or a 4xx that is not LINSTOR's, counts only if no other controller has a
        better response: a load balancer without its controller returns one. A write that may have
        taken effect is not sent to another controller.
        """
        failures: list[str] = []
        failed: _Response | None = None
        reads = request.method == "GET"
        for url in self._connection.candidates():
            try:
                status, raw = await self._exchange(url, request)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._connection.failed(url)
                if not (_was_never_sent(error) or (reads and _was_cut(error)) or failed):
                    what = request.at(url)
                    raise Unreachable(f"{what}: {shortened(str(error)) or 'timed out'}") from error
                likely_cause = self._connection.likely_cause(error, url)
                failures.append(f"{url}: {_message(error)}{likely_cause}")
            except Unreachable as error:
                # What responds there is no LINSTOR, and another one is asked next time; unless it
                # has more than is read of a list: so has any of them.
                if request.rows is None or not isinstance(error, TooLong):
                    self._connection.failed(url)
                raise
            else:
                response = _Response(url, status, raw)
                if reads and response.may_be_none_of_linstor:
                    if failed is None or (response.from_linstor and not failed.from_linstor):
                        failed = response
                    continue
                self._connection.responded(url)
                if status < 300 and (not reads or request.rows is not None):
                    return []
                return checked_body(status, raw, request.at(url))
        if failed is None:
            raise Unreachable(f"cannot reach LINSTOR: {'; '.join(failures)}")
        if failed.from_linstor:
            self._connection.responded(failed.url)
        return checked_body(failed.status, failed.raw, request.at(failed.url), failures)

    async def _exchange(self, url: str, request: _Request) -> tuple[int, bytes]:
        """Return the status, and the body unless its objects were passed on."""
        if self._open is None:
            raise AssertionError("entered as a context manager first")
        raw = None if request.body is None else orjson.dumps(request.body)
        headers = self._connection.headers()
        if raw is not None:
            headers["Content-Type"] = "application/json"
        async with self._open.request(
            request.method,
            self._connection.at(url, request.path),
            data=raw,
            headers=headers,
            ssl=self._connection.tls_for(url),
            server_hostname=self._connection.server_name(url),
            timeout=aiohttp.ClientTimeout(
                # Sooner than the whole request, so that it is known not to have been sent.
                total=request.within,
                sock_connect=min(CONNECT_TIMEOUT, request.within / 2),
            ),
            allow_redirects=False,
        ) as response:
            what, rows = request.at(url), request.rows
            if 300 <= response.status < 400:
                raise Unreachable(f"{what}: {redirected(response)}")
            if response.status >= 300:
                return response.status, await _error_body(response)
            if rows is None:
                return response.status, await read_bounded(response, OBJECT_LIMIT)
            objects = objects_in(response, what, limit=rows.limit, most=rows.most)
            async with aclosing(objects) as found:
                async for each in found:
                    if not isinstance(each, Overlong):
                        rows.take(each)
                    elif each.name:
                        rows.skip(each.name)
                    else:
                        raise TooLong(
                            f"{what} returned an object of more than {size_text(LONGEST)} that "
                            "does not begin with its name"
                        )
            return response.status, b""


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, or nothing of one that is so long that LINSTOR has not sent it."""
    try:
        return await read_bounded(response, OBJECT_LIMIT)
    except TooLong:
        return b""


def _was_never_sent(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


def _was_cut(error: Exception) -> bool:
    """Return whether the connection ended before the response began."""
    return isinstance(error, aiohttp.ServerDisconnectedError)


def _message(error: Exception) -> str:
    """Return the operating system's message if there is one: aiohttp's mentions TLS without TLS."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror
    return text_of(error)
