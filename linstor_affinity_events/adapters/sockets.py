"""TCP keepalive: the only thing that tells a silent stream from a peer that is gone."""

import socket

import aiohttp
from aiohttp.connector import AddrInfoType

IDLE, INTERVAL, PROBES = 15, 5, 3
"""Seconds of silence before the first probe, between probes, and probes: dead after 30 s."""


def _set(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


def watched_socket(address: AddrInfoType) -> socket.socket:
    """Make a socket that notices within 30 s that its peer is gone, for aiohttp's connector."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    _set(sock)
    return sock


def keep_alive(response: aiohttp.ClientResponse) -> None:
    """The same for a connection that somebody else has opened."""
    if response.connection is None or response.connection.transport is None:
        return
    sock = response.connection.transport.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        _set(sock)
