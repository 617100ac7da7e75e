"""One program that runs beside the tests, known by its process id."""

import asyncio
import itertools
import random
import shutil
import socket
import subprocess
from collections import deque
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


FIRST_PORT, LAST_PORT = 15_000, 32_000
"""Below those that Linux gives to outgoing connections, which would take one at any moment."""

_HOW_MANY = LAST_PORT - FIRST_PORT

# Each process begins elsewhere, since several may look for one at the same time.
_steps = itertools.count(random.SystemRandom().randrange(_HOW_MANY))

# Sockets that only hold a port. Older ones are closed: their programs listen by then, or are gone.
_reserved: deque[socket.socket] = deque(maxlen=256)


def free_port() -> int:
    """A loopback port that nobody listens on, and that no other call gives away meanwhile.

    Minutes may pass until the program that it is meant for listens there, and other processes
    look for ports too: a bound socket keeps it from them. The program can listen beside it if it
    sets SO_REUSEADDR, as asyncio and Go do.
    """
    for step in itertools.islice(_steps, _HOW_MANY):
        port = FIRST_PORT + step % _HOW_MANY
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            continue
        # Only after the bind: before, it would let this socket join another's port.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if len(_reserved) == _reserved.maxlen:
            _reserved.popleft().close()
        _reserved.append(holder)
        return port
    raise OSError("no free port is left")


def _tied_to_us() -> list[str]:
    """A prefix that makes the kernel end the program when the test run itself is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
