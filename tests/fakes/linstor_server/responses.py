"""Bodies and ways of answering, with LINSTOR's return codes."""

import asyncio
import zlib
from datetime import UTC, datetime
from itertools import count
from typing import Any

import orjson
from aiohttp import web

from tests.fakes.linstor_server.objects import NotThere, Taken
from tests.fakes.linstor_server.world import LinstorWorld

WORLD = web.AppKey("world", LinstorWorld)

# The API shows 64 bits as a signed number: both top bits make an error, the top one a warning.
FAIL = -(1 << 62)
WARN = -(1 << 63)
CREATE, MODIFY, REMOVE = 0x1000000, 0x2000000, 0x3000000
NODE, RESOURCE, DEFINITION, VOLUME_DEFINITION = 0x3C0000, 0x340000, 0x380000, 0x300000
GROUP = 0x440000

_UNKNOWN_ERROR = 998
_NO_SUCH = {
    "Node": 300,
    "Resource definition": 301,
    "Resource": 302,
    "Volume definition": 303,
    "Volume": 304,
    "Resource group": 317,
    "Key value store": 316,
}
_NOTHING_TO_DELETE = 3000
_EXISTS_FROM_NO_SUCH = 200
_EXISTS = {"Resource group": 522}

_GZIP_FROM = 1000
_GZIP_ASIDE_FROM = 1 << 16
_reports = count()


def raw_response(request: web.Request, status: int, body: bytes) -> web.Response:
    """A response that goes out as it is."""
    request.app[WORLD].bytes_sent[route_of(request)] += len(body)
    return web.Response(status=status, body=body, headers={"Content-Type": "application/json"})


async def respond(request: web.Request, shown: object, status: int = 200) -> web.Response:
    """A response in JSON, or JSON already; compressed if it is long and the client can take it."""
    body = shown if isinstance(shown, bytes) else orjson.dumps(shown)
    wanted = "gzip" in request.headers.get("Accept-Encoding", "")
    if len(body) < _GZIP_FROM or not wanted:
        return raw_response(request, status, body)
    # Compressing tens of megabytes takes longer than any event may wait.
    large = len(body) >= _GZIP_ASIDE_FROM
    response = raw_response(
        request, status, await asyncio.to_thread(_gzip, body) if large else _gzip(body)
    )
    response.headers["Content-Encoding"] = "gzip"
    return response


def route_of(request: web.Request) -> str:
    """Method and path template, the key under which requests are counted."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else '(unknown)'}"


def done(ret_code: int, message: str, **obj_refs: str) -> list[dict[str, Any]]:
    return [_entry(ret_code, message=message, details=message, obj_refs=obj_refs)]


def warning(ret_code: int, message: str) -> list[dict[str, Any]]:
    return [_entry(WARN + ret_code, message=message)]


def failure(ret_code: int, **texts: object) -> list[dict[str, Any]]:
    """An error; which of `message`, `cause`, `details` and so on it has is up to the caller."""
    return [_entry(FAIL + ret_code, **texts)]


def not_there(error: NotThere) -> list[dict[str, Any]]:
    kind = error.kind.lower()
    return failure(
        _NO_SUCH[error.kind],
        message=str(error),
        cause=f"The specified {kind} '{error.name}' could not be found in the database",
        correction=f"Create a {kind} with the name '{error.name}' first.",
    )


def nothing_to_delete(error: NotThere) -> list[dict[str, Any]]:
    return warning(REMOVE + _NOTHING_TO_DELETE, str(error))


def taken(error: Taken) -> list[dict[str, Any]]:
    code = _EXISTS.get(error.kind, _NO_SUCH[error.kind] + _EXISTS_FROM_NO_SUCH)
    return failure(CREATE + code, message=str(error))


def unexpected(objects: int, doing: str, why: str, **facts: object) -> list[dict[str, Any]]:
    """What the controller says when something deep inside it failed while it modified things."""
    return failure(
        MODIFY + objects + _UNKNOWN_ERROR,
        message=f"{doing} failed due to an unhandled exception of type {why}",
        **facts,
        error_report_ids=[new_report()],
    )


def satellites_unresponsive() -> list[dict[str, Any]]:
    """What view/resources returns when one satellite hangs: nothing for a human to read."""
    return failure(_UNKNOWN_ERROR, error_report_ids=[new_report()])


def new_report() -> str:
    return f"6B03C837-00000-{next(_reports):06}"


def _entry(ret_code: int, **texts: object) -> dict[str, Any]:
    # Java's clock writes nanoseconds, Python's has microseconds.
    now = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    return {"ret_code": ret_code, **texts, "created_at": f"{now}000Z"}


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=31)
    return packer.compress(body) + packer.flush()
