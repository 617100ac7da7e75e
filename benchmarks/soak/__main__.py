"""Half an hour of chaos and steady phases around the service, which must neither fail nor grow.

`make soak` prints tables; ARGS="--minutes=5 --seed=7 --json=FILE" and so on. What was run is
determined by the seed, and recorded in the directory. Exit code 1: a goal was not met.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.machine import circumstances
from benchmarks.report import show, write
from benchmarks.soak.run import measure_soak
from tests.real_parts.build import BuildError


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--volumes", type=int, default=150)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--directory", type=Path, help="where logs go; a new one by default")
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="linstor-affinity-soak-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"logs are in {directory}", file=sys.stderr)
    reports = await measure_soak(given.minutes, given.seed, directory, volumes=given.volumes)
    show(reports, Console() if sys.stdout.isatty() else Console(width=120))
    if given.json:
        write(reports, circumstances(), given.json)
    return 0 if all(goal.met for report in reports for goal in report.goals) else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except BuildError as error:
        sys.exit(f"error: {error}")
