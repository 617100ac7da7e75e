"""A port that is given away stays free for the program that it is meant for, and for no other."""

import asyncio
import itertools

import pytest

from tests.real_parts import daemon
from tests.real_parts.daemon import free_port


def test_two_processes_get_different_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon, "_steps", itertools.count(7))
    first = free_port()
    # As in another process, which knows nothing of what was given away here.
    monkeypatch.setattr(daemon, "_steps", itertools.count(7))

    assert free_port() != first


async def test_a_server_can_listen_on_a_port_that_is_held_for_it() -> None:
    port = free_port()

    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
