"""What every request goes through first: counting, faults and the login."""

import asyncio
import hmac
from base64 import b64encode

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from tests.fakes.linstor_server import responses
from tests.fakes.linstor_server.objects import NotThere, Taken
from tests.fakes.linstor_server.responses import WORLD, respond, route_of
from tests.fakes.linstor_server.world import LinstorWorld

_OPEN_TO_ALL = "/v1/controller/version"
_STREAMS = "/v1/events/"
_NO_CREDENTIALS, _WRONG_CREDENTIALS = 10001, 10000
_NO_SUCH_PATH = 998
_UNREADABLE = 997


@web.middleware
async def check_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request through to its handler, unless the world is broken in its way."""
    world = request.app[WORLD]
    world.requests[route_of(request)] += 1
    if world.standby and request.transport is not None:
        request.transport.abort()
        await _for_ever()
    injected = world.take_injected(request.path)
    if injected:
        world.bytes_sent[route_of(request)] += len(injected.body)
        return web.Response(
            status=injected.status, body=injected.body, headers=dict(injected.headers)
        )
    if not request.path.startswith(_STREAMS):
        if world.rest_hang:
            await _for_ever()
        if world.timing.rest_delay:
            await asyncio.sleep(world.timing.rest_delay)
    refusal = _refusal(world, request)
    if refusal:
        return responses.raw_response(request, 400, orjson.dumps(refusal))
    return await _handled(request, handler)


async def _for_ever() -> None:
    """Wait until the connection is gone, which cancels whoever works for it."""
    await asyncio.Event().wait()


def _refusal(world: LinstorWorld, request: web.Request) -> list[dict[str, object]]:
    """Why this request is rejected, in LINSTOR's words; empty if it is not."""
    if request.path == _OPEN_TO_ALL or (world.login is None and world.bearer is None):
        return []
    given = request.headers.get("Authorization")
    # LINSTOR sends these without a date, unlike its other errors.
    if given is None:
        code = responses.FAIL + _NO_CREDENTIALS
        message = "Login required but no 'Authorization' header given."
        return [{"ret_code": code, "message": message}]
    if any(hmac.compare_digest(given.encode(), right.encode()) for right in _right(world)):
        return []
    return [{"ret_code": responses.FAIL + _WRONG_CREDENTIALS, "message": "Sign-in failed"}]


def _right(world: LinstorWorld) -> list[str]:
    right = []
    if world.login is not None:
        right.append(f"Basic {b64encode(':'.join(world.login).encode()).decode()}")
    if world.bearer is not None:
        right.append(f"Bearer {world.bearer}")
    return right


async def _handled(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except NotThere as error:
        if request.method == "DELETE":
            return await respond(request, responses.nothing_to_delete(error))
        return await respond(request, responses.not_there(error), 404)
    except Taken as error:
        return await respond(request, responses.taken(error), 500)
    except orjson.JSONDecodeError as error:
        return await respond(request, responses.failure(_UNREADABLE, message=str(error)), 400)
    except web.HTTPException as error:
        message = f"HTTP {error.status} {error.reason}"
        return await respond(
            request, responses.failure(_NO_SUCH_PATH, message=message), error.status
        )
