"""REST: replicas, which LINSTOR calls resources."""

import asyncio
from collections.abc import Iterator

import orjson
from aiohttp import web

from tests.fakes.linstor_server import responses
from tests.fakes.linstor_server.objects import Replica
from tests.fakes.linstor_server.resource_json import resource_json, view_json
from tests.fakes.linstor_server.responses import (
    CREATE,
    MODIFY,
    REMOVE,
    RESOURCE,
    WORLD,
    done,
    respond,
)
from tests.fakes.linstor_server.rest import filtered, window
from tests.fakes.linstor_server.world import LinstorWorld
from tests.fakes.linstor_server.writes import body_of, hung

_VIEW_YIELD_EVERY = 200
_IN_USE = 997
_ALREADY_HAS_DISK, _ALREADY_DISKLESS = 1007, 1008

routes = web.RouteTableDef()
_RESOURCES = "/v1/resource-definitions/{rd}/resources"
_RESOURCE = _RESOURCES + "/{node}"


@routes.get(_RESOURCES)
async def list_resources(request: web.Request) -> web.Response:
    definition = request.app[WORLD].definition(request.match_info["rd"])
    replicas = window(tuple(definition.replicas.values()), request)
    return await respond(request, [resource_json(replica) for replica in replicas])


@routes.post(_RESOURCES)
async def create_resources(request: web.Request) -> web.Response:
    asked = await body_of(request)
    result = []
    for one in asked:
        result += _create(request, one["resource"]["node_name"], one["resource"])
    return await respond(request, result, 201)


@routes.get(_RESOURCE)
async def one_resource(request: web.Request) -> web.Response:
    return await respond(request, resource_json(_replica(request)))


@routes.post(_RESOURCE)
async def create_resource(request: web.Request) -> web.Response:
    asked = await body_of(request)
    result = _create(request, request.match_info["node"], asked.get("resource", {}))
    return await respond(request, result, 201)


@routes.delete(_RESOURCE)
async def delete_resource(request: web.Request) -> web.Response:
    replica = _replica(request)
    rd, node = replica.definition.name, replica.node.name
    if replica.in_use:
        result = f"Resource '{rd}' on node '{node}' is still in use."
        return await respond(request, responses.failure(REMOVE + _IN_USE, message=result), 500)
    request.app[WORLD].delete_replica(rd, node)
    result = f"Node: {node}, Resource: {rd} marked for deletion."
    return await respond(request, done(REMOVE + RESOURCE + 2, result, Node=node, RscDfn=rd))


@routes.put(_RESOURCE + "/toggle-disk/{wish:diskless|diskful|storage-pool}{pool:(/[^/]+)?}")
async def toggle_disk(request: web.Request) -> web.Response:
    return await _toggle(request, diskless=request.match_info["wish"] == "diskless")


@routes.put(_RESOURCE + "/toggle-disk")
async def toggle_disk_by_body(request: web.Request) -> web.Response:
    """The newer form, which python-linstor uses from API 1.28 on."""
    operation = (await body_of(request)).get("operation", "INTO_DRBD_DISKFUL")
    return await _toggle(request, diskless=operation != "INTO_DRBD_DISKFUL")


@routes.get("/v1/view/resources")
async def view_resources(request: web.Request) -> web.Response:
    """Everything about everything, if all satellites respond."""
    world = request.app[WORLD]
    if hung(world, world.nodes.values()):
        await asyncio.sleep(world.timing.satellite_timeout)
        return await respond(request, responses.satellites_unresponsive(), 500)
    if world.timing.view_delay:
        await asyncio.sleep(world.timing.view_delay)
    found = list(_viewed(world, filtered(request, "resources"), filtered(request, "nodes")))
    encoded = []
    for number, replica in enumerate(window(found, request), start=1):
        encoded.append(orjson.dumps(view_json(replica)))
        if number % _VIEW_YIELD_EVERY == 0:
            await asyncio.sleep(0)
    return await respond(request, b"[" + b",".join(encoded) + b"]")


@routes.get("/v1/stats/resources")
async def count_resources(request: web.Request) -> web.Response:
    """How many replicas there are, whatever their flags; satellites are not asked."""
    world = request.app[WORLD]
    count = sum(len(definition.replicas) for definition in world.definitions.values())
    return await respond(request, {"count": count})


def _viewed(world: LinstorWorld, names: set[str], nodes: set[str]) -> Iterator[Replica]:
    known = world.definitions
    for key in names or known:
        for node, replica in known[key].replicas.items() if key in known else ():
            if not nodes or node in nodes:
                yield replica


def _replica(request: web.Request) -> Replica:
    return request.app[WORLD].replica(request.match_info["rd"], request.match_info["node"])


def _create(
    request: web.Request, node: str, asked: dict[str, list[str]]
) -> list[dict[str, object]]:
    rd = request.match_info["rd"]
    flags = frozenset(asked.get("flags", ()))
    replica = request.app[WORLD].create_replica(
        rd, node, bool(flags & {"DISKLESS", "DRBD_DISKLESS"}), flags=flags
    )
    refs = {"Node": replica.node.name, "RscDfn": replica.definition.name}
    result = f"New resource '{rd}' on node '{node}' registered."
    return done(CREATE + RESOURCE + 1, result, **refs)


async def _toggle(request: web.Request, *, diskless: bool) -> web.Response:
    replica = _replica(request)
    rd, node = replica.definition.name, replica.node.name
    if replica.diskful is not diskless:
        code = _ALREADY_DISKLESS if diskless else _ALREADY_HAS_DISK
        return await respond(request, responses.warning(code, "Nothing to toggle."))
    request.app[WORLD].toggle_disk(rd, node, diskless)
    result = f"Toggling the disk of '{rd}' on node '{node}'."
    return await respond(request, done(MODIFY + RESOURCE + 3, result, Node=node, RscDfn=rd))
