"""REST: having LINSTOR choose places, making a replica available, and volumes of replicas."""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from tests.fakes.linstor_server import responses
from tests.fakes.linstor_server.autoplacer import NotEnoughNodes, choose_nodes, tie_breaker
from tests.fakes.linstor_server.objects import NotThere, Replica, folded
from tests.fakes.linstor_server.resource_json import volume_json
from tests.fakes.linstor_server.responses import CREATE, MODIFY, RESOURCE, WORLD, done, respond
from tests.fakes.linstor_server.state import change_props
from tests.fakes.linstor_server.world import LinstorWorld
from tests.fakes.linstor_server.writes import body_of

_VOLUME = 0x2C0000
_NOT_ENOUGH_NODES = 996

routes = web.RouteTableDef()
_RD = "/v1/resource-definitions/{rd}"
_REPLICA = _RD + "/resources/{node}"


@routes.post(_RD + "/autoplace")
async def autoplace(request: web.Request) -> web.Response:
    """Responds once the replicas are up, as LINSTOR does."""
    world = request.app[WORLD]
    definition = world.definition(request.match_info["rd"])
    asked = (await body_of(request)).get("select_filter") or {}
    of_group = world.group(definition.group).select_filter
    try:
        chosen = choose_nodes(definition, world.nodes, of_group, asked)
    except NotEnoughNodes:
        result = responses.failure(
            CREATE + RESOURCE + _NOT_ENOUGH_NODES,
            message="Not enough available nodes",
            details=f"Auto-placing resource: {definition.name}",
        )
        return await respond(request, result, 500)
    names = [node.name for node in chosen]
    await _until_up(world, definition.name, names)
    third = tie_breaker(definition, world.nodes.values())
    if third is not None:
        await _until_up(world, definition.name, [third.name], flags=["TIE_BREAKER"])
        world.change_definition(
            definition.name, override={"DrbdOptions/Resource/quorum": "majority"}
        )
    result = done(
        CREATE + RESOURCE + 1,
        f"Resource '{definition.name}' successfully autoplaced on {len(names)} nodes",
        RscDfn=definition.name,
    )
    return await respond(request, result, 201)


@routes.post(_REPLICA + "/make-available")
async def make_available(request: web.Request) -> web.Response:
    """A replica that is there already will do, with a disk or without one."""
    world, asked = request.app[WORLD], await body_of(request)
    definition = world.definition(request.match_info["rd"])
    node = world.node(request.match_info["node"])
    if folded(node.name) not in definition.replicas:
        flags = () if asked.get("diskful") else ("DISKLESS",)
        await _until_up(world, definition.name, [node.name], flags=flags)
    refs = {"Node": node.name, "RscDfn": definition.name}
    result = f"Resource '{definition.name}' is available on node '{node.name}'."
    return await respond(request, done(CREATE + RESOURCE + 1, result, **refs))


@routes.get(_REPLICA + "/volumes")
async def volumes(request: web.Request) -> web.Response:
    replica = _replica(request)
    found = replica.definition.volumes.values()
    return await respond(request, [volume_json(replica, volume) for volume in found])


@routes.get(_REPLICA + r"/volumes/{nr:\d+}")
async def one_volume(request: web.Request) -> web.Response:
    replica, number = _replica(request), _number(request)
    return await respond(request, volume_json(replica, replica.definition.volumes[number]))


@routes.put(_REPLICA + r"/volumes/{nr:\d+}")
async def modify_volume(request: web.Request) -> web.Response:
    replica, number, asked = _replica(request), _number(request), await body_of(request)
    props = replica.volume_props.setdefault(number, {})
    change_props(props, asked.get("override_props") or {}, asked.get("delete_props") or ())
    rd, node = replica.definition.name, replica.node.name
    result = f"Volume '{number}' of resource '{rd}' on node '{node}' modified."
    refs = {"Node": node, "RscDfn": rd, "VlmNr": str(number)}
    return await respond(request, done(MODIFY + _VOLUME + 3, result, **refs))


async def _until_up(
    world: LinstorWorld, rd: str, nodes: Iterable[str], *, flags: Iterable[str] = ()
) -> None:
    wanted = tuple(flags)
    diskless = bool({"DISKLESS", "TIE_BREAKER"} & set(wanted))
    ups = []
    for node in nodes:
        ups.append(asyncio.Event())
        world.create_replica(rd, node, diskless, flags=wanted, once_up=ups[-1].set)
    for up in ups:
        await up.wait()


def _replica(request: web.Request) -> Replica:
    return request.app[WORLD].replica(request.match_info["rd"], request.match_info["node"])


def _number(request: web.Request) -> int:
    number = int(request.match_info["nr"])
    replica = _replica(request)
    if number not in replica.definition.volumes:
        raise NotThere("Volume", f"{replica.definition.name}/{number} on {replica.node.name}")
    return number
