"""Limits the number and the duration of client connections to the HTTP port.

Each takes a file descriptor, and a client that takes all of them would cut the service off from
LINSTOR and Kubernetes. A new connection is always accepted, so that kubelet's probes are answered;
an older one is closed for it.
"""

import asyncio
import os
import resource
import socket
from collections import Counter
from collections.abc import Callable

from aiohttp import web

MOST_CONNECTIONS = 64
"""The most connections to one address. kubelet, Prometheus and a browser need ten."""

SHARE = 8
"""Clients may take one of this many descriptors. The service itself needs at most a hundred."""

HEAD_TIMEOUT = 10.0
"""Seconds for the head of a request to arrive, and until the next request must start."""

ACCEPT_AT_ONCE = 16
"""Connections accepted before other tasks run, each of which takes a descriptor."""

QUEUE = 1024
"""Connections that wait to be accepted. A client that finds the queue full retries after 1 s."""

RECEIVE_BUFFER = 8 * 1024
"""The receive buffer of a connection in bytes; Linux doubles it. All buffered bytes are parsed in
one step that blocks the event loop: 256 KiB took a quarter of a second.
"""


def most_connections() -> int:
    """Return a limit that leaves the service most of the file descriptors of this process."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(4, min(MOST_CONNECTIONS, allowed // SHARE))


def let_queue(listening: asyncio.Server) -> None:
    """Set a listen queue longer than the number accepted at once (asyncio has one number for both),
    and a small receive buffer.
    """
    for each in listening.sockets:
        with socket.socket(fileno=os.dup(each.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            same.listen(QUEUE)


def limited(server: web.Server, most: int) -> Callable[[], web.RequestHandler]:
    """Return a protocol factory for a server that may have at most `most` connections."""

    def new_handler() -> web.RequestHandler:
        _close_one(server.connections, most)
        return server()

    return new_handler


def _close_one(connections: list[web.RequestHandler], most: int) -> None:
    """Close connections until there are fewer than `most`: each time the oldest of the peer with
    the most connections, so that no peer can displace the others.
    """
    open_ones = [each for each in connections if each.transport and not each.transport.is_closing()]
    while len(open_ones) >= most:
        held = Counter(map(_peer, open_ones))
        most_held = max(held.values())
        oldest = next(each for each in open_ones if held[_peer(each)] == most_held)
        open_ones.remove(oldest)
        if oldest.transport is not None:
            # close() would wait for a peer that does not read.
            oldest.transport.abort()


def _peer(connection: web.RequestHandler) -> str:
    named = connection.peername
    return str(named[0]) if isinstance(named, tuple) and named else ""
