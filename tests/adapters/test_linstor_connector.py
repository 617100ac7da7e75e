"""Connections of the event loop of the image, which has other transports than asyncio."""

import asyncio
import ssl
from pathlib import Path

import pytest
import uvloop

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection, Login, Tls
from linstor_affinity_events.adapters.linstor.connector import MOST_UNSENT
from tests.adapters.minimal_ca import MinimalCa

ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("with_tls", [False, True])
def test_a_long_request_to_a_slow_peer_is_sent(tmp_path: Path, *, with_tls: bool) -> None:
    """It is not taken for one whose peer takes nothing."""
    authority = MinimalCa()
    server: ssl.SSLContext | None = authority.server(tmp_path) if with_tls else None
    body = {"text": "x" * (MOST_UNSENT - 100 * 1024)}
    received: list[int] = []
    ended = asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        received.append(len(await reader.readexactly(length)))
        writer.write(ACCEPTED)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.set()

    async def main() -> None:
        # Reading pauses at the limit, until the body is read.
        async with await asyncio.start_server(
            respond, "127.0.0.1", 0, ssl=server, limit=1024
        ) as listening:
            url = f"http{'s' if server else ''}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            connection = LinstorConnection((url,), Login(), Tls(root_ca=authority.pem.decode()))
            async with LinstorClient(connection, timeout=10) as client:
                await client.put("/v1/resource-definitions/x", body)
            await ended.wait()

    uvloop.run(main())
    assert received == [len('{"text":""}') + len(body["text"])]
