"""Response bodies: size-limited reads, and JSON parsing with errors that show the body."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import aiohttp
import orjson

from linstor_affinity_events.engine.yielding import LONGEST
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


class ReadPerYield(NamedTuple):
    """How much of buffered data is read before other tasks run; reading it never waits."""

    lines: int
    size: int
    """Bytes of these lines."""


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


async def read_lines(
    response: aiohttp.ClientResponse, what: str, *, longest: int, per_yield: ReadPerYield
) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a body as they arrive, each with its newline, which an incomplete last one
    lacks. Other tasks run after each `per_yield`, or sooner if what is done with it takes long.

    Raises TooLong for a line of more than `longest` bytes. aiohttp can read lines too, but the
    longest one is then twice its buffer, which every response may fill, and a line that arrives in
    tiny pieces takes quadratic time.
    """
    pieces: list[bytes] = []
    size = lines = line_bytes = 0
    clock = asyncio.get_running_loop().time
    since = clock()
    async for chunk in response.content.iter_chunked(_CHUNK):
        end, *starts = chunk.split(b"\n")
        pieces.append(end)
        size += len(end)
        if size > longest:
            response.close()
            raise TooLong(f"{what} returned a line of more than {size_text(longest)}")
        for start in starts:
            yield b"".join((*pieces, b"\n"))
            lines, line_bytes = lines + 1, line_bytes + size
            pieces, size = [start], len(start)
            if (
                lines >= per_yield.lines
                or line_bytes >= per_yield.size
                or clock() - since >= LONGEST
            ):
                await asyncio.sleep(0)
                lines, line_bytes, since = 0, 0, clock()
    if size:
        yield b"".join(pieces)


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
    """Parse JSON of at most `most` values. Raises TooLong beyond that, and Unreachable that shows
    the start of the body if it is not valid.

    orjson rejects more than 1024 levels, so a hostile body cannot exhaust the stack. It reads long
    integers as floats, so they take no more time than other text.
    """
    if has_more_values(body if isinstance(body, bytes) else body.encode(errors="replace"), most):
        raise TooLong(f"{what} returned more than {most} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        begins = body[:60] if isinstance(body, str) else body[:60].decode(errors="replace")
        raise Unreachable(f"{what} did not return valid JSON ({begins})") from error


_MANAGED_FIELDS = re.compile(rb'"managedFields":\s*(?=\[)')
_PART = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+(?:([\[{])|([\]}]++)|)', re.DOTALL)
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
_MARGIN = 16
"""Levels between a document and the `managedFields` of an object in it, and more."""


LONGEST_FIELDS = 16 * 1024
"""The most bytes of one `managedFields`: an entry for one manager takes 1 KiB, and there are few
managers of an object.
"""

_AT_A_TIME = 64 * 1024
"""Bytes that are examined at a time, which takes half a millisecond."""

_PART_SIZE = 50
"""To examine a part takes as long as so many bytes more."""


class _Examined:
    """How many bytes were examined since other tasks ran."""

    def __init__(self) -> None:
        self.size = 0

    async def let_others_run(self) -> None:
        self.size = 0
        await asyncio.sleep(0)


async def without_costly_managed_fields(body: bytes, *, longest: int = LONGEST_FIELDS) -> bytes:
    """Empty each `managedFields` of a Kubernetes response that can't be parsed or is longer than
    `longest`, in linear time.

    Whoever may update an object can write there what the API server stores and returns unread:
    thousands of levels, bytes that are not UTF-8, or a megabyte of tiny objects that takes twenty
    times as much memory. Everything else it reads and writes itself.
    """
    pieces, at, examined = [], 0, _Examined()
    for found in _MANAGED_FIELDS.finditer(body):
        if found.start() < at:
            continue
        end = await _end_of_value(body, found.end(), examined)
        if end is None:
            break
        length = end - found.end()
        if length > longest or not _is_readable(body[found.end() : end]):
            pieces += [body[at : found.end()], b"[]"]
            at = end
    return b"".join((*pieces, body[at:])) if pieces else body


async def _end_of_value(body: bytes, at: int, examined: _Examined) -> int | None:
    """Return where the array or object ends that begins here; None if it does not end."""
    depth = 0
    while True:
        part = _PART.match(body, at, at + _AT_A_TIME)
        if part is None or part.end() == at:
            # The body ends, or a string is longer than that.
            after = await _end_of_string(body, at, examined) if body.startswith(b'"', at) else None
            if after is None:
                return None
            at = after
            continue
        examined.size += part.end() - at + _PART_SIZE
        if examined.size >= _AT_A_TIME:
            await examined.let_others_run()
        at = part.end()
        if part[1]:
            depth += 1
        elif part[2] and depth <= len(part[2]):
            return part.start(2) + depth
        elif part[2]:
            depth -= len(part[2])


async def _end_of_string(body: bytes, at: int, examined: _Examined) -> int | None:
    """Return where the string ends that begins here; None if it does not end."""
    at += 1
    while (part := _IN_STRING.match(body, at, at + _AT_A_TIME)) is not None:
        if part[1]:
            return part.end()
        if part.end() == at:
            break
        at = part.end()
        await examined.let_others_run()
    return None


def _is_readable(value: bytes) -> bool:
    try:
        orjson.loads(b"[" * _MARGIN + value + b"]" * _MARGIN)
    except orjson.JSONDecodeError:
        return False
    return True


def parse_text(text: str) -> object:
    """Parse untrusted JSON; raises ValueError."""
    if has_more_values(text.encode(errors="replace"), MOST_VALUES):
        raise ValueError(f"more than {MOST_VALUES} values")
    tree: object = orjson.loads(text)
    return tree
