"""Connections to LINSTOR."""

import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from linstor_affinity_events.adapters.transport.sockets import watched_socket

MOST_UNREAD = 2
"""Responses of one connection that wait to be read: an interim one and the one asked for."""


class _Connection(ResponseHandler):
    """Ends if the peer sends responses that nobody has asked for. aiohttp would keep all of them
    until the connection is used again, at 25 times their length.
    """

    def feed_data(self, data: Any, size: int = 0) -> None:
        super().feed_data(data, size)
        if len(self) > MOST_UNREAD and self.transport is not None:
            self.transport.abort()


class Connector(aiohttp.TCPConnector):
    """Takes the options of aiohttp's TCPConnector. Its sockets are those of `watched_socket`, and
    a peer that sends more than it was asked for is disconnected.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(socket_factory=watched_socket, **options)
        # aiohttp has no option for it.
        connection: type[ResponseHandler] = _Connection
        self._factory = functools.partial(connection, loop=self._loop)
