"""The options of sockets.

TCP keepalive is the only way to distinguish an idle stream from a peer that is gone. The size of
the receive buffer limits what one iteration of the event loop takes from a peer.
"""

import socket

import aiohttp
from aiohttp.connector import AddrInfoType

IDLE, INTERVAL, PROBES = 15, 5, 3
"""Idle seconds before the first probe, seconds between probes, number of probes: 30 s in all."""

RECEIVE_BUFFER = 16 * 1024
"""Bytes. uvloop reads up to 250 KiB at once, and up to 32 times in one iteration, but only once if
it gets less. A peer that sends tiny chunks, or key updates of TLS 1.3, would otherwise hold the
event loop for a second.
"""


def _set(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


def watched_socket(address: AddrInfoType) -> socket.socket:
    """Create a socket with a small receive buffer that detects within 30 s that its peer is gone,
    for aiohttp's connector.
    """
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    _set(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock


def keep_alive(response: aiohttp.ClientResponse) -> None:
    """Enable the same keepalive on a connection that is open already."""
    if response.connection is None or response.connection.transport is None:
        return
    sock = response.connection.transport.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        _set(sock)
