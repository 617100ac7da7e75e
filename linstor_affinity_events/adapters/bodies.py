"""Bodies of answers: bounded, and JSON or an error that says what it was instead."""

from typing import Any

import aiohttp
import orjson

from linstor_affinity_events.errors import TooLong, Unreachable

MIB = 1024 * 1024
_CHUNK = 256 * 1024


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


def parse_json(body: bytes | str, what: str) -> Any:
    """Parse JSON; raises Unreachable that shows how the body begins.

    orjson refuses to go deeper than 1024 levels, so a hostile body can't exhaust the stack.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        begins = body[:60] if isinstance(body, str) else body[:60].decode(errors="replace")
        raise Unreachable(f"{what} answers with no JSON ({begins!r})") from error


def parse_text(text: str) -> object:
    """Parse JSON of a person's or a program's making; raises ValueError."""
    tree: object = orjson.loads(text)
    return tree
