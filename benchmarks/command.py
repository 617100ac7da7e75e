"""One measurement as a command of its own: flags, a place for logs, tables."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks.machine import circumstances
from benchmarks.programs import SERVICE, WITHOUT_UVLOOP
from benchmarks.report import Report, show, write

Measure = Callable[[argparse.Namespace, Path], Awaitable[list[Report]]]


def sizes(text: str) -> tuple[int, ...]:
    """Numbers of volumes, with commas between them; the cluster only grows."""
    return tuple(sorted(int(part) for part in text.split(",")))


def add_loop(parser: argparse.ArgumentParser) -> None:
    """Let the user choose the loop that the service runs on."""
    parser.add_argument(
        "--without-uvloop",
        dest="program",
        action="store_const",
        const=WITHOUT_UVLOOP,
        default=SERVICE,
        help="run the service on asyncio's own loop",
    )


def run(parser: argparse.ArgumentParser, measure: Measure) -> int:
    """Measure, and print what was found; returns the exit code."""
    parser.add_argument("--sizes", type=sizes, default=(1000,), help="volumes, e.g. 1000,10000")
    parser.add_argument("--logs", type=Path, help="keep the logs in this directory")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    add_loop(parser)
    given = parser.parse_args()
    with ExitStack() as stack:
        if given.logs is None:
            scratch = tempfile.TemporaryDirectory(prefix="linstor-affinity-bench-")
            directory = Path(stack.enter_context(scratch))
        else:
            directory = given.logs
            directory.mkdir(parents=True, exist_ok=True)

        async def begin() -> list[Report]:
            return await measure(given, directory)

        found = asyncio.run(begin())
    show(found, Console() if sys.stdout.isatty() else Console(width=160))
    if given.json:
        write(found, circumstances(), given.json)
    return 0
