"""How an exchange ends without a response."""

import asyncio
import ctypes
import fcntl
import socket
import struct
import termios
from typing import NoReturn

from aiohttp import web

_SO_ATTACH_FILTER = 26
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A filter of one instruction, which lets no byte of any segment through. See socket(7) and
https://www.kernel.org/doc/html/latest/networking/filter.html
"""


def cut_off(transport: asyncio.BaseTransport) -> None:
    """Let nothing that the sender sends arrive, and so acknowledge nothing of it either."""
    raw = transport.get_extra_info("socket")
    if raw is None or raw.fileno() < 0:
        return
    program = ctypes.create_string_buffer(_RETURN_NOTHING, len(_RETURN_NOTHING))
    given = struct.pack("HL", 1, ctypes.addressof(program))
    raw.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, given)


def is_unacknowledged(transport: asyncio.BaseTransport) -> bool:
    """Whether something that was written is still unsent or not acknowledged; see tcp(7)."""
    raw = transport.get_extra_info("socket")
    if raw is None or raw.fileno() < 0:
        return False
    count = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return bool(struct.unpack("i", count)[0])


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
