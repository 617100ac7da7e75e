"""What LINSTOR's responses say: the body, or the error by what to do next."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import aiohttp
from yarl import URL

from linstor_affinity_events.adapters.linstor.connection import LOGIN_CODES
from linstor_affinity_events.adapters.transport.bodies import parse_json
from linstor_affinity_events.errors import LoginRefused, Missing, Refused, Unreachable
from linstor_affinity_events.printable import shortened

_CODE_MASK = 0xFFFF
_NOT_FOUND = frozenset({301, 303})
"""The lower bits of LINSTOR's `ret_code` for an unknown resource or volume definition."""

MOST_REPLIES = 10
"""The most replies of an error response that are put into a message."""


def text_of(error: Exception) -> str:
    """Return what an error says, up to a length: aiohttp quotes all that it does not understand."""
    return shortened(str(error)) or type(error).__name__


def checked_body(status: int, raw: bytes, what: str, others: Iterable[str] = ()) -> Any:
    """Return the body of a successful response. Otherwise raise the error that says what to do
    next, with the failures of the other controllers.
    """
    if status < 300:
        return parse_json(raw, what)
    replies = _replies(raw)
    codes = _codes(replies)
    text = "; ".join(_messages(replies)) or "no message"
    if codes & LOGIN_CODES or status in {401, 403}:
        raise LoginRefused(
            f"{what}: {text} (see LS_USERNAME and LS_PASSWORD, or LS_BEARER_TOKEN_FILE)"
        )
    if status == 404 and any(code & _CODE_MASK in _NOT_FOUND for code in codes):
        raise Missing(f"{what}: {text}")
    if status == 400:
        raise Refused(f"{what}: HTTP 400: {text}")
    raise Unreachable("; ".join((f"{what}: HTTP {status}: {text}", *others)))


def _replies(raw: bytes) -> list[Mapping[str, Any]]:
    """Return LINSTOR's replies in an error response; none if another program sent it."""
    try:
        tree = parse_json(raw, "")
    except Unreachable:
        return []
    return [reply for reply in tree if isinstance(reply, dict)] if isinstance(tree, list) else []


def _codes(replies: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    found = (reply.get("ret_code") for reply in replies)
    return frozenset(code for code in found if isinstance(code, int))


def _messages(replies: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for reply in islice(replies, MOST_REPLIES):
        words = [reply[key] for key in ("message", "cause") if isinstance(reply.get(key), str)]
        yield from (word[:300] for word in words)


def is_from_linstor(raw: bytes) -> bool:
    """Return whether LINSTOR itself sent this error: then the active controller is there."""
    return bool(_codes(_replies(raw)))


def redirected(response: aiohttp.ClientResponse) -> str:
    """Return what to do about a redirect. It is not followed, as it could send the login anywhere.

    With TLS enabled for its API, LINSTOR redirects all plain HTTP requests.
    """
    try:
        target = response.url.join(URL(response.headers.get("Location", "")))
        origin = f"{target.scheme}://{target.host_subcomponent}:{target.port}"[:300]
    except (ValueError, IndexError):  # The latter for a bracket without a host after it.
        return "the server redirected the request elsewhere; redirects are not followed"
    if response.url.scheme == "https" or target.scheme != "https":
        return f"the server redirected the request to {origin}; redirects are not followed"
    return (
        f"LINSTOR's API requires TLS (it redirects to {origin}): set "
        f"LS_CONTROLLERS={origin}, set LS_ROOT_CA_FILE to the certificate "
        "authority and, if client certificates are required, "
        "LS_USER_CERTIFICATE_FILE and LS_USER_KEY_FILE; if the certificate is "
        "for another host name, set LS_TLS_SERVER_NAME"
    )
