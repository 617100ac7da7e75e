"""How many connections others may have to our HTTP port, and for how long.

Each takes a file descriptor, and whoever has all of them keeps us from talking to LINSTOR and
Kubernetes. A new connection is always let in, so that a probe of kubelet's is answered; for it
another one goes.
"""

import asyncio
import os
import resource
import socket
from collections import Counter
from collections.abc import Callable

from aiohttp import web

MOST_CONNECTIONS = 64
"""To one address. kubelet, Prometheus and a browser take ten."""

SHARE = 8
"""One descriptor of so many is for others. We have a hundred connections ourselves at most."""

HEAD_WITHIN = 10.0
"""Seconds for the head of a request to be there, and until the next one is begun."""

AT_ONCE = 16
"""Connections that are taken before others have their turn, each with a descriptor."""

QUEUE = 1024
"""Connections that wait for that. One that finds no place here is tried again after a second."""


AT_A_TIME = 8 * 1024
"""Bytes that wait at a connection; Linux takes twice as many. All that wait are parsed in one go,
in which nobody else gets a turn: 256 KiB of them took a quarter of a second.
"""


def most_connections() -> int:
    """As many as leave us most of the descriptors that this process may have."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(4, min(MOST_CONNECTIONS, allowed // SHARE))


def let_queue(listening: asyncio.Server) -> None:
    """Let more connections wait than are taken at once, which asyncio has one number for, and few
    bytes at each.
    """
    for each in listening.sockets:
        with socket.socket(fileno=os.dup(each.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, AT_A_TIME)
            same.listen(QUEUE)


def guarded(server: web.Server, most: int) -> Callable[[], web.RequestHandler]:
    """Make a protocol for each new connection of a server that may have so many."""

    def letting_in() -> web.RequestHandler:
        _make_room(server.connections, most)
        return server()

    return letting_in


def _make_room(connections: list[web.RequestHandler], most: int) -> None:
    """Have one connection less than so many: the oldest of the peer that has the most of them, so
    that none is crowded out by another.
    """
    open_ones = [each for each in connections if each.transport and not each.transport.is_closing()]
    while len(open_ones) >= most:
        held = Counter(map(_peer, open_ones))
        crowd = max(held.values())
        goes = next(each for each in open_ones if held[_peer(each)] == crowd)
        open_ones.remove(goes)
        if goes.transport is not None:
            # To close would wait for a peer that does not read.
            goes.transport.abort()


def _peer(connection: web.RequestHandler) -> str:
    named = connection.peername
    return str(named[0]) if isinstance(named, tuple) and named else ""
