"""Parses a long JSON array one element at a time: tens of megabytes need no more memory than the
largest element, and other tasks run between pieces and between elements.

The input may be built to consume time or memory. So the size of an element and their number are
limited, and each byte is examined only a few times.
"""

import asyncio
import codecs
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import aiohttp

from linstor_affinity_events.adapters.transport.bodies import size_text
from linstor_affinity_events.errors import TooLong, Unreachable

LONGEST = 384 * 1024
"""The most characters of one element. Parsing it blocks the event loop, for up to 40 ms if it is
built for that. A resource definition takes 4 KiB, plus 1 KiB for each of its volumes; a node takes
1 KiB, plus 100 bytes for each of its labels.
"""

YIELD_EVERY = 200
"""Elements between cooperative yields."""

_CHUNK = 64 * 1024
_OPEN = re.compile(r"[ \t\r\n]*\[")
_FIRST = re.compile(r"[ \t\r\n]*(\]|(?=[^ \t\r\n]))")
_NEXT_ELEMENT = re.compile(r"[ \t\r\n]*(\]|,[ \t\r\n]*(?=[^ \t\r\n]))")
_SPACE = re.compile(r"[ \t\r\n]*")


class Objects:
    """Takes the bytes of an array as they arrive and yields its elements, which must be objects.

    Raises Unreachable for anything else; an element may have up to `longest` characters.
    """

    def __init__(self, what: str, *, longest: int = LONGEST) -> None:
        self._what, self._longest = what, longest
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder(parse_constant=_none_such).raw_decode
        self._pieces: list[str] = []
        """Joined only when there is enough text: each append to a long string copies it."""
        self._length = 0
        self._rest = ""
        self._before = _OPEN
        """What must come next, before an element or after the end."""
        self._wants = 0
        """How much text must have arrived before the next attempt to parse it."""

    def feed(self, piece: bytes, *, last: bool = False) -> Iterator[Mapping[str, Any]]:
        """Yield the elements that are complete; after the last piece the array must be complete."""
        try:
            text = self._text.decode(piece, final=last)
        except UnicodeDecodeError as error:
            raise Unreachable(f"{self._what} did not return text") from error
        self._pieces.append(text)
        self._length += len(text)
        if last or self._length >= self._wants:
            self._rest = "".join(self._pieces)
            yield from self._whole()
            self._pieces, self._length = [self._rest], len(self._rest)
        if last and (self._before is not _SPACE or self._rest):
            raise self._none()

    def _whole(self) -> Iterator[Mapping[str, Any]]:
        text, at = self._rest, 0
        while (found := self._before.match(text, at)) is not None:
            if self._before is _SPACE:
                at = found.end()
                break
            if self._before is _OPEN:
                self._before, at = _FIRST, found.end()
                continue
            if found[1] == "]":
                self._before, at = _SPACE, found.end()
                continue
            try:
                element, end = self._scan(text, found.end())
            except json.JSONDecodeError:
                break
            except (RecursionError, ValueError):
                # Nested too deeply, or an integer with more digits than Python accepts.
                raise self._none() from None
            if not isinstance(element, dict):
                raise self._none()
            self._before, at = _NEXT_ELEMENT, end
            yield element
        self._rest = text[at:]
        if len(self._rest) > self._longest:
            raise self._none()
        # An element that arrives in many pieces must not be parsed again for each of them.
        self._wants = min(2 * len(self._rest), self._longest + 1)

    def _none(self) -> Unreachable:
        return Unreachable(f"{self._what} did not return a list of objects ({self._rest[:60]!r})")


async def objects_in(
    response: aiohttp.ClientResponse, what: str, *, limit: int, most: int
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yield the objects of a body that is an array, up to `limit` decompressed bytes and `most`
    objects.

    Raises TooLong beyond that, and Unreachable if the body is not such an array.
    """
    objects, size, number = Objects(what), 0, 0
    async for piece, last in _pieces(response):
        size += len(piece)
        if size > limit:
            response.close()
            raise TooLong(f"{what} returned more than {size_text(limit)}")
        for found in objects.feed(piece, last=last):
            number += 1
            if number > most:
                response.close()
                raise TooLong(f"{what} returned more than {most} objects")
            yield found
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        # A body that is buffered completely would otherwise be read without a yield.
        await asyncio.sleep(0)


async def _pieces(response: aiohttp.ClientResponse) -> AsyncGenerator[tuple[bytes, bool], None]:
    async for piece in response.content.iter_chunked(_CHUNK):
        yield piece, False
    yield b"", True


def _none_such(constant: str) -> None:
    """Reject NaN and Infinity, which Python's decoder accepts."""
    raise ValueError(constant)
