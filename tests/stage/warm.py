"""Starts the service in milliseconds: one process imports everything, and forks for each start.

What runs is the command as ever, in a process of its own, with its own environment and log; only
the half second of imports is spared. Tests that start the service hundreds of times need that.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from linstor_affinity_events.cli import main


class Forked:
    """One running service; it has what Service uses of asyncio's Process."""

    def __init__(self, pid: int, ended: "asyncio.Future[int]") -> None:
        self.pid = pid
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)


class WarmStarts:
    """Use it as `async with WarmStarts.ready() as starts`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._endings: dict[int, asyncio.Future[int]] = {}
        self._begun: asyncio.Queue[int] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def ready(cls) -> AsyncIterator["WarmStarts"]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.stage.warm"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        starts = cls(process)
        reader = asyncio.create_task(starts._read(), name="warm starts")
        try:
            yield starts
        finally:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
            await reader

    async def start(self, args: Sequence[str], env: Mapping[str, str], log: Path) -> Forked:
        """Run the command with these arguments; its words go to the end of the log."""
        job = {"args": list(args), "env": dict(env), "log": str(log)}
        if self._process.stdin is None:
            raise AssertionError("made with a pipe")
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        pid = await self._begun.get()
        return Forked(pid, self._ending(pid))

    async def _read(self) -> None:
        if self._process.stdout is None:
            raise AssertionError("made with a pipe")
        async for line in self._process.stdout:
            what, pid, *code = line.decode().split()
            if what == "began":
                self._begun.put_nowait(int(pid))
            else:
                self._ending(int(pid)).set_result(int(code[0]))

    def _ending(self, pid: int) -> "asyncio.Future[int]":
        # A process may end before it is known that it began.
        return self._endings.setdefault(pid, asyncio.get_running_loop().create_future())


_running: set[int] = set()


def _tell_of_ended(*_: object) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _running.discard(pid)
        os.write(1, f"ended {pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def _become(job: dict[str, Any]) -> None:
    """Be the service from here on; the command leaves by SystemExit."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    os.environ.clear()
    os.environ.update(job["env"])
    main(args=job["args"], prog_name="linstor-affinity-events")


def serve() -> None:
    """Fork for each line of input; with its end everything ends."""
    signal.signal(signal.SIGCHLD, _tell_of_ended)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(job)
            return
        _running.add(pid)
        os.write(1, f"began {pid}\n".encode())
    for pid in tuple(_running):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
