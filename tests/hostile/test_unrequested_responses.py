"""A LINSTOR that sends responses that nobody has asked for, behind one that was.

aiohttp would keep them until the connection is used again, or closed.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import uvloop

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.errors import Unreachable
from tests.hostile.sender import SENT, Sender, sender

HEADERS = b"".join(b"a%d:\r\n" % number for number in range(120))
RESPONSE = b"HTTP/1.1 204 N\r\n" + HEADERS + b"\r\n"
INTERIM_RESPONSE = b"HTTP/1.1 100 C\r\n\r\n"
MOST_TAKEN = 2 * 1024 * 1024
"""Bytes, with what is in the buffers of both sockets."""


def whole(media_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


OBJECT = whole("application/json", b"{}")
LIST = whole("application/json", b"[" + b",".join([b'{"name":"a"}'] * 100_000) + b"]")
EVENTS = whole("text/event-stream", b"data:x\n\n" * 400_000)


async def listen(peer: Sender) -> None:
    with suppress(Unreachable):
        await peer.listen()


async def stay_idle(peer: Sender) -> None:
    """Read an object and keep the connection."""
    async with LinstorClient(peer.connection, timeout=60) as client:
        with suppress(Unreachable):
            await client.get("/v1/controller/version")
        await peer.ended()


async def read_list(peer: Sender) -> None:
    async with LinstorClient(peer.connection, timeout=60) as client:
        with suppress(Unreachable):
            await peer.read_list(client)
        await peer.ended()


@pytest.mark.parametrize(
    ("first", "piece", "read"),
    [
        (OBJECT, RESPONSE, stay_idle),
        (LIST, RESPONSE, read_list),
        (EVENTS, RESPONSE, listen),
        (b"", INTERIM_RESPONSE, read_list),
    ],
    ids=["idle", "behind a list", "behind events", "interim responses"],
)
def test_a_peer_that_sends_what_nobody_asked_for_is_disconnected(
    first: bytes, piece: bytes, read: Callable[[Sender], Awaitable[None]]
) -> None:
    with sender(first, piece) as peer:
        uvloop.run(read(peer))
        assert peer.sent < MOST_TAKEN < SENT
