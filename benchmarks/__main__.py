"""How fast the service is on a real kube-apiserver, beside the smallest client that could do the
job, and what it costs at rest, at its start and in a flood of events.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.command import add_loop
from benchmarks.linstor_timing import REALISTIC
from benchmarks.machine import circumstances
from benchmarks.plan import NAMES, Measurement, full, short
from benchmarks.report import Report, show, write
from tests.real_parts.build import BuildError

EPILOG = """
LINSTOR's delays (--realistic) are those of latency, burst and no-event; side-by-side always has
them, and scale uses a LINSTOR that responds at once.
"""


def names(text: str) -> frozenset[str]:
    found = frozenset(text.split(","))
    unknown = found.difference(NAMES)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not in {', '.join(NAMES)}")
    return found


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, epilog=EPILOG)
    parser.add_argument("--full", action="store_true", help="all that goals are set for; hours")
    parser.add_argument(
        "--only", type=names, default=frozenset(NAMES), help=f"some of {','.join(NAMES)}"
    )
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument(
        "--realistic",
        dest="timing",
        action="store_const",
        const=REALISTIC,
        help="let LINSTOR take 0.5 ms for an answer, 450 ms for writing a property",
    )
    add_loop(parser)
    parser.add_argument("--strict", action="store_true", help="a goal not met is a failure")
    return parser


async def measured(
    plan: Sequence[Measurement], only: Collection[str], console: Console, file: Path
) -> list[Report]:
    """Measure, show and write down one after another: what was found is there whatever follows."""
    found: list[Report] = []
    where = circumstances()
    console.print(where["machine"], highlight=False, soft_wrap=True)
    for each in plan:
        if each.name not in only:
            continue
        with tempfile.TemporaryDirectory(prefix="linstor-affinity-bench-") as scratch:
            reports = await each.measure(Path(scratch))
        show(reports, console)
        found += reports
        write(found, where, file)
    return found


def summary(found: Sequence[Report]) -> list[str]:
    goals = [goal for report in found for goal in report.goals]
    missed = [
        f"  {report.name}: {goal}" for report in found for goal in report.goals if not goal.met
    ]
    return [f"{len(goals) - len(missed)} of {len(goals)} goals met", *missed]


def exit_code(found: Sequence[Report], *, strict: bool) -> int:
    missed = [goal for report in found for goal in report.goals if not goal.met]
    return int(any(strict or goal.must for goal in missed))


async def main() -> int:
    given = flags().parse_args()
    file = given.json or Path("bench-full.json" if given.full else "bench.json")
    plan = (full if given.full else short)(given.timing, given.program)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    found = await measured(plan, given.only, console, file)
    for line in summary(found):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"all figures: {file}", highlight=False, soft_wrap=True)
    return exit_code(found, strict=given.strict)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except BuildError as error:
        sys.exit(f"error: {error}")
