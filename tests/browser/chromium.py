"""Chromium without a window, driven over its DevTools protocol."""

import asyncio
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

Json = dict[str, Any]

QUIET = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
"""It is to talk to nobody but the page under test."""

_LISTENS = re.compile(r"DevTools listening on ws://([^/]+)/")


def find() -> str | None:
    """The browser's program, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Json]] = {}
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []
        """What the browser wrote to its console, such as a broken security policy."""

    async def listen(self) -> None:
        async for message in self._socket:
            reported = json.loads(message.data)
            if "id" in reported:
                self._pending.pop(reported["id"]).set_result(reported)
            elif reported["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif reported["method"] == "Log.entryAdded":
                self.complaints.append(reported["params"]["entry"]["text"])

    async def ask(self, method: str, **parameters: Any) -> Json:
        number = next(self._numbers)
        response = self._pending[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        reported = await response
        if "error" in reported:
            raise AssertionError(f"{method}: {reported['error']}")
        result: Json = reported["result"]
        return result

    async def open(self, url: str) -> None:
        self._loaded.clear()
        await self.ask("Page.navigate", url=url)
        await self._loaded.wait()

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        response = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in response:
            raise AssertionError(f"{script}: {response['exceptionDetails']}")
        return response["result"].get("value")

    async def press(self, key: str, *, loads: bool = False) -> None:
        """Press a key such as Tab or Enter; `loads` waits for the page that follows."""
        self._loaded.clear()
        codes = {"Tab": 9, "Enter": 13}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **(text if kind == "keyDown" else {}),
            )
        if loads:
            await self._loaded.wait()

    async def write(self, text: str) -> None:
        await self.ask("Input.insertText", text=text)

    async def prefer(self, scheme: str) -> None:
        """Have the page think that its reader wants `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.ask("Emulation.setEmulatedMedia", features=[feature])

    async def heard(self) -> list[tuple[str, str]]:
        """Role and name of all that a screen reader would read."""
        tree = await self.ask("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if not node["ignored"]
        ]


@asynccontextmanager
async def page(program: str) -> AsyncIterator[Page]:
    """A tab in a browser of its own, gone with its profile afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # As root it refuses to run in its own sandbox.
        alone = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await asyncio.create_subprocess_exec(
            program,
            *QUIET,
            *alone,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with _tab(await _address(browser)) as found:
                yield found
        finally:
            if browser.returncode is None:
                browser.kill()
            await browser.communicate()


async def _address(browser: asyncio.subprocess.Process) -> str:
    """Where it listens, which it says once it does."""
    if browser.stderr is None:
        raise AssertionError("asked for above")
    async for line in browser.stderr:
        if found := _LISTENS.search(line.decode(errors="replace")):
            return found.group(1)
    raise AssertionError("the browser ended before it listened")


@asynccontextmanager
async def _tab(address: str) -> AsyncIterator[Page]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/json/list") as response:
            [tab] = [each for each in await response.json() if each["type"] == "page"]
        async with (
            session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=2**26) as socket,
            asyncio.TaskGroup() as group,
        ):
            found = Page(socket)
            listening = group.create_task(found.listen(), name="devtools")
            for domain in ("Page", "Runtime", "Log", "Accessibility"):
                await found.ask(f"{domain}.enable")
            try:
                yield found
            finally:
                listening.cancel()
