"""A process in place of a LINSTOR, which sends the same piece again and again."""

import asyncio
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection, Login, Tls
from linstor_affinity_events.adapters.linstor.event_streams import PROMOTION_PATH, LinstorStream

SENT = 16 * 1024 * 1024
PIECE = 128 * 1024
"""Bytes, also of the buffer."""


@dataclass(frozen=True, slots=True)
class Sender:
    connection: LinstorConnection
    counter: Any
    process: BaseProcess

    @property
    def sent(self) -> int:
        """Bytes, without what it sends first."""
        return int(self.counter.value)

    async def ended(self) -> None:
        """Wait until it has sent all, or its connection is gone."""
        await asyncio.to_thread(self.process.join)

    async def listen(self) -> None:
        stream = LinstorStream(self.connection, name="promotion", path=PROMOTION_PATH)
        async with stream.connect() as events:
            async for _ in events:
                pass

    async def read_list(self, client: LinstorClient) -> None:
        await client.read_long_list("/v1/resource-definitions", lambda _: None, lambda _: None)


def serve(listening: socket.socket, first: bytes, block: bytes, sent: Any) -> None:
    """Answer one connection, and count what is sent after `first`."""
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
def sender(first: bytes, piece: bytes) -> Iterator[Sender]:
    with serving(serve, first, piece * (PIECE // len(piece))) as peer:
        yield peer


@contextmanager
def serving(target: Callable[..., None], *args: Any, authority: str = "") -> Iterator[Sender]:
    """Call the function in another process, with a listening socket, the arguments and a counter.
    It speaks TLS if there is an authority for its certificate.
    """
    context = multiprocessing.get_context("spawn")
    sent = context.Value("q", 0, lock=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http{'s' if authority else ''}://127.0.0.1:{listening.getsockname()[1]}"
        process = context.Process(target=target, args=(listening, *args, sent))
        process.start()
    try:
        connection = LinstorConnection((url,), Login(), Tls(root_ca=authority))
        yield Sender(connection, sent, process)
    finally:
        process.terminate()
        process.join()
