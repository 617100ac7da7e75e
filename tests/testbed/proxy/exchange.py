"""One request on its way to the peer, its response on the way back, and what happens to both."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.testbed.proxy.actions import (
    Action,
    After,
    Before,
    CallBack,
    CutBody,
    Delay,
    Hang,
    Instead,
    Late,
    Reset,
    Respond,
)
from tests.testbed.proxy.failures import broken, cut, hang_up, silence
from tests.testbed.proxy.record import Asked

_OF_THE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length", "host")
"""Headers that are recreated for each of the two connections."""

Outlive = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]
"""Has something done to its end, whatever becomes of the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Had:
    """What the peer responded."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Runs in the server's task for the request, which ends when the sender hangs up; what has to
    go on without the sender is handed to `outlive`.
    """

    session: aiohttp.ClientSession
    peer: str
    request: web.Request
    asked: Asked
    action: Action | None
    outlive: Outlive
    is_gone: Callable[[], bool]
    """Whether the proxy sends nothing more to the sender."""

    async def whole(self) -> web.StreamResponse:
        """Have the whole response, and pass it on."""
        ended = await self._stopped()
        if ended is not None:
            return ended
        # What came in whole is on its way, even if its sender is gone meanwhile.
        had: _Had | None = await asyncio.shield(self.outlive(self._travel()))
        if self.is_gone():
            await silence()
        if had is None:
            return broken(self.request)
        match self.action:
            case After() | Reset():
                return broken(self.request)
            case Hang() | Late():
                await silence()
            case CutBody(length):
                return await self._beginning(had, length)
            case Delay(response=seconds):
                await asyncio.sleep(seconds)
            case _:
                pass
        return web.Response(status=had.status, headers=had.headers, body=had.body)

    async def stream(self) -> web.StreamResponse:
        """Pass on what comes, as it comes; what is done to a response is done to the beginning of
        it.
        """
        ended = await self._stopped()
        if ended is not None:
            return ended
        await self._wait()
        try:
            async with self._ask() as response:
                self.asked.status = response.status
                match self.action:
                    case After(call):
                        return await self._reported(call)
                    case Reset():
                        return broken(self.request)
                    case Hang() | Late():
                        await silence()
                    case Delay(response=seconds):
                        await asyncio.sleep(seconds)
                    case _:
                        pass
                return await self._poured(response)
        except (aiohttp.ClientError, ConnectionError):
            # One of the two has gone: the other is notified by the end of its connection.
            if self.is_gone():
                await silence()
            return broken(self.request)

    async def _stopped(self) -> web.StreamResponse | None:
        """The end of what never gets to the peer; None for what goes on."""
        match self.action:
            case Instead(call):
                return await self._reported(call)
            case Respond(status, body, headers):
                self.asked.status = status
                return web.Response(status=status, body=body, headers=_typed(headers))
            case Hang(forwarded=False):
                await silence()
            case Reset(forwarded=False):
                return broken(self.request)
            case Late(reset=True):
                cut(self.request)
            case _:
                pass
        return None

    async def _wait(self) -> None:
        match self.action:
            case Late(seconds=seconds) | Delay(request=seconds):
                await asyncio.sleep(seconds)
            case Before(call):
                await call(self.asked)
            case _:
                pass

    async def _travel(self) -> _Had | None:
        """Go to the peer and have its response; None where the peer is down or hangs up."""
        await self._wait()
        try:
            async with self._ask() as response:
                body = await response.read()
        except aiohttp.ClientError:
            return None
        self.asked.status = response.status
        if isinstance(self.action, After):
            await self.action.call(self.asked)
        return _Had(status=response.status, headers=_forwarded(response.headers), body=body)

    async def _reported(self, call: CallBack) -> web.Response:
        async def notify() -> None:
            await call(self.asked)

        await asyncio.shield(self.outlive(notify()))
        return broken(self.request)

    def _ask(self) -> Any:
        return self.session.request(
            self.request.method,
            # The very bytes that came: what is escaped stays escaped.
            URL(f"{self.peer}{self.request.raw_path}", encoded=True),
            headers=_forwarded(self.request.headers),
            data=self.asked.body or None,
            allow_redirects=False,
        )

    async def _beginning(self, had: _Had, length: int) -> web.StreamResponse:
        """Promise the whole body, send the first bytes of it, and hang up."""
        out = web.StreamResponse(status=had.status, headers=had.headers)
        out.content_length = len(had.body)
        await out.prepare(self.request)
        await out.write(had.body[:length])
        hang_up(self.request)
        return out

    async def _poured(self, response: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass on chunks as they come, to the end or for so many bytes."""
        out = web.StreamResponse(status=response.status, headers=_forwarded(response.headers))
        await out.prepare(self.request)
        left = self.action.length if isinstance(self.action, CutBody) else None
        async for chunk in response.content.iter_any():
            if self.is_gone():
                await silence()
            await out.write(chunk if left is None else chunk[:left])
            if left is not None:
                left -= len(chunk)
                if left <= 0:
                    hang_up(self.request)
                    return out
        if self.is_gone():
            await silence()
        await out.write_eof()
        return out


def _forwarded(headers: Mapping[str, str]) -> CIMultiDict[str]:
    found: CIMultiDict[str] = CIMultiDict(headers)
    for name in _OF_THE_CONNECTION:
        found.popall(name, None)
    return found


def _typed(headers: Mapping[str, str]) -> CIMultiDict[str]:
    found: CIMultiDict[str] = CIMultiDict(headers)
    found.setdefault("Content-Type", "application/json")
    return found
