"""The HTTP endpoints: /healthz, /readyz, /metrics, and the status page with its JSON."""

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any

import orjson
from aiohttp import hdrs, web
from yarl import URL

from linstor_affinity_events.adapters.http import connection_limits
from linstor_affinity_events.adapters.http.status_page import STYLE_HASH, render
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.logs import facts
from linstor_affinity_events.printable import shown

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Address = tuple[str, int]

LONGEST_SEARCH = 253
ROWS_PER_YIELD = 50

SAFE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src '{STYLE_HASH}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The page has no scripts and no images, and must not be framed."""

LOCAL_ONLY = (
    "The status page is only served to connections from the same host, as localhost "
    "or under a loopback address. Use kubectl port-forward, or set --status-page=all "
    "to serve it to everyone who can reach the port.\n"
)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class EndpointSources:
    """The sources of the responses."""

    not_ready: Callable[[], Mapping[str, str]]
    """Returns what keeps the service from working, by component; empty when it is ready."""

    metrics: Callable[[], bytes]

    status: Callable[[str], Awaitable[Mapping[str, Any]]] | None = None
    """Returns the status, with the volumes whose names contain the given text; None turns the page
    off.
    """

    status_for_all: bool = False
    """Whether the status is served to peers on other hosts too."""


def is_loopback(peer: object) -> bool:
    """Return whether the peer of a connection, as its transport names it, is on this host."""
    if not isinstance(peer, tuple) or not peer:
        return False
    try:
        address = ip_address(str(peer[0]))
    except ValueError:
        return False
    # A dual-stack socket shows IPv4 addresses as IPv4-mapped IPv6 addresses.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _asks_locally(request: web.Request) -> bool:
    """Return whether a request names this host as such. A page on the internet can have its own
    name resolve to 127.0.0.1, where kubectl port-forward listens: then a browser there sends the
    request with that name, and lets the page read the response.
    """
    try:
        host = URL.build(scheme="http", authority=request.headers.get("Host", "")).host
    except ValueError:
        return False
    return host == "localhost" or is_loopback((host,))


def _all_addresses(port: int) -> socket.socket:
    """Listen on all addresses, as Go does for [::]: on IPv4 too, and also on hosts without IPv6.

    asyncio by itself would listen on IPv6 only.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                raise
    return socket.create_server(("0.0.0.0", port))  # noqa: S104


async def _shown(tree: Any) -> Any:
    """Return the JSON tree with non-printable characters escaped, since users read it on terminals,
    and long texts cut. Other tasks run meanwhile: there may be hundreds of these.
    """
    match tree:
        case str():
            return shown(tree)
        case dict():
            return {await _shown(key): await _shown(value) for key, value in tree.items()}
        case list():
            return [await _shown(value) async for value in yielding(tree, every=ROWS_PER_YIELD)]
        case _:
            return tree


@web.middleware
async def _after_other_tasks(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Yield to other tasks before a request."""
    await asyncio.sleep(0)
    return await handler(request)


async def _close_after(_: web.Request, response: web.StreamResponse) -> None:
    """Close the connection after each response, also after those that aiohttp gives without a
    handler. Otherwise a peer that sends thousands of requests at once would block the event loop
    for seconds.
    """
    response.force_close()
    response.headers[hdrs.CONNECTION] = "close"


