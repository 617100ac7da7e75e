"""A LINSTOR that sends very much in very small pieces, to the event loop of the image.

What counts is how much one iteration of the loop takes, which is all that another task has to wait
for. It is counted at the sender, whose buffer is small.
"""

import asyncio
import gzip
import multiprocessing
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import uvloop

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection, Login, Tls
from linstor_affinity_events.adapters.linstor.event_streams import PROMOTION_PATH, LinstorStream
from linstor_affinity_events.errors import Unreachable

SENT = 16 * 1024 * 1024
PIECE = 128 * 1024
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
    "interim responses": (b"", b"HTTP/1.1 100 C\r\n\r\n"),
    "stream of nothing, compressed": (head(EVENTS, COMPRESSED), NOTHING),
    "stream of comments": (head(EVENTS) + chunk(b":"), chunk(b"a")),
}


def serve(listening: socket.socket, first: bytes, block: bytes, sent: Any) -> None:
    """Answer one connection with the same block again and again, and count what is sent."""
    peer, _ = listening.accept()
    listening.close()
    with suppress(OSError), peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        peer.recv(PIECE)
        peer.sendall(first)
        while sent.value < SENT:
            peer.sendall(block)
            sent.value += len(block)


@contextmanager
def sender(first: bytes, piece: bytes) -> Iterator[tuple[str, Any]]:
    """Yield URL and counter of a process that sends the same piece again and again."""
    context = multiprocessing.get_context("spawn")
    sent = context.Value("q", 0, lock=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        block = piece * (PIECE // len(piece))
        process = context.Process(target=serve, args=(listening, first, block, sent))
        process.start()
    try:
        yield url, sent
    finally:
        process.terminate()
        process.join()


@asynccontextmanager
async def counted(sent: Any) -> AsyncIterator[list[int]]:
    """How much is sent from each iteration of the event loop to the next."""
    found: list[int] = []

    async def count() -> None:
        while True:
            before = sent.value
            await asyncio.sleep(0)
            found.append(sent.value - before)

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        yield found
        counting.cancel()


async def read(connection: LinstorConnection, *, as_stream: bool) -> None:
    if as_stream:
        stream = LinstorStream(connection, name="promotion", path=PROMOTION_PATH)
        async with stream.connect() as events:
            async for _ in events:
                pass
    else:
        async with LinstorClient(connection, timeout=60) as client:
            await client.read_long_list("/v1/resource-definitions", lambda _: None, lambda _: None)


@pytest.mark.parametrize("name", CASES)
def test_other_tasks_run_while_very_small_pieces_are_received(name: str) -> None:
    with sender(*CASES[name]) as (url, sent):

        async def main() -> list[int]:
            async with counted(sent) as found:
                with pytest.raises(Unreachable):
                    await read(
                        LinstorConnection((url,), Login(), Tls()), as_stream="stream" in name
                    )
            return found

        found = uvloop.run(main())

    assert sent.value > MOST_AT_ONCE
    assert max(found) < MOST_AT_ONCE
    assert "stream" not in name or sent.value < SENT, "the limit of a line does not count"
