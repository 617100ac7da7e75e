"""One program that runs beside the tests, known by its process id."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path


class Daemon:
    """Starts, kills and starts again; its output goes to one log file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        self._command = [*_tied_to_us(), *command]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The end of the log, for the message of an error."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        """End it at once, without a goodbye: nothing it holds outlives the test run."""
        if self._process is None:
            return
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._process = None


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tied_to_us() -> list[str]:
    """A prefix that makes the kernel end the program when the test run itself is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
