"""The proxy itself: a server towards the service, a client towards the peer."""

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests.testbed.proxy.actions import Action
from tests.testbed.proxy.exchange import Exchange
from tests.testbed.proxy.failures import cut_off, is_unacknowledged
from tests.testbed.proxy.labels import Terms
from tests.testbed.proxy.record import Asked, Record
from tests.testbed.proxy.rules import Rule, Rules, Wanted

Translate = Callable[[str, str, Mapping[str, str], bytes], Terms]

_BODY_LIMIT = 64 << 20

ACKNOWLEDGED_WITHIN = 0.5
"""Seconds. Who does not read acknowledges nothing."""


class Proxy:
    """Use it as `async with Proxy(...) as proxy`; the package's docstring shows how."""

    def __init__(
        self,
        peer: str,
        translate: Translate,
        *,
        record: Record | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.record = Record() if record is None else record
        self.rules = Rules()
        self._peer, self._translate, self._tls = peer.rstrip("/"), translate, tls
        self._under_way: set[asyncio.Task[Any]] = set()
        self._stack = AsyncExitStack()
        self._runner: web.AppRunner | None = None
        self._gone: set[asyncio.BaseTransport] = set()
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def on(self, wanted: Wanted, action: Action, *, nth: int = 1, times: int | None = 1) -> Rule:
        """Apply an action from the nth matching request on, `times` in all."""
        return self.rules.add(Rule(wanted=wanted, action=action, nth=nth, times=times))

    def write_kubeconfig(self, path: Path, *, token: str = "") -> Path:
        """Write a file that sends the service here; the token goes on to the peer."""
        named = {"name": "proxy"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{**named, "cluster": {"server": self.url}}],
            "users": [{**named, "user": {"token": token} if token else {}}],
            "contexts": [{**named, "context": {"cluster": "proxy", "user": "proxy"}}],
            "current-context": "proxy",
        }
        path.write_text(json.dumps(config, indent=2))
        return path

    def drop_connections(self) -> None:
        """Break all connections, streams and idle ones as well. Who reconnects is served."""
        for transport in self._connected():
            transport.abort()

    def fall_silent(self) -> None:
        """Send nothing more to all who are connected, and stay connected, as a load balancer whose
        peer is gone: TCP finds nothing wrong. Who reconnects is served.
        """
        self._gone.update(self._connected())

    async def vanish(self) -> None:
        """Be gone for all who are connected, as a machine that lost its power: no FIN, no RST, and
        nothing that they send is ever acknowledged. Who reconnects is served.
        """
        vanished = self._connected()
        self.fall_silent()
        # Unacknowledged segments would be sent again for a minute, which no such machine does.
        with suppress(TimeoutError):
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN):
                while any(is_unacknowledged(each) for each in vanished):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        for transport in vanished:
            cut_off(transport)

    async def until_idle(self) -> None:
        """Wait until everything that was sent on has a response; streams do not count."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=True if self._tls is None else self._tls, limit=0, keepalive_timeout=5.0
            ),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        self._stack.push_async_callback(self._session.close)
        app = web.Application(client_max_size=_BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._serve)
        # A stream whose reader has gone would be read on for ever.
        self._runner = runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        self._stack.push_async_callback(self._drop_all)
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._port = runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _connected(self) -> list[asyncio.Transport]:
        if self._runner is None or self._runner.server is None:
            return []
        connections = self._runner.server.connections
        return [each.transport for each in connections if each.transport is not None]

    async def _drop_all(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = Asked(
            at=time.monotonic(),
            method=request.method,
            path=request.path,
            query=request.query,
            body=body,
            terms=self._translate(request.method, request.path, request.query, body),
        )
        action = self.rules.action_for(asked)
        await self.record.add(asked)
        exchange = Exchange(
            session=self._session,
            peer=self._peer,
            request=request,
            asked=asked,
            action=action,
            outlive=self._outlive,
            is_gone=lambda: request.transport in self._gone,
        )
        return await (exchange.stream() if _is_stream(asked) else exchange.whole())

    def _outlive(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name="proxy")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task


def _is_stream(asked: Asked) -> bool:
    return asked.terms.verb == "watch" or asked.path.startswith("/v1/events/")
