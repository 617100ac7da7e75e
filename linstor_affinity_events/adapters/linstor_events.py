"""LINSTOR's event streams, one connection at a time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp.http_exceptions import LineTooLong
from aiohttp_sse_client.client import EventSource

from linstor_affinity_events.adapters.bodies import MIB
from linstor_affinity_events.adapters.linstor_connection import LinstorConnection
from linstor_affinity_events.adapters.sockets import watched_socket
from linstor_affinity_events.errors import Unreachable

PROMOTION_PATH = "/v1/events/drbd/promotion"
NODES_PATH = "/v1/events/nodes"

CONNECT_TIMEOUT = 10.0
READ_BUFFER = 4 * MIB
"""aiohttp takes lines of twice this size: a node with all its properties is one line."""

FRAME_LIMIT = 16 * MIB


class _HungUp(Exception):
    """The connection ended after it had been open."""


class _OneConnection(EventSource):  # type: ignore[misc]
    """Ends with its connection. Left to itself the library would sleep, connect again without a
    word, and glue half an event onto the first one of the next connection.
    """

    def __init__(self, url: Any, **kwargs: Any) -> None:
        super().__init__(url, on_open=self._opened, on_error=self._ended, **kwargs)
        self._was_open = False

    def _opened(self) -> None:
        self._was_open = True

    def _ended(self) -> None:
        if self._was_open:
            raise _HungUp

    def hang_up(self) -> None:
        """Let whoever waits for the next event fail as if the connection had broken."""
        if self._response is not None:
            self._response.close()

    def _process_field(self, field_name: str, field_value: str) -> None:
        """Collect a field; the library would collect them without end.

        `retry` is left out: LINSTOR never sends it, and when to connect again is ours to say.
        """
        if field_name == "retry":
            return
        if len(self._event_data) + len(field_value) > FRAME_LIMIT:
            raise Unreachable(f"LINSTOR sends an event of more than {FRAME_LIMIT // MIB} MiB")
        super()._process_field(field_name, field_value)


class LinstorStream:
    """Implements engine.ports.EventStream."""

    def __init__(self, connection: LinstorConnection, *, name: str, path: str) -> None:
        self.name = name
        self._connection, self._path = connection, path

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncIterator[Mapping[str, object]]]:
        """Open one connection. An event that can't be read comes as an empty one."""
        url = self._connection.url
        where = f"LINSTOR {url}{self._path}"
        connector = aiohttp.TCPConnector(
            ssl=self._connection.tls_for(url), socket_factory=watched_socket
        )
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                read_bufsize=READ_BUFFER,
            ) as session:
                source = _OneConnection(
                    self._connection.at(url, self._path),
                    session=session,
                    headers=self._connection.headers(),
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
        except (aiohttp.ClientError, ConnectionError, LineTooLong, TimeoutError, OSError) as error:
            self._connection.failed(url)
            doubt = self._connection.doubt(error, url)
            raise Unreachable(f"{where}: {_said(error)}{doubt}") from error
        except UnicodeDecodeError as error:
            raise Unreachable(f"{where}: sends bytes that are no UTF-8") from error


async def _events(source: _OneConnection) -> AsyncIterator[Mapping[str, object]]:
    while True:
        try:
            event = await anext(source)
        except (_HungUp, StopAsyncIteration):
            return
        yield _payload(event.data)


def _payload(text: str) -> Mapping[str, object]:
    try:
        tree = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
