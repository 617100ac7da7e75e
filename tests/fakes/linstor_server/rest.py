"""REST: the controller itself, its nodes and its definitions."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from aiohttp import web

from tests.fakes.linstor_server import responses
from tests.fakes.linstor_server.definition_json import (
    encoded_definition,
    volume_json,
    volumes_json,
)
from tests.fakes.linstor_server.node_json import node_json, storage_pools_json
from tests.fakes.linstor_server.objects import DEFAULT_GROUP, Definition, Node, folded
from tests.fakes.linstor_server.responses import (
    CREATE,
    DEFINITION,
    NODE,
    REMOVE,
    VOLUME_DEFINITION,
    WORLD,
    done,
    respond,
)
from tests.fakes.linstor_server.writes import Subject, body_of, write_props

T = TypeVar("T")

VERSION = {
    "version": "1.33.3",
    "git_hash": "1ff3a1ea5cb5c77100265ec442bb9a492b225145",
    "build_time": "2026-11-23T04:31:36+00:00",
    "rest_api_version": "1.27.0",
}
YIELD_EVERY = 1000
"""Objects encoded between two chances for the loop to write events."""

routes = web.RouteTableDef()
_RD = "/v1/resource-definitions/{rd}"


def window(found: Sequence[T], request: web.Request) -> Sequence[T]:
    """The part that `limit` and `offset` ask for; a limit of 0 is none."""
    offset = int(request.query.get("offset", 0))
    limit = int(request.query.get("limit", 0))
    return found[offset : offset + limit] if limit else found[offset:]


def filtered(request: web.Request, parameter: str) -> set[str]:
    """Folded names given in a repeatable parameter; none means all."""
    return {folded(name) for name in request.query.getall(parameter, ())}


@routes.get("/v1/controller/version")
async def version(request: web.Request) -> web.Response:
    return await respond(request, VERSION)


@routes.get("/v1/nodes")
async def list_nodes(request: web.Request) -> web.Response:
    world, wanted = request.app[WORLD], filtered(request, "nodes")
    nodes = [node for key, node in world.nodes.items() if not wanted or key in wanted]
    return await respond(request, [node_json(node) for node in window(nodes, request)])


@routes.get("/v1/nodes/{node}")
async def one_node(request: web.Request) -> web.Response:
    return await respond(request, node_json(_node(request)))


@routes.put("/v1/nodes/{node}")
async def modify_node(request: web.Request) -> web.Response:
    node = _node(request)
    subject = Subject(
        mask=NODE,
        what=f"node '{node.name}'",
        details=f"Node: {node.name}",
        obj_refs={"Node": node.name},
        satellites=lambda: [node],
    )
    return await write_props(request, subject, partial(request.app[WORLD].change_node, node.name))


@routes.delete("/v1/nodes/{node}")
async def delete_node(request: web.Request) -> web.Response:
    name = _node(request).name
    request.app[WORLD].delete_node(name)
    return await respond(request, done(NODE + REMOVE + 2, f"Node '{name}' deleted.", Node=name))


@routes.delete("/v1/nodes/{node}/lost")
async def lose_node(request: web.Request) -> web.Response:
    name = _node(request).name
    request.app[WORLD].node_lost(name)
    return await respond(request, done(NODE + REMOVE + 2, f"Node '{name}' lost.", Node=name))


@routes.put("/v1/nodes/{node}/evacuate")
async def evacuate(request: web.Request) -> web.Response:
    name = _node(request).name
    asked = await body_of(request)
    request.app[WORLD].evacuate(
        name, target=asked.get("target") or (), avoid=asked.get("do_not_target") or ()
    )
    message = f"Node '{name}' is being evacuated."
    return await respond(request, done(NODE + responses.MODIFY + 3, message, Node=name))


@routes.put("/v1/nodes/{node}/restore")
async def restore(request: web.Request) -> web.Response:
    name = _node(request).name
    request.app[WORLD].restore(name)
    return await respond(
        request, done(NODE + responses.MODIFY + 3, f"Node '{name}' restored.", Node=name)
    )


@routes.get("/v1/nodes/{node}/storage-pools")
async def storage_pools_of_node(request: web.Request) -> web.Response:
    return await respond(request, storage_pools_json(_node(request)))


@routes.get("/v1/view/storage-pools")
async def storage_pools(request: web.Request) -> web.Response:
    world, wanted = request.app[WORLD], filtered(request, "nodes")
    nodes = [node for key, node in world.nodes.items() if not wanted or key in wanted]
    return await respond(request, [pool for node in nodes for pool in storage_pools_json(node)])


@routes.get("/v1/resource-definitions")
async def list_definitions(request: web.Request) -> web.Response:
    world, wanted = request.app[WORLD], filtered(request, "resource_definitions")
    known = world.definitions
    found = [known[key] for key in wanted if key in known] if wanted else list(known.values())
    encoded = []
    for number, definition in enumerate(window(found, request), start=1):
        encoded.append(encoded_definition(definition, with_volumes=_with_volumes(request)))
        if number % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    return await respond(request, b"[" + b",".join(encoded) + b"]")


@routes.post("/v1/resource-definitions")
async def create_definition(request: web.Request) -> web.Response:
    asked = (await body_of(request))["resource_definition"]
    layers = [layer["type"] for layer in asked.get("layer_data", ())] or ["DRBD", "STORAGE"]
    name = asked["name"]
    request.app[WORLD].add_definition(
        name,
        volumes=0,
        layers=layers,
        props=asked.get("props", {}),
        group=asked.get("resource_group_name") or DEFAULT_GROUP,
    )
    message = f"New resource definition '{name}' created."
    return await respond(request, done(CREATE + DEFINITION + 1, message, RscDfn=name), 201)


@routes.get(_RD)
async def one_definition(request: web.Request) -> web.Response:
    with_volumes = _with_volumes(request)
    return await respond(request, encoded_definition(_rd(request), with_volumes=with_volumes))


@routes.put(_RD)
async def modify_definition(request: web.Request) -> web.Response:
    definition = _rd(request)
    name = definition.name
    subject = Subject(
        mask=DEFINITION,
        what=f"resource definition '{name}'",
        details=f"Resource definition: {name}",
        obj_refs={"RscDfn": name},
        satellites=lambda: [replica.node for replica in definition.replicas.values()],
    )
    return await write_props(request, subject, partial(request.app[WORLD].change_definition, name))


@routes.delete(_RD)
async def delete_definition(request: web.Request) -> web.Response:
    name = _rd(request).name
    request.app[WORLD].delete_definition(name)
    message = f"Resource definition '{name}' deleted."
    return await respond(request, done(REMOVE + DEFINITION + 2, message, RscDfn=name))


@routes.get(_RD + "/volume-definitions")
async def list_volumes(request: web.Request) -> web.Response:
    return await respond(request, volumes_json(_rd(request)))


@routes.post(_RD + "/volume-definitions")
async def create_volume(request: web.Request) -> web.Response:
    name = _rd(request).name
    asked = (await body_of(request))["volume_definition"]
    volume = request.app[WORLD].add_volume(
        name,
        number=asked.get("volume_number"),
        size_kib=asked["size_kib"],
        props=asked.get("props"),
    )
    message = f"New volume definition with number '{volume.number}' of '{name}' created."
    refs = {"RscDfn": name, "VlmNr": str(volume.number)}
    return await respond(request, done(CREATE + VOLUME_DEFINITION + 1, message, **refs), 201)


@routes.get(_RD + r"/volume-definitions/{nr:\d+}")
async def one_volume(request: web.Request) -> web.Response:
    definition, number = _rd(request), int(request.match_info["nr"])
    volume = request.app[WORLD].volume(definition.name, number)
    return await respond(request, volume_json(definition, volume))


@routes.put(_RD + r"/volume-definitions/{nr:\d+}")
async def modify_volume(request: web.Request) -> web.Response:
    definition, number = _rd(request), int(request.match_info["nr"])
    name = definition.name
    request.app[WORLD].volume(name, number)
    size_kib = (await body_of(request)).get("size_kib")
    if size_kib:
        request.app[WORLD].resize_volume(name, number, size_kib)
    subject = Subject(
        mask=VOLUME_DEFINITION,
        what=f"volume definition with number '{number}' of resource definition '{name}'",
        details=f"Resource definition: {name}, Volume number: {number}",
        obj_refs={"RscDfn": name, "VlmNr": str(number)},
        satellites=lambda: [replica.node for replica in definition.replicas.values()],
    )
    write = partial(request.app[WORLD].change_volume, name, number)
    return await write_props(request, subject, write)


@routes.delete(_RD + r"/volume-definitions/{nr:\d+}")
async def delete_volume(request: web.Request) -> web.Response:
    name, number = _rd(request).name, int(request.match_info["nr"])
    request.app[WORLD].delete_volume(name, number)
    message = f"Volume definition with number '{number}' of resource definition '{name}' deleted."
    refs = {"RscDfn": name, "VlmNr": str(number)}
    return await respond(request, done(REMOVE + VOLUME_DEFINITION + 2, message, **refs))


def _node(request: web.Request) -> Node:
    return request.app[WORLD].node(request.match_info["node"])


def _rd(request: web.Request) -> Definition:
    return request.app[WORLD].definition(request.match_info["rd"])


def _with_volumes(request: web.Request) -> bool:
    return request.query.get("with_volume_definitions", "").lower() == "true"
