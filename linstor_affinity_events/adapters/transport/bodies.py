"""Response bodies: size-limited reads, and JSON parsing with errors that show the body."""

from typing import Any

import aiohttp
import orjson

from linstor_affinity_events.errors import TooLong, Unreachable

MIB = 1024 * 1024
_CHUNK = 256 * 1024

MOST_VALUES = 200_000
"""The most values in one document. Parsing blocks the event loop, for up to 0.2 us per value and
1 ms per MiB of text; a typical value takes some 18 bytes.
"""

_STRUCTURE = b",[{"
_COUNTED = 64 * 1024


def size_text(size: int) -> str:
    """Return a number of bytes in MiB or KiB, for messages."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a whole body, decompressed; raises TooLong once it exceeds `limit` bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > limit:
            response.close()
            raise TooLong(f"{response.url.path} returned more than {size_text(limit)}")
        chunks.append(chunk)
    return b"".join(chunks)


def has_more_values(body: bytes, most: int) -> bool:
    """Return whether a document may have more than `most` values: every value but the first has a
    comma, bracket or brace of its own. Those within strings count too. Stops as soon as it knows.
    """
    found = 0
    for start in range(0, len(body), _COUNTED):
        found += sum(body.count(mark, start, start + _COUNTED) for mark in _STRUCTURE)
        if found > most:
            return True
    return False


def parse_json(body: bytes | str, what: str, *, most: int = MOST_VALUES) -> Any:
    """Parse JSON of at most `most` values; raises Unreachable that shows the start of the body.

    orjson rejects more than 1024 levels, so a hostile body cannot exhaust the stack. It reads long
    integers as floats, so they take no more time than other text.
    """
    if has_more_values(body if isinstance(body, bytes) else body.encode(errors="replace"), most):
        raise Unreachable(f"{what} returned more than {most} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        begins = body[:60] if isinstance(body, str) else body[:60].decode(errors="replace")
        raise Unreachable(f"{what} did not return valid JSON ({begins})") from error


def parse_text(text: str) -> object:
    """Parse untrusted JSON; raises ValueError."""
    if has_more_values(text.encode(errors="replace"), MOST_VALUES):
        raise ValueError(f"more than {MOST_VALUES} values")
    tree: object = orjson.loads(text)
    return tree
