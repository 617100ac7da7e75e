"""A LINSTOR that has a valid certificate, and uses TLS to hold the event loop or take memory."""

import asyncio
import ctypes
import ctypes.util
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection, Login, Tls
from linstor_affinity_events.errors import Unreachable
from tests.adapters.minimal_ca import MinimalCa
from tests.hostile.sender import Sender, serving
from tests.hostile.test_small_pieces import counted

LIBSSL = ctypes.util.find_library("ssl")
PEM, UPDATE_REQUESTED = 1, 1
"""Constants of OpenSSL."""

LENGTH = 27
"""Bytes of a record with a key update."""

SENT = 20 * 1024 * 1024
MOST_TAKEN = 15 * 1024 * 1024
"""Bytes, with what is in the buffers of both sockets in both directions."""

MOST_AT_ONCE = 64 * 1024
FIRST = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata:x\n\n"


def update_keys(listening: socket.socket, chain: str, sent: Any) -> None:
    """Begin a stream, then request key updates and read none of the answers. Python has no such
    call.
    """
    peer, _ = listening.accept()
    listening.close()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    library = ctypes.CDLL(LIBSSL)
    for name in ("TLS_server_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, name).restype = ctypes.c_void_p
    method = ctypes.c_void_p(library.TLS_server_method())
    context = ctypes.c_void_p(library.SSL_CTX_new(method))
    library.SSL_CTX_use_certificate_file(context, chain.encode(), PEM)
    library.SSL_CTX_use_PrivateKey_file(context, chain.encode(), PEM)
    tls = ctypes.c_void_p(library.SSL_new(context))
    library.SSL_set_fd(tls, peer.fileno())
    library.SSL_accept(tls)
    library.SSL_read(tls, ctypes.create_string_buffer(4096), 4096)
    library.SSL_write(tls, FIRST, len(FIRST))
    while sent.value < SENT:
        library.SSL_key_update(tls, UPDATE_REQUESTED)
        if library.SSL_do_handshake(tls) != 1:
            return
        sent.value += LENGTH


@pytest.mark.skipif(LIBSSL is None, reason="OpenSSL's library is not installed")
def test_a_peer_that_takes_nothing_is_disconnected(tmp_path: Path) -> None:
    authority = MinimalCa()
    authority.server(tmp_path)

    async def main(peer: Sender) -> list[int]:
        async with counted(peer) as found:
            with suppress(Unreachable):
                await peer.listen()
            await peer.ended()
        return found

    with serving(
        update_keys, str(tmp_path / "server.pem"), authority=authority.pem.decode()
    ) as peer:
        found = uvloop.run(main(peer))
        assert MOST_AT_ONCE < peer.sent < MOST_TAKEN
        assert max(found) < MOST_AT_ONCE


async def test_no_group_that_the_peer_chooses_is_used(tmp_path: Path) -> None:
    """Its size is up to the peer, and a handshake with one of 10,000 bits takes a second."""
    authority = MinimalCa()
    server = authority.server(tmp_path)
    server.maximum_version = ssl.TLSVersion.TLSv1_2

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )

    async with await asyncio.start_server(respond, "127.0.0.1", 0, ssl=server) as listening:
        url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        connection = LinstorConnection((url,), Login(), Tls(root_ca=authority.pem.decode()))
        async with LinstorClient(connection, timeout=10) as client:
            assert await client.get("/v1/controller/version") == {}

    context = connection.tls_for(url)
    assert isinstance(context, ssl.SSLContext)
    exchanges = {each["kea"] for each in context.get_ciphers()}
    assert exchanges >= {"kx-ecdhe", "kx-any"}
    assert "kx-dhe" not in exchanges
