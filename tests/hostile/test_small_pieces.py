"""A LINSTOR that sends very much in very small pieces, to the event loop of the image.

What counts is how much one iteration of the loop takes, which is all that another task has to wait
for. It is counted at the sender, whose buffer is small.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.errors import Unreachable
from tests.hostile.sender import SENT, Sender, sender

MOST_AT_ONCE = 512 * 1024
"""Bytes, with what is in the buffer of the sender. Without a limit it is up to 8 MiB."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def head(media_type: str, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {media_type}", *more, "Transfer-Encoding: chunked"]
    return "\r\n".join([*lines, "", ""]).encode()


NOTHING = chunk(gzip.compress(b"", mtime=0))
COMPRESSED = "Content-Encoding: gzip"
JSON, EVENTS = "application/json", "text/event-stream"
CASES = {
    "nothing, compressed": (head(JSON, COMPRESSED), NOTHING),
    "bytes": (head(JSON) + chunk(b'[{"name":"'), chunk(b"a")),
    "stream of nothing, compressed": (head(EVENTS, COMPRESSED), NOTHING),
    "stream of comments": (head(EVENTS) + chunk(b":"), chunk(b"a")),
}


@asynccontextmanager
async def counted(peer: Sender) -> AsyncIterator[list[int]]:
    """How much is sent from each iteration of the event loop to the next."""
    found: list[int] = []

    async def count() -> None:
        while True:
            before = peer.sent
            await asyncio.sleep(0)
            found.append(peer.sent - before)

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        yield found
        counting.cancel()


async def read(peer: Sender, *, as_stream: bool) -> None:
    if as_stream:
        await peer.listen()
    else:
        async with LinstorClient(peer.connection, timeout=60) as client:
            await peer.read_list(client)


@pytest.mark.parametrize("name", CASES)
def test_other_tasks_run_while_very_small_pieces_are_received(name: str) -> None:
    with sender(*CASES[name]) as peer:

        async def main() -> list[int]:
            async with counted(peer) as found:
                with pytest.raises(Unreachable):
                    await read(peer, as_stream="stream" in name)
            return found

        found = uvloop.run(main())

    assert peer.sent > MOST_AT_ONCE
    assert max(found) < MOST_AT_ONCE
    assert "stream" not in name or peer.sent < SENT, "the limit of a line does not count"
