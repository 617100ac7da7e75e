"""Connections to LINSTOR."""

import asyncio
import functools
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

from linstor_affinity_events.adapters.transport.bodies import MIB
from linstor_affinity_events.adapters.transport.sockets import watched_socket

MOST_UNREAD = 2
"""Responses of one connection that wait to be read: an interim one and the one asked for."""

MOST_UNSENT = 4 * MIB
"""Bytes. No request is as long: the longest has a PersistentVolume, of up to 1.5 MiB, as text."""


class _Connection(ResponseHandler):
    """Ends if the peer sends responses that nobody has asked for. aiohttp would keep all of them
    until the connection is used again, at 25 times their length. It ends as well if the peer takes
    nothing: OpenSSL answers each key update of TLS 1.3, and these answers would be kept.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Those of uvloop are none of asyncio's classes.
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=MOST_UNSENT)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort()

    def feed_data(self, data: Any, size: int = 0) -> None:
        super().feed_data(data, size)
        if len(self) > MOST_UNREAD:
            self._abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Connector(aiohttp.TCPConnector):
    """Takes the options of aiohttp's TCPConnector. Its sockets are those of `watched_socket`, and
    a peer that sends more than it was asked for, or takes nothing, is disconnected.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(socket_factory=watched_socket, **options)
        # aiohttp has no option for it.
        connection: type[ResponseHandler] = _Connection
        self._factory = functools.partial(connection, loop=self._loop)
