"""Bodies of answers: bounded, and JSON or an error that says what it was instead."""

from typing import Any

import aiohttp
import orjson

from linstor_affinity_events.errors import TooLong, Unreachable

MIB = 1024 * 1024
_CHUNK = 256 * 1024

MOST_VALUES = 200_000
"""Values in one document. To parse it is one step that nobody else gets a turn in, and takes up to
0.2 us for each value, and 1 ms for each MiB of text; an honest value takes some 18 bytes.
"""

_STRUCTURE = b",[{"
_COUNTED = 64 * 1024


def size_text(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a whole body, unpacked; raises TooLong once it grows beyond `limit` bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > limit:
            response.close()
            raise TooLong(f"{response.url.path} answers with more than {size_text(limit)}")
        chunks.append(chunk)
    return b"".join(chunks)


def has_more_values(body: bytes, most: int) -> bool:
    """Whether a document may have more values than so many: all but the first one have a comma, a
    bracket or a brace of their own. Those within texts count as well. Looks no further than needed.
    """
    found = 0
    for start in range(0, len(body), _COUNTED):
        found += sum(body.count(mark, start, start + _COUNTED) for mark in _STRUCTURE)
        if found > most:
            return True
    return False


def parse_json(body: bytes | str, what: str, *, most: int = MOST_VALUES) -> Any:
    """Parse JSON of so many values at most; raises Unreachable that shows how the body begins.

    orjson refuses to go deeper than 1024 levels, so a hostile body can't exhaust the stack; it
    makes floats of long integers, which so take no more time than other texts.
    """
    if has_more_values(body if isinstance(body, bytes) else body.encode(errors="replace"), most):
        raise Unreachable(f"{what} answers with more than {most} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        begins = body[:60] if isinstance(body, str) else body[:60].decode(errors="replace")
        raise Unreachable(f"{what} answers with no JSON ({begins!r})") from error


def parse_text(text: str) -> object:
    """Parse JSON of a person's or a program's making; raises ValueError."""
    if has_more_values(text.encode(errors="replace"), MOST_VALUES):
        raise ValueError(f"more than {MOST_VALUES} values")
    tree: object = orjson.loads(text)
    return tree
