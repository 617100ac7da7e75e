"""The fake kube-apiserver: connections, faults, sign-in and the record of requests."""

import asyncio
import json
import ssl
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import orjson
from aiohttp import web

from tests.fakes.kube_server.access import Access
from tests.fakes.kube_server.api import Api, Asked, Response, selector_of
from tests.fakes.kube_server.cluster import FakeCluster
from tests.fakes.kube_server.discovery import document
from tests.fakes.kube_server.faults import Fault, Faults, Request, RequestLog
from tests.fakes.kube_server.refusals import Refusal, too_large
from tests.fakes.kube_server.routes import target_of
from tests.fakes.kube_server.watches import Watch, WatchOptions, is_true

BODY_LIMIT = 3 * 1024 * 1024
GZIP_FROM = 128 * 1024

REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}


class KubeServer:
    """Use it as `async with KubeServer(cluster) as server`, or start and stop it by hand.

    Started again after a stop it listens on the same port: an outage, to its clients. The
    state is the cluster's and survives.
    """

    def __init__(
        self,
        cluster: FakeCluster,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        tokens: Mapping[str, str] | None = None,
        denied: Iterable[tuple[str, str]] = (),
        initial_events_supported: bool = True,
        bookmark_every: float = 60.0,
    ) -> None:
        self.cluster = cluster
        self.access = Access(tokens, denied)
        self.faults = Faults()
        self.log = RequestLog()
        self.initial_events_supported = initial_events_supported
        self.bookmark_every = bookmark_every
        self.port = port
        self._tls = tls
        self._api = Api(cluster, self.access)
        self._watches: dict[Watch, web.Request] = {}
        self._runner: web.AppRunner | None = None
        self._watch_ended = asyncio.Event()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def open_watches(self) -> int:
        return len(self._watches)

    @property
    def open_connections(self) -> int:
        runner = self._runner
        return len(runner.server.connections) if runner and runner.server else 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._serve)
        # A watch whose client is gone would otherwise wait for the next change for ever.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True
        )
        await site.start()
        if not self.port:
            self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Cut all connections and listen no more."""
        self.cut_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def compact(self) -> None:
        """Forget history: older versions can be neither watched from nor paged on from."""
        self.cluster.compact()
        self._api.lists.forget()

    def cut_watches(self) -> None:
        """Break the connection of every open watch, without a goodbye."""
        for request in self._watches.values():
            _cut(request)

    def expire_watches(self) -> None:
        """End every open watch with the error 410."""
        for watch in tuple(self._watches):
            watch.expire()

    async def watches_ended(self) -> None:
        """Wait until no watch is open."""
        while self._watches:
            self._watch_ended.clear()
            await self._watch_ended.wait()

    def write_kubeconfig(self, path: Path, *, token: str = "", token_file: str = "") -> Path:
        """Write a file with which kubectl and client libraries find this server."""
        user = {"token": token, "tokenFile": token_file}
        named = {"name": "fake"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{**named, "cluster": {"server": self.url}}],
            "users": [{**named, "user": {key: value for key, value in user.items() if value}}],
            "contexts": [{**named, "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        path.write_text(json.dumps(config, indent=2))
        return path

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.take(request.method, request.path_qs)
        if fault is not None:
            if fault.delay:
                await asyncio.sleep(fault.delay)
            if fault.drop_before:
                return self._dropped(request)
            if fault.status is not None:
                return self._reported(request, _broken(fault), _retry(fault))
        try:
            response = await self._responded(request)
        except Refusal as refusal:
            response = self._reported(request, Response(refusal.code, _body(refusal)))
        if fault is not None and fault.delay_after:
            await asyncio.sleep(fault.delay_after)
        if fault is not None and fault.drop_after:
            return self._dropped(request)
        return response

    async def _responded(self, request: web.Request) -> web.StreamResponse:
        if request.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        user = self.access.user(request.headers.get("Authorization", ""))
        found = document(request.path, f"127.0.0.1:{self.port}")
        if found is not None:
            return self._reported(request, Response(200, orjson.dumps(found)))
        if not request.path.startswith(("/api/", "/apis/")):
            self._entry(request, 404)
            return web.Response(status=404, text="404 page not found\n")
        target = target_of(request.path)
        watches = is_true(request.query.get("watch"))
        verb = target.verb(request.method, watch=watches)
        self.access.check(user, verb, target)
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(BODY_LIMIT) from None
        asked = Asked(
            target=target, verb=verb, query=request.query, headers=request.headers, body=body
        )
        if verb == "watch":
            return await self._watched(request, asked)
        return self._reported(request, self._api.respond(asked))

    async def _watched(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        options = WatchOptions.of(
            asked.query, initial_events_supported=self.initial_events_supported
        )
        target = asked.target
        watch = Watch(
            self.cluster,
            target.resource,
            target.namespace,
            selector_of(asked),
            options,
            self.bookmark_every,
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        self._watches[watch] = request
        self._entry(request, 200)
        try:
            await response.prepare(request)
            async with aclosing(watch.lines()) as lines:
                async for line in lines:
                    await response.write(line)
            await response.write_eof()
        except ConnectionError:
            pass  # The client went away, or the connection was cut on purpose.
        finally:
            del self._watches[watch]
            self._watch_ended.set()
        return response

    def _reported(
        self, request: web.Request, shown: Response, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        self._entry(request, shown.status)
        response = web.Response(status=shown.status, content_type="application/json")
        response.headers.update(headers or {})
        for warning in shown.warnings:
            escaped = warning.replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{escaped}"')
        body = shown.body
        if len(body) > GZIP_FROM and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.headers["Content-Encoding"] = "gzip"
            response.headers["Vary"] = "Accept-Encoding"
            packer = zlib.compressobj(level=1, wbits=31)
            body = packer.compress(body) + packer.flush()
        response.body = body
        return response

    def _dropped(self, request: web.Request) -> web.Response:
        self._entry(request, 0)
        _cut(request)
        return web.Response()

    def _entry(self, request: web.Request, status: int) -> None:
        self.log.add(
            Request(time.monotonic(), request.method, request.path, request.query_string, status)
        )


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _body(refusal: Refusal) -> bytes:
    return orjson.dumps(refusal.status) + b"\n"


def _broken(fault: Fault) -> Response:
    status = fault.status or 500
    details: dict[str, Any] | None = None
    if fault.retry_after is not None:
        details = {"retryAfterSeconds": fault.retry_after}
    reason = REASONS.get(status, "InternalError")
    refusal = Refusal(status, reason, f"broken on purpose: {reason}", details=details)
    return Response(status, _body(refusal))


def _retry(fault: Fault) -> dict[str, str]:
    return {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
