"""What is no HTTP is quoted in the errors of the HTTP library."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection, Login, Tls
from linstor_affinity_events.adapters.linstor.event_streams import PROMOTION_PATH, LinstorStream
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.printable import LONGEST_TEXT

Read = Callable[[LinstorConnection], Awaitable[None]]


async def get(connection: LinstorConnection) -> None:
    async with LinstorClient(connection, timeout=10) as client:
        await client.get("/v1/controller/version")


async def put(connection: LinstorConnection) -> None:
    async with LinstorClient(connection, timeout=10) as client:
        await client.put("/v1/resource-definitions/x", {})


async def listen(connection: LinstorConnection) -> None:
    async with LinstorStream(connection, name="promotion", path=PROMOTION_PATH).connect():
        pass


@pytest.mark.parametrize("read", [get, put, listen])
async def test_an_error_quotes_a_limited_part_of_what_is_no_http(read: Read) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"\xff" * 60_000)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unreachable) as raised:
            await read(LinstorConnection((url,), Login(), Tls()))

    assert LONGEST_TEXT < len(str(raised.value)) < 2 * LONGEST_TEXT
