"""Starts the service in milliseconds: one process imports everything, and forks for each start.

What runs is the command as ever, in a process of its own, with its own environment and log; only
the half second of imports is spared. Tests start the service a thousand times.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

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
        # Its end may not be reported yet.
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)


class WarmStarts:
    """Use it as `with WarmStarts() as starts`, in event loops that come one after another."""

    def __init__(self) -> None:
        self._jobs = count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun: dict[int, asyncio.Future[Forked]] = {}
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._half = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.testbed.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._orders, self._status = self._pipes()
        os.set_blocking(self._status, False)
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            # With the end of its input it ends, and all that it started.
            pass

    def _pipes(self) -> tuple[int, int]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("made with pipes")
        return self._process.stdin.fileno(), self._process.stdout.fileno()

    async def start(self, args: Sequence[str], env: Mapping[str, str], log: Path) -> Forked:
        """Run the command with these arguments; its words go to the end of the log."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # What an earlier loop waited for, it waits for no more.
            self._loop = loop
            self._begun, self._exits = {}, {}
            loop.add_reader(self._status, self._read)
        number = next(self._jobs)
        job = {"number": number, "args": list(args), "env": dict(env), "log": str(log)}
        begun: asyncio.Future[Forked] = loop.create_future()
        self._begun[number] = begun
        os.write(self._orders, json.dumps(job).encode() + b"\n")
        return await begun

    def _read(self) -> None:
        *lines, self._half = (self._half + os.read(self._status, 65536)).split(b"\n")
        for line in lines:
            what, number, pid = line.decode().split()
            if what == "began" and int(number) in self._begun:
                # It may have ended before who started it hears that it began.
                ended = self._exits[int(pid)] = asyncio.get_running_loop().create_future()
                self._begun.pop(int(number)).set_result(Forked(int(pid), ended))
            elif what == "ended" and int(pid) in self._exits:
                self._exits.pop(int(pid)).set_result(int(number))


_running: set[int] = set()


def _report_exits(*_: object) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _running.discard(pid)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)} {pid}\n".encode())


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
    signal.signal(signal.SIGCHLD, _report_exits)
    for line in sys.stdin:
        job = json.loads(line)
        # Nobody hears that it has ended before they heard that it began.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid:
            _running.add(pid)
            os.write(1, f"began {job['number']} {pid}\n".encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        if not pid:
            _become(job)
            return
    for pid in tuple(_running):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
