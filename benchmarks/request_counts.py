"""A proxy before the API server that counts requests and keeps nothing of them.

The service speaks TLS with it, as it would with the API server itself: what that costs belongs to
what is measured.
"""

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.real_parts.cluster import RealCluster
from tests.real_parts.credentials import write_kubeconfig
from tests.testbed.proxy import kubernetes_terms

_BODY_LIMIT = 64 << 20
_OF_THE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length", "host")


class RequestCounts:
    """Use it as `async with RequestCounts(cluster) as counts`.

    Requests are counted by what they ask for in the words of RBAC, such as "watch
    persistentvolumes"; bytes are those of bodies as they go over the wire.
    """

    def __init__(self, cluster: RealCluster) -> None:
        self.requests: Counter[str] = Counter()
        self.bytes_sent: Counter[str] = Counter()
        """What the API server responded."""
        self.bytes_taken: Counter[str] = Counter()
        self._cluster = cluster
        self._stack = AsyncExitStack()

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a file that sends the service here, signed in as the admin."""
        write_kubeconfig(
            path, url=self._url, ca_file=self._cluster.ca_file, token=self._cluster.token
        )
        return path

    async def __aenter__(self) -> Self:
        trusted = ssl.create_default_context(cafile=str(self._cluster.ca_file))
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trusted, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        )
        app = web.Application(client_max_size=_BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._serve)
        # A watch whose reader has gone would be read on for ever.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._cluster.authority.issue_cert("127.0.0.1").configure_cert(own)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=own).start()
        self._url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        label = kubernetes_terms(request.method, request.path, request.query, body).label
        self.requests[label] += 1
        self.bytes_taken[label] += len(body)
        async with self._session.request(
            request.method,
            URL(f"{self._cluster.url}{request.raw_path}", encoded=True),
            headers=_forwarded(request.headers),
            data=body or None,
            allow_redirects=False,
        ) as response:
            out = web.StreamResponse(status=response.status, headers=_forwarded(response.headers))
            await out.prepare(request)
            async for chunk in self._counted(label, response):
                await out.write(chunk)
            await out.write_eof()
            return out

    async def _counted(self, label: str, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Chunks as they come: a watch must not be buffered."""
        async for chunk in response.content.iter_any():
            self.bytes_sent[label] += len(chunk)
            yield chunk


def _forwarded(headers: Mapping[str, str]) -> CIMultiDict[str]:
    found: CIMultiDict[str] = CIMultiDict(headers)
    for name in _OF_THE_CONNECTION:
        found.popall(name, None)
    return found
