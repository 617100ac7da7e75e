"""How an exchange ends otherwise than with an answer."""

import asyncio
import socket
import struct
from typing import NoReturn

from aiohttp import web


def cut(request: web.Request) -> None:
    """End the connection as a crashed peer does, with a RST and without what is still unsent."""
    transport = request.transport
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def broken(request: web.Request) -> web.Response:
    """Cut the connection, and give the server something that nobody will read."""
    cut(request)
    return web.Response()


async def silence() -> NoReturn:
    """Say nothing; the server cancels who does so once the sender hangs up."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that event")


def hang_up(request: web.Request) -> None:
    """Close the connection once what was written is on its way: a RST could overtake it."""
    if request.transport is not None:
        request.transport.close()
