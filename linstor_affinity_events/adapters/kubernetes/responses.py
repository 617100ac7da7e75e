"""Decodes responses of the API server: bodies, watch events, and errors by what to do next."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp

from linstor_affinity_events.adapters.transport.bodies import (
    LONGEST_FIELDS,
    MIB,
    ReadPerYield,
    parse_json,
    read_lines,
    without_costly_managed_fields,
)
from linstor_affinity_events.errors import (
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    Missing,
    TooLong,
    Unreachable,
)

MOST_VALUES = 2_000_000
"""The most values in one response. A page of 500 volumes has 150,000; no object has a million."""

SHORT = 64 * 1024
"""Up to so many bytes, a response takes a few milliseconds to parse, whatever it contains."""

LONGEST_LINE = 16 * MIB
"""A watch sends each object in one line. The API server stores up to 1.5 MiB of an object, and
writes some characters, such as "<", as six bytes.
"""

PER_YIELD = ReadPerYield(32, 32 * 1024)
"""The policies of a volume may take milliseconds for each 4 KiB."""

WatchEvents = AsyncGenerator[dict[str, Any], None]


async def checked_body(
    response: aiohttp.ClientResponse, raw: bytes, what: str, *, longest_fields: int = LONGEST_FIELDS
) -> dict[str, Any]:
    """Return the body of a successful response, in a long one without `managedFields` of more than
    `longest_fields` bytes; otherwise raise the error for the next action.
    """
    status = response.status
    if 300 <= status < 400:
        raise Unreachable(
            f"Kubernetes: {what}: the server redirected the request elsewhere; "
            "redirects are not followed"
        )
    try:
        body = await _parsed(raw, what, longest_fields)
    except Unreachable:
        if status < 400:
            raise
        body = {}
    if not isinstance(body, dict):
        raise Unreachable(f"Kubernetes: {what}: the response is not an object")
    if status < 400:
        return body
    _raise(status, body, what, retry_after(response))
    raise AssertionError("every error response raises")


def object_of(kind: str, body: dict[str, Any], what: str) -> dict[str, Any]:
    """The object in a response. Raises Unreachable for anything else: a proxy or gateway may
    respond in the API server's place, and nothing of that may be taken for a written object.
    """
    whole = is_object(body) and isinstance(body.get("spec", {}), dict)
    if body.get("kind") != kind or not whole:
        raise Unreachable(f"Kubernetes: {what}: the response is not a {kind}")
    return body


def is_object(body: object) -> bool:
    """Whether it has what the API server writes into each object of any kind."""
    metadata = body.get("metadata") if isinstance(body, dict) else None
    return isinstance(metadata, dict) and all(
        isinstance(metadata.get(key), str) for key in ("name", "uid", "resourceVersion")
    )


async def _parsed(raw: bytes, what: str, longest_fields: int = LONGEST_FIELDS) -> Any:
    """Parse a body or a line of a watch. Raises TooLong, and Unreachable if it is not valid even
    without those parts that clients can make invalid: these must not hide all other objects.
    """
    if len(raw) > SHORT:
        raw = await without_costly_managed_fields(raw, longest=longest_fields)
    try:
        return parse_json(raw, what, most=MOST_VALUES)
    except TooLong:
        raise
    except Unreachable:
        readable = await without_costly_managed_fields(raw)
        if readable is raw:
            raise
        return parse_json(readable, what, most=MOST_VALUES)


def _raise(status: int, body: Mapping[str, Any], what: str, after: float | None) -> None:
    message = f"{what}: {str(body.get('message') or f'HTTP {status}')[:1000]}"
    match status:
        case 404:
            raise Missing(message)
        case 409:
            raise Conflict(message)
        case 410:
            raise Expired(message, go_on=_continue_token(body))
        case 403:
            raise Forbidden(message)
        case 400 | 413 | 415 | 422:
            raise Invalid(message, fields=_causes(body.get("details")))
        case _:
            raise Unreachable(f"Kubernetes: {message}", after=after)


def _continue_token(status: Mapping[str, Any]) -> str:
    metadata = status.get("metadata")
    return str(metadata.get("continue") or "") if isinstance(metadata, Mapping) else ""


def _causes(details: object) -> tuple[str, ...]:
    causes = details.get("causes") if isinstance(details, Mapping) else None
    found = causes if isinstance(causes, list) else []
    return tuple(str(c.get("field", "")) for c in found if isinstance(c, Mapping))


def retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Return the seconds that the API server asks to wait, if any."""
    if response.status != 429 and response.status < 500:
        return None
    text = response.headers.get("Retry-After", "")
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else None


async def watch_events(response: aiohttp.ClientResponse, path: str) -> WatchEvents:
    """Yield the events of a watch unchanged. Raises Expired, Unreachable."""
    what = f"watch {path}"
    lines = read_lines(response, what, longest=LONGEST_LINE, per_yield=PER_YIELD)
    async with aclosing(lines):
        async for line in lines:
            if line.strip():
                yield await _watch_event(line, path)


async def _watch_event(line: bytes, path: str) -> dict[str, Any]:
    event = await _parsed(line, f"watch {path}")
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise Unreachable(f"watch {path} did not return events")
    if event.get("type") == "ERROR":
        status = event["object"]
        if status.get("code") == 410:
            raise Expired(str(status.get("message", "expired")))
        raise Unreachable(f"watch {path}: {status.get('message', 'error')}")
    metadata = event["object"].get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("resourceVersion"), str):
        raise Unreachable(f"watch {path} returned an object without a resourceVersion")
    if event.get("type") != "BOOKMARK" and not is_object(event["object"]):
        raise Unreachable(f"watch {path} returned something else than an object")
    return event
