"""LINSTOR's event streams (SSE), decoded into triggers, one connection at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
from aiohttp_sse_client.client import EventSource

from linstor_affinity_events.adapters.linstor.connection import LinstorConnection
from linstor_affinity_events.adapters.linstor.connector import Connector
from linstor_affinity_events.adapters.linstor.replies import text_of
from linstor_affinity_events.adapters.transport.bodies import (
    MIB,
    ReadPerYield,
    parse_text,
    read_lines,
)
from linstor_affinity_events.adapters.transport.plain_response import PlainResponse
from linstor_affinity_events.engine.ports import EventsMissed, ResourceTouched, Trigger
from linstor_affinity_events.errors import TooLong, Unreachable
from linstor_affinity_events.model.names import resource_named

PROMOTION_PATH = "/v1/events/drbd/promotion"
NODES_PATH = "/v1/events/nodes"

CONNECT_TIMEOUT = 10.0
READ_BUFFER = MIB

FRAME_LIMIT = 2 * MIB
"""Bytes of a line, and characters of an event, which has a node with all properties twice."""

MOST_LINES = 100
"""The most data lines of one event. LINSTOR sends one; the library copies the data for each."""

MOST_IDLE_LINES = 10_000
"""The most lines without an event. LINSTOR sends none; a proxy may send comments."""

PER_YIELD = ReadPerYield(2000, MIB)
"""With much smaller values, a flood of events for a few resources would reconcile these over and
over.
"""

ANY = EventsMissed("node")


class _ConnectionEnded(Exception):
    """The connection ended after it was open."""


class _BoundedResponse:
    """The response that the library reads, with limits, and cooperative yields between lines."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._read = read_lines(response, "LINSTOR", longest=FRAME_LIMIT, per_yield=PER_YIELD)
        self.idle_lines = 0
        """Lines since the last event."""

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def content(self) -> Self:
        return self

    def close(self) -> None:
        self._response.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        line = await anext(self._read)
        self.idle_lines += 1
        if self.idle_lines > MOST_IDLE_LINES:
            raise Unreachable(f"LINSTOR sent more than {MOST_IDLE_LINES} lines without an event")
        return line


class _OneConnection(EventSource):  # type: ignore[misc]
    """An event source that ends with its connection. By default the library sleeps, reconnects
    silently, and joins half an event with the first one of the next connection.
    """

    def __init__(self, url: Any, **kwargs: Any) -> None:
        self._response: Any
        super().__init__(url, on_open=self._opened, on_error=self._ended, **kwargs)
        self._was_open = False
        self._data_lines = 0

    async def connect(self, retry: int = 0) -> None:
        await super().connect(retry)
        self._response = _BoundedResponse(self._response)

    def _opened(self) -> None:
        self._was_open = True

    def _ended(self) -> None:
        if self._was_open:
            raise _ConnectionEnded

    def hang_up(self) -> None:
        """Make the reader fail as if the connection had broken."""
        if self._response is not None:
            self._response.close()

    def _dispatch_event(self) -> Any:
        event = super()._dispatch_event()
        if event is not None and self._response is not None:
            self._response.idle_lines = 0
        return event

    def _process_field(self, field_name: str, field_value: str) -> None:
        """Add a field to the event, within limits, which the library does not have.

        `retry` is ignored: LINSTOR never sends it, and this service decides when to reconnect.
        """
        if field_name == "retry":
            return
        if not self._event_data:
            self._data_lines = 0
        self._data_lines += field_name == "data"
        if self._data_lines > MOST_LINES:
            raise Unreachable(f"LINSTOR sent an event of more than {MOST_LINES} lines")
        if len(self._event_data) + len(field_value) > FRAME_LIMIT:
            raise Unreachable(f"LINSTOR sent an event of more than {FRAME_LIMIT // MIB} MiB")
        super()._process_field(field_name, field_value)


class LinstorStream:
    """Implements engine.ports.EventStream."""

    def __init__(self, connection: LinstorConnection, *, name: str, path: str) -> None:
        self.name = name
        self._connection, self._path = connection, path

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncIterator[Trigger]]:
        """Open one connection. An event that cannot be decoded may concern any resource."""
        url = self._connection.url
        where = f"LINSTOR {url}{self._path}"
        connector = Connector(ssl=self._connection.tls_for(url))
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                read_bufsize=READ_BUFFER,
                # Compressed data that yields nothing would pass all limits, for ever.
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                response_class=PlainResponse,
            ) as session:
                source = _OneConnection(
                    self._connection.at(url, self._path),
                    session=session,
                    headers=self._connection.headers() | {"Accept-Encoding": "identity"},
                    allow_redirects=False,
                    server_hostname=self._connection.server_name(url),
                )
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        await source.connect()
                    with self._connection.listening(url, source.hang_up):
                        yield _events(source)
                finally:
                    await source.close()
        except (aiohttp.ClientError, ConnectionError, TimeoutError, OSError) as error:
            self._connection.failed(url)
            likely_cause = self._connection.likely_cause(error, url)
            raise Unreachable(f"{where}: {text_of(error)}{likely_cause}") from error
        except TooLong as error:
            # LINSTOR's own, by the properties of a node, for example: any controller sends it.
            raise Unreachable(f"{where}: {error}") from error
        except UnicodeDecodeError as error:
            raise Unreachable(f"{where}: the stream is not valid UTF-8") from error


async def _events(source: _OneConnection) -> AsyncIterator[Trigger]:
    while True:
        try:
            event = await anext(source)
        except (_ConnectionEnded, StopAsyncIteration):
            return
        yield trigger_of(event.data)


def trigger_of(text: str) -> Trigger:
    """Return the trigger: a promotion event names its resource; a node event may concern any."""
    try:
        tree = parse_text(text)
    except ValueError:
        return ANY
    name = resource_named(tree.get("resource_name")) if isinstance(tree, dict) else None
    return ANY if name is None else ResourceTouched(name)
