"""Writing properties: stored first, then every replica is re-adjusted, and that can fail."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
from aiohttp import web

from tests.fakes.linstor_server import responses
from tests.fakes.linstor_server.objects import Node, folded
from tests.fakes.linstor_server.responses import WORLD, respond
from tests.fakes.linstor_server.world import LinstorWorld

_MODIFIED = 3


class Write(Protocol):
    def __call__(self, *, override: Mapping[str, str], delete: Iterable[str]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is written to, as far as the response shows."""

    mask: int
    what: str
    details: str
    obj_refs: Mapping[str, str]
    satellites: Callable[[], Iterable[Node]]
    """Those that have to re-adjust something afterwards."""


async def body_of(request: web.Request) -> Any:
    """The request's JSON; nothing at all counts as an empty object."""
    raw = await request.read()
    return orjson.loads(raw) if raw else {}


async def write_props(request: web.Request, subject: Subject, write: Write) -> web.Response:
    """Store the properties of the request and respond as LINSTOR would, some seconds later."""
    world = request.app[WORLD]
    asked = await body_of(request)
    override: dict[str, str] = asked.get("override_props", {})
    doing = f"Modification of {subject.what}"
    if any(len(value) > world.longest_property for value in override.values()):
        why = (
            "ApiDatabaseException. com.linbit.linstor.dbdrivers.DatabaseException: "
            "DatabaseException"
        )
        return await respond(request, _failed(subject, doing, why), 500)
    write(override=override, delete=asked.get("delete_props", ()))
    if hung(world, subject.satellites()):
        await asyncio.sleep(world.timing.satellite_timeout)
        return await respond(request, _failed(subject, doing, "TimeoutException."), 500)
    if world.timing.property_write_delay:
        await asyncio.sleep(world.timing.property_write_delay)
    message = f"{subject.what[:1].upper()}{subject.what[1:]} modified."
    code = responses.MODIFY + subject.mask + _MODIFIED
    return await respond(request, responses.done(code, message, **subject.obj_refs))


def hung(world: LinstorWorld, nodes: Iterable[Node]) -> bool:
    """Whether the controller would wait in vain for one of these; offline ones it does not ask."""
    names = {folded(name) for name in world.hung_satellites}
    return bool(names) and any(node.online and folded(node.name) in names for node in nodes)


def _failed(subject: Subject, doing: str, why: str) -> list[dict[str, Any]]:
    return responses.unexpected(
        subject.mask, doing, why, details=subject.details, obj_refs=dict(subject.obj_refs)
    )