class HttpEndpoints:
    """Servers on one or two addresses; an address of None turns its endpoints off."""

    def __init__(
        self,
        sources: EndpointSources,
        *,
        bind: tuple[str, int] | None,
        metrics: tuple[str, int] | None,
    ) -> None:
        self._sources, self._bind, self._metrics = sources, bind, metrics
        self._runners: list[web.AppRunner] = []
        self._listening: list[asyncio.Server] = []
        self.ports: dict[str, int] = {}
        self._status_lock = asyncio.Lock()
        """One status is read and rendered at a time: each may take megabytes."""
        self._renderer = ThreadPoolExecutor(1, "status-page")
        """Goes on with a page whose client has hung up, before it begins the next one."""

    async def start(self) -> None:
        """Listen. Raises BadSettings if an address cannot be used."""
        probes = [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz)]
        if self._sources.status is not None:
            probes += [web.get("/", self._page), web.get("/status", self._status)]
        metrics = [web.get("/metrics", self._serve_metrics)]
        if self._bind is not None:
            both = self._bind == self._metrics
            await self._listen("--bind-address", self._bind, probes + metrics * both)
        if self._metrics is not None and self._metrics != self._bind:
            await self._listen("--metrics-address", self._metrics, metrics)

    async def stop(self) -> None:
        for listening in self._listening:
            listening.close()
        for runner in self._runners:
            await runner.cleanup()
        self._renderer.shutdown(wait=False, cancel_futures=True)

    async def _listen(self, flag: str, address: Address, routes: list[web.RouteDef]) -> None:
        app = web.Application(middlewares=[_after_other_tasks])
        app.on_response_prepare.append(_close_after)
        app.add_routes(routes)
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=connection_limits.HEAD_TIMEOUT,
            # No endpoint takes a body, so none is read after a response.
            lingering_time=0,
            # Closed connections do not count for the limit.
            handler_cancellation=True,
        )
        await runner.setup()
        self._runners.append(runner)
        if runner.server is None:
            raise AssertionError("set up above")
        protocol = connection_limits.limited(runner.server, connection_limits.most_connections())
        host, port = address
        create = partial(
            asyncio.get_running_loop().create_server,
            protocol,
            backlog=connection_limits.ACCEPT_AT_ONCE,
        )
        try:
            if host == "::":
                listening = await create(sock=_all_addresses(port))
            else:
                listening = await create(host=host or None, port=port)
        except (OSError, UnicodeError) as error:
            raise BadSettings(f"{flag}: cannot listen on {host} port {port}: {error}") from error
        connection_limits.let_queue(listening)
        self._listening.append(listening)
        self.ports[flag] = listening.sockets[0].getsockname()[1]
        log.info(
            "HTTP server of this service is listening",
            extra=facts(
                flag=flag, host=host, port=self.ports[flag], paths=",".join(r.path for r in routes)
            ),
        )

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        against = self._sources.not_ready()
        if not against:
            return web.Response(text="ok\n")
        lines = [f"{part}: {shown(why)}\n" for part, why in against.items()]
        return web.Response(status=503, text="not ready\n" + "".join(lines))

    async def _status(self, request: web.Request) -> web.Response:
        read = self._permitted(request)
        async with self._status_lock:
            status = await _shown(await read())
            body = orjson.dumps(status, option=orjson.OPT_INDENT_2)
        return web.Response(body=body, content_type="application/json", headers=SAFE_HEADERS)

    async def _page(self, request: web.Request) -> web.Response:
        read = self._permitted(request)
        async with self._status_lock:
            status = await _shown(await read())
            # Loading the template, and rendering hundreds of rows, would block all other tasks.
            now = time.time()
            page = await asyncio.get_running_loop().run_in_executor(
                self._renderer, partial(render, status, now=now)
            )
        return web.Response(text=page, content_type="text/html", headers=SAFE_HEADERS)

    def _permitted(self, request: web.Request) -> Callable[[], Awaitable[Mapping[str, Any]]]:
        """What reads the status that this peer asks for, if it may."""
        if self._sources.status is None:
            raise web.HTTPNotFound
        # Use the peer of the connection: a client can write anything into headers.
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        if not self._sources.status_for_all and not (is_loopback(peer) and _asks_locally(request)):
            raise web.HTTPForbidden(text=LOCAL_ONLY, headers=SAFE_HEADERS)
        search = request.query.get("q", "")[:LONGEST_SEARCH]
        return partial(self._sources.status, search)

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._sources.metrics(), headers={"Content-Type": METRICS_TYPE})
