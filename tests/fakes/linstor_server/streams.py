"""LINSTOR's event streams, and ways to break them."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import orjson
from aiohttp import web

from tests.fakes.linstor_server import responses
from tests.fakes.linstor_server.event_log import NODES, PROMOTION, Event
from tests.fakes.linstor_server.responses import respond, route_of
from tests.fakes.linstor_server.world import LinstorWorld

_HALF_A_FRAME = b'event: may-promote-change\ndata: {"resource_name":"pvc-'
_WRONG_ACCEPT = 999


def frame(name: str, payload: Mapping[str, Any]) -> bytes:
    """An event as LINSTOR writes it: two fields, nothing else, ever."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(payload))


class Subscriber:
    """One open stream.

    Frames go straight to the transport, whose buffer knows no limit: the world never waits for
    a slow reader, and an event is on its way when it is logged.
    """

    def __init__(self, stream: str, transport: asyncio.Transport) -> None:
        self.stream = stream
        self._transport = transport
        self._paused = False
        self._held: list[bytes] = []

    def write(self, raw: bytes) -> None:
        if self._paused:
            self._held.append(raw)
        elif raw and not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(raw), raw))

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        held, self._held = self._held, []
        self.write(b"".join(held))

    def end(self) -> None:
        """Hang up without the chunk that would end the body properly: a FIN in mid-response."""
        self._transport.abort()

    def reset(self) -> None:
        """Hang up as a dying host does, with a RST."""
        connection: socket.socket | None = self._transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            # Not every loop lets its own socket be tuned, but a duplicate shares all options.
            with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


class Streams:
    """Both streams with everyone who listens to them."""

    def __init__(self, world: LinstorWorld) -> None:
        self._world = world
        self._subscribers: set[Subscriber] = set()
        self._paused = False
        self._changed = asyncio.Event()
        self._routes: dict[str, str] = {}
        self._unlisten = world.listen(self._spread)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/events/drbd/promotion", self._promotions)
        router.add_get("/v1/events/nodes", self._nodes)

    def count(self, stream: str) -> int:
        return len(self._on(stream))

    async def wait_for(self, stream: str, subscribers: int) -> None:
        """Wait until exactly so many listen to a stream."""
        while self.count(stream) != subscribers:
            await self._changed.wait()

    def send_raw(self, stream: str, raw: bytes) -> None:
        """Write anything at all to those who listen."""
        for subscriber in self._on(stream):
            subscriber.write(raw)

    def cut(self, *, mid_frame: bool = True) -> None:
        """Kill all connections with a RST, after half a frame if so wished."""
        for subscriber in tuple(self._subscribers):
            if mid_frame:
                subscriber.write(_HALF_A_FRAME)
            subscriber.reset()

    def end(self) -> None:
        """Close all connections as a stopping controller does: a FIN, and no end of the body."""
        for subscriber in tuple(self._subscribers):
            subscriber.end()

    def pause(self) -> None:
        """Fall silent with all connections open, as behind a broken network; new ones as well."""
        self._paused = True
        for subscriber in self._subscribers:
            subscriber.pause()

    def resume(self) -> None:
        """Write again, and first what was held back."""
        self._paused = False
        for subscriber in self._subscribers:
            subscriber.resume()

    def close(self) -> None:
        self.end()
        self._unlisten()

    def _on(self, stream: str) -> list[Subscriber]:
        return [subscriber for subscriber in self._subscribers if subscriber.stream == stream]

    def _spread(self, events: Sequence[Event]) -> None:
        for stream, together in groupby(events, key=lambda event: event.stream):
            subscribers = self._on(stream)
            if subscribers:
                self._write(stream, subscribers, together)

    def _write(
        self, stream: str, subscribers: Sequence[Subscriber], events: Iterable[Event]
    ) -> None:
        raw = b"".join(frame(event.name, event.payload) for event in events)
        self._world.bytes_sent[self._routes[stream]] += len(raw) * len(subscribers)
        for subscriber in subscribers:
            subscriber.write(raw)

    async def _promotions(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, PROMOTION)

    async def _nodes(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, NODES)

    async def _serve(self, request: web.Request, stream: str) -> web.StreamResponse:
        """Stay until the client or a fault ends the connection."""
        if "text/event-stream" not in request.headers.get("Accept", ""):
            refusal = responses.failure(_WRONG_ACCEPT, message="HTTP 406 Not Acceptable")
            return await respond(request, refusal, 500)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if request.transport is None:
            return response
        self._routes[stream] = route_of(request)
        subscriber = Subscriber(stream, request.transport)
        if self._paused:
            subscriber.pause()
        self._subscribers.add(subscriber)
        self._publish_change()
        try:
            if stream == PROMOTION and request.headers.get("Last-Event-ID") == "current":
                self._world.send_current_state()
            await asyncio.Event().wait()
        finally:
            self._subscribers.discard(subscriber)
            self._publish_change()
        return response

    def _publish_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
