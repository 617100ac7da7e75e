"""A long JSON array, one element at a time: tens of megabytes need no more room than their largest
element, and the loop has its turn between pieces.
"""

import asyncio
import codecs
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import aiohttp

from linstor_affinity_events.adapters.bodies import MIB
from linstor_affinity_events.errors import Unreachable

_CHUNK = 64 * 1024
_OPEN = re.compile(r"[ \t\r\n]*\[")
_FIRST = re.compile(r"[ \t\r\n]*(\]|(?=[^ \t\r\n]))")
_LATER = re.compile(r"[ \t\r\n]*(\]|,[ \t\r\n]*(?=[^ \t\r\n]))")
_SPACE = re.compile(r"[ \t\r\n]*")


class Objects:
    """Takes the bytes of an array as they come and gives its elements, which have to be objects.

    Raises Unreachable for anything else; an element may be `longest` characters long.
    """

    def __init__(self, what: str, *, longest: int = 16 * MIB) -> None:
        self._what, self._longest = what, longest
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self._rest = ""
        self._before = _OPEN
        """What has to come next, before an element or after the end."""
        self._wants = 0
        """How much text there has to be before it is worth another try."""

    def feed(self, piece: bytes, *, last: bool = False) -> Iterator[Mapping[str, Any]]:
        """The elements that are whole by now; after the last piece the array has to be."""
        try:
            self._rest += self._text.decode(piece, final=last)
        except UnicodeDecodeError as error:
            raise Unreachable(f"{self._what} answers with no text") from error
        if last or len(self._rest) >= self._wants:
            yield from self._whole()
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
            except RecursionError:
                raise self._none() from None
            if not isinstance(element, dict):
                raise self._none()
            self._before, at = _LATER, end
            yield element
        self._rest = text[at:]
        if len(self._rest) > self._longest:
            raise self._none()
        # An element in many pieces is not begun anew with each of them.
        self._wants = 2 * len(self._rest)

    def _none(self) -> Unreachable:
        return Unreachable(f"{self._what} answers with no list of objects ({self._rest[:60]!r})")


async def objects_in(
    response: aiohttp.ClientResponse, what: str, *, limit: int
) -> AsyncGenerator[Mapping[str, Any], None]:
    """The objects of a body that is an array, however long; up to `limit` bytes, unpacked.

    Raises Unreachable for a longer one and for what is no such array.
    """
    objects, size = Objects(what), 0
    async for piece in response.content.iter_chunked(_CHUNK):
        size += len(piece)
        if size > limit:
            response.close()
            raise Unreachable(f"{what} answers with more than {limit // MIB} MiB")
        for found in objects.feed(piece):
            yield found
        # A body that was buffered whole would else be read without a pause.
        await asyncio.sleep(0)
    for found in objects.feed(b"", last=True):
        yield found
