"""Levers for a person with curl, outside LINSTOR's own API."""

from aiohttp import web

from tests.fakes.linstor_server.responses import respond
from tests.fakes.linstor_server.streams import Streams
from tests.fakes.linstor_server.world import LinstorWorld
from tests.fakes.linstor_server.writes import body_of


def add_routes(router: web.UrlDispatcher, world: LinstorWorld, streams: Streams) -> None:
    levers = _Levers(world, streams)
    router.add_post("/fake/hang/{node}", levers.hang)
    router.add_delete("/fake/hang/{node}", levers.unhang)
    router.add_post("/fake/offline/{node}", levers.go_offline)
    router.add_delete("/fake/offline/{node}", levers.come_online)
    router.add_post("/fake/cut-streams", levers.cut_streams)
    router.add_post("/fake/move", levers.move)
    router.add_post("/fake/move-silently", levers.move_silently)
    router.add_get("/fake/requests", levers.requests)


class _Levers:
    def __init__(self, world: LinstorWorld, streams: Streams) -> None:
        self._world, self._streams = world, streams

    async def hang(self, request: web.Request) -> web.Response:
        self._world.hung_satellites.add(self._node(request))
        return await self._done(request)

    async def unhang(self, request: web.Request) -> web.Response:
        self._world.hung_satellites.discard(self._node(request))
        return await self._done(request)

    async def go_offline(self, request: web.Request) -> web.Response:
        self._world.go_offline(self._node(request))
        return await self._done(request)

    async def come_online(self, request: web.Request) -> web.Response:
        self._world.come_online(self._node(request))
        return await self._done(request)

    async def cut_streams(self, request: web.Request) -> web.Response:
        self._streams.cut()
        return await self._done(request)

    async def move(self, request: web.Request) -> web.Response:
        asked = await body_of(request)
        self._world.move(asked["resource"], asked["from"], asked["to"])
        return await self._done(request)

    async def move_silently(self, request: web.Request) -> web.Response:
        asked = await body_of(request)
        self._world.move_silently(asked["resource"], asked["from"], asked["to"])
        return await self._done(request)

    async def requests(self, request: web.Request) -> web.Response:
        sent = self._world.bytes_sent
        counted = self._world.requests.items()
        shown = {route: {"count": n, "bytes": sent[route]} for route, n in counted}
        return await respond(request, shown)

    def _node(self, request: web.Request) -> str:
        return self._world.node(request.match_info["node"]).name

    async def _done(self, request: web.Request) -> web.Response:
        return await respond(request, {"done": request.path})
