"""The controller's HTTP server, on a loopback socket."""

import socket
import ssl
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.fakes.linstor_server import control, rest, rest_groups, rest_placement, rest_resources
from tests.fakes.linstor_server.middleware import check_request
from tests.fakes.linstor_server.responses import WORLD
from tests.fakes.linstor_server.streams import Streams
from tests.fakes.linstor_server.world import LinstorWorld

_LONGEST_BODY = 64 << 20
_GRACE = 0.1


class LinstorServer:
    """Serves one world; entering the context starts it, leaving cuts all connections."""

    def __init__(
        self,
        world: LinstorWorld,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        keepalive: float = 30.0,
        with_control: bool = False,
    ) -> None:
        self.world = world
        self._host, self._port = host, port
        self._ssl_context = ssl_context
        self._keepalive = keepalive
        self._with_control = with_control
        self._streams: Streams | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._reservation: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where it is, or will be again after `start_listening`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._ssl_context else 'http'}://{host}:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def streams(self) -> Streams:
        if self._streams is None:
            raise RuntimeError("the server is not running")
        return self._streams

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application(middlewares=[check_request], client_max_size=_LONGEST_BODY)
        app[WORLD] = self.world
        app.add_routes(rest.routes)
        app.add_routes(rest_resources.routes)
        app.add_routes(rest_groups.routes)
        app.add_routes(rest_placement.routes)
        self._streams = Streams(self.world)
        self._streams.add_routes(app.router)
        if self._with_control:
            control.add_routes(app.router, self.world, self._streams)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=self._keepalive,
            shutdown_timeout=_GRACE,
            # Without it a stream would outlive its client, and a hung request the server.
            handler_cancellation=True,
        )
        await self._runner.setup()
        # A second socket that never listens keeps the port ours while we refuse connections.
        self._reservation = self._bound()
        self._port = self._reservation.getsockname()[1]
        await self.start_listening()

    async def stop(self) -> None:
        """Hang up on everyone, streams included, and forget the port."""
        if self._runner is None or self._reservation is None:
            return
        await self.stop_listening()
        self.streams.close()
        await self._runner.cleanup()
        self._reservation.close()
        self._runner = self._streams = self._reservation = None

    async def start_listening(self) -> None:
        """Take connections, on the same port as ever."""
        if self._runner is None or self._site is not None:
            return
        self._site = web.SockSite(self._runner, self._bound(), ssl_context=self._ssl_context)
        await self._site.start()

    async def stop_listening(self) -> None:
        """Refuse connections and close all there are: the process is gone, or on standby."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self.streams.end()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Close all connections, idle or not, without another word."""
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()

    def cut_streams(self, *, mid_frame: bool = True) -> None:
        """Kill all streams with a RST, after half a frame if so wished."""
        self.streams.cut(mid_frame=mid_frame)

    def end_streams(self) -> None:
        """Close all streams with a FIN in mid-response, as a stopping controller does."""
        self.streams.end()

    def send_raw(self, stream: str, raw: bytes) -> None:
        """Write anything at all to those who listen to a stream."""
        self.streams.send_raw(stream, raw)

    def pause_streams(self) -> None:
        """Fall silent with all streams open, as behind a broken network."""
        self.streams.pause()

    def resume_streams(self) -> None:
        """Write again, and first what was held back."""
        self.streams.resume()

    async def subscribed(self, stream: str, subscribers: int = 1) -> None:
        """Wait until exactly so many listen to a stream."""
        await self.streams.wait_for(stream, subscribers)

    def _bound(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self._host, self._port))
        return bound
