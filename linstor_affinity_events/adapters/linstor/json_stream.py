"""Parses a long JSON array one element at a time: tens of megabytes need no more memory than the
largest element, and other tasks run between pieces and between elements.

The input may be built to consume time or memory. So the number of elements is limited, each byte is
examined only a few times, and an element that is too long is skipped: whoever may add properties to
one object in LINSTOR must not make all others unreadable.
"""

import asyncio
import codecs
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from linstor_affinity_events.adapters.transport.bodies import size_text
from linstor_affinity_events.errors import TooLong, Unreachable

LONGEST = 192 * 1024
"""The most characters of one element. Parsing it blocks the event loop, for up to 40 ms if it is
built for that. A resource definition takes 4 KiB, plus 1 KiB for each of its volumes; a node takes
1 KiB, plus 100 bytes for each of its labels. Whoever may write to LINSTOR can exceed it: a property
has up to 4096 characters, and their number is not limited.
"""

YIELD_EVERY = 200
"""Elements between cooperative yields."""

_CHUNK = 64 * 1024
_OPEN = re.compile(r"[ \t\r\n]*\[")
_FIRST = re.compile(r"[ \t\r\n]*(\]|(?=[^ \t\r\n]))")
_NEXT_ELEMENT = re.compile(r"[ \t\r\n]*(\]|,[ \t\r\n]*(?=[^ \t\r\n]))")
_HERE = re.compile(r"(x){0}")
_SPACE = re.compile(r"[ \t\r\n]*")
_NAME = re.compile(r'\{[ \t\r\n]*"name"[ \t\r\n]*:[ \t\r\n]*"([^"\\\x00-\x1f]{1,255})"')
_STRING_REST = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(")?|([\[{])|([\]}])', re.DOTALL)
_OPENS, _CLOSES = 2, 3


@dataclass(frozen=True, slots=True)
class Overlong:
    """An element that was skipped because it has too many characters."""

    name: str
    """The value of its first key if that is `name`, as with all that LINSTOR lists; else empty."""


class _Skip:
    """Finds the end of an object that is not parsed: where all its brackets are closed.

    Keeps nothing of its text but the name. Brackets within strings do not count.
    """

    def __init__(self, text: str, start: int) -> None:
        named = _NAME.match(text, start)
        self.found = Overlong(named[1] if named else "")
        self.length = 0
        """How many of its characters were examined."""
        self._depth = 0
        self._in_string = self._escaped = False

    def end(self, text: str, start: int) -> int | None:
        """Return where it ends in the text that arrived next; None if it does not end there."""
        end = self._end(text, start)
        self.length += (len(text) if end is None else end) - start
        return end

    def _end(self, text: str, at: int) -> int | None:
        if self._in_string and at < len(text):
            rest = _STRING_REST.match(text, at + self._escaped)
            at = len(text) if rest is None else rest.end()
            self._escaped = at == len(text) - 1 and text[at] == "\\"
            if self._escaped or at >= len(text):
                return None
            self._in_string, at = False, at + 1
        for token in _TOKEN.finditer(text, at):
            kind = token.lastindex
            if kind == _OPENS:
                self._depth += 1
            elif kind == _CLOSES:
                self._depth -= 1
                if not self._depth:
                    return token.end()
            elif kind is None:
                # A string without its end, maybe cut between a backslash and what it escapes.
                self._in_string, self._escaped = True, token.end() < len(text)
        return None


Element = Mapping[str, Any] | Overlong


class Objects:
    """Takes the bytes of an array as they arrive and yields its elements, which must be objects.

    Raises Unreachable for anything else. For an element of more than `longest` characters it yields
    Overlong; only its brackets are checked.
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
        self._skip: _Skip | None = None
        """The element that is being skipped."""

    def feed(self, piece: bytes, *, last: bool = False) -> Iterator[Element]:
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

    def _whole(self) -> Iterator[Element]:
        text, at = self._rest, 0
        while True:
            if self._skip is not None:
                end = self._skip.end(text, at)
                if end is None:
                    at = len(text)
                    break
                yield self._skipped(self._skip)
                at = end
            if (found := self._before.match(text, at)) is None:
                break
            at = found.end()
            if self._before is _SPACE:
                break
            if self._before is _OPEN:
                self._before = _FIRST
            elif found[1] == "]":
                self._before = _SPACE
            else:
                element, end = self._element(text, at)
                if element is None:
                    # If it is to be skipped, that begins with the next piece: this took its time.
                    self._before = _HERE
                    break
                self._before, at = _NEXT_ELEMENT, end
                yield element
        self._rest = text[at:]
        if len(self._rest) > self._longest and self._skip is None:
            raise self._none()
        # An element that arrives in many pieces must not be parsed again for each of them.
        self._wants = min(2 * len(self._rest), self._longest + 1)

    def _element(self, text: str, start: int) -> tuple[Element | None, int]:
        """Return the element that starts here, and where it ends; none if it is not complete. If it
        is too long already, begin to skip it.
        """
        try:
            element, end = self._scan(text, start)
            if end - start <= self._longest and text.find("\\u", start, end) != -1:
                element = _encodable(element)
        except json.JSONDecodeError:
            if len(text) - start > self._longest and text[start] == "{":
                self._skip = _Skip(text, start)
            return None, start
        except (RecursionError, ValueError):
            # Nested too deeply, or an integer with more digits than Python accepts.
            raise self._none() from None
        if not isinstance(element, dict):
            raise self._none()
        if end - start > self._longest:
            return _Skip(text, start).found, end
        return element, end

    def _skipped(self, skip: _Skip) -> Overlong:
        if skip.length <= self._longest:
            # It was short enough to be parsed, so it is not valid.
            raise self._none()
        self._skip, self._before = None, _NEXT_ELEMENT
        return skip.found

    def _none(self) -> Unreachable:
        return Unreachable(f"{self._what} did not return a list of objects ({self._rest[:60]!r})")


async def objects_in(
    response: aiohttp.ClientResponse, what: str, *, limit: int, most: int
) -> AsyncGenerator[Element, None]:
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


def _encodable(tree: Any) -> Any:
    """Replace surrogates without a partner, which no encoding has and only an escape can name."""
    return json.loads(json.dumps(tree, ensure_ascii=False).encode(errors="replace"))


def _none_such(constant: str) -> None:
    """Reject NaN and Infinity, which Python's decoder accepts."""
    raise ValueError(constant)
