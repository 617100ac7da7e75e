"""REST: resource groups, and the little of snapshots that a client asks for without having any."""

from typing import Any

from aiohttp import web

from tests.fakes.linstor_server import responses
from tests.fakes.linstor_server.objects import Group, NotThere
from tests.fakes.linstor_server.responses import CREATE, GROUP, MODIFY, REMOVE, WORLD, done, respond
from tests.fakes.linstor_server.rest import window
from tests.fakes.linstor_server.state import change_props
from tests.fakes.linstor_server.writes import body_of

routes = web.RouteTableDef()
_GROUPS = "/v1/resource-groups"
_GROUP = _GROUPS + "/{group}"


@routes.get(_GROUPS)
async def list_groups(request: web.Request) -> web.Response:
    groups = window(tuple(request.app[WORLD].groups.values()), request)
    return await respond(request, [_group_json(group) for group in groups])


@routes.post(_GROUPS)
async def create_group(request: web.Request) -> web.Response:
    asked = await body_of(request)
    group = request.app[WORLD].add_group(
        asked["name"], props=asked.get("props"), select_filter=asked.get("select_filter")
    )
    message = f"New resource group '{group.name}' created."
    return await respond(request, done(CREATE + GROUP + 1, message, RscGrp=group.name), 201)


@routes.get(_GROUP)
async def one_group(request: web.Request) -> web.Response:
    return await respond(request, _group_json(_group(request)))


@routes.put(_GROUP)
async def modify_group(request: web.Request) -> web.Response:
    group, asked = _group(request), await body_of(request)
    change_props(group.props, asked.get("override_props") or {}, asked.get("delete_props") or ())
    group.select_filter |= asked.get("select_filter") or {}
    message = f"Resource group '{group.name}' modified."
    return await respond(request, done(MODIFY + GROUP + 3, message, RscGrp=group.name))


@routes.delete(_GROUP)
async def delete_group(request: web.Request) -> web.Response:
    name = _group(request).name
    request.app[WORLD].delete_group(name)
    message = f"Resource group '{name}' deleted."
    return await respond(request, done(REMOVE + GROUP + 2, message, RscGrp=name))


@routes.get(_GROUP + "/volume-groups")
async def list_volume_groups(request: web.Request) -> web.Response:
    numbers = _group(request).volume_groups
    return await respond(request, [{"volume_number": number} for number in numbers])


@routes.post(_GROUP + "/volume-groups")
async def create_volume_group(request: web.Request) -> web.Response:
    group = _group(request)
    number = len(group.volume_groups)
    group.volume_groups.append(number)
    message = f"New volume group with number '{number}' of resource group '{group.name}' created."
    refs = {"RscGrp": group.name, "VlmNr": str(number)}
    return await respond(request, done(CREATE + GROUP + 1, message, **refs), 201)


@routes.get("/v1/resource-definitions/{rd}/snapshots")
async def snapshots_of_definition(request: web.Request) -> web.Response:
    request.app[WORLD].definition(request.match_info["rd"])
    return await respond(request, [])


@routes.get("/v1/view/snapshots")
async def snapshots(request: web.Request) -> web.Response:
    return await respond(request, [])


@routes.get("/v1/remotes/s3")
async def remotes(request: web.Request) -> web.Response:
    return await respond(request, [])


@routes.get("/v1/key-value-store/{store}")
async def key_value_store(request: web.Request) -> web.Response:
    missing = NotThere("Key value store", request.match_info["store"])
    return await respond(request, responses.not_there(missing), 404)


def _group(request: web.Request) -> Group:
    return request.app[WORLD].group(request.match_info["group"])


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        **({"props": group.props} if group.props else {}),
        "select_filter": group.select_filter,
        "uuid": group.uuid,
    }
