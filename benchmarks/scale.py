"""All measurements that need thousands of volumes, on one cluster that is filled only once."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import flood, full_reconcile, idle, start
from benchmarks.command import run
from benchmarks.large_cluster import large_cluster
from benchmarks.programs import SERVICE, Program
from benchmarks.report import Report, Row


async def measure_scale(
    sizes: Sequence[int],
    directory: Path,
    *,
    seconds: float = 60.0,
    starts: int = 3,
    full_reconciles: int = 3,
    flood_sizes: Sequence[int] = (1_000, 10_000),
    program: Program = SERVICE,
) -> list[Report]:
    """Grow from size to size, and measure everything at each. `seconds` is how long to rest; a
    flood of two events for each volume within a second comes at `flood_sizes` only.
    """
    filled: list[Row] = []
    rests, begun, completed = [], [], []
    floods: list[flood.Flood] = []
    async with large_cluster(directory) as testbed:
        for size in sizes:
            filled.append({"volumes": size, "seconds": await testbed.grow(size)})
            begun.append(await start.started(testbed, starts, directory, program=program))
            rests.append(await idle.at_rest(testbed, seconds, directory, program=program))
            completed.append(
                await full_reconcile.completed(
                    testbed, full_reconciles, directory, env={}, program=program
                )
            )
            if size in flood_sizes:
                floods += await flood.both_at(testbed, 2, 1.0, directory, program=program)
    return [
        Report(name="filling", title="Filling the cluster", rows=filled),
        *idle.reports(rests),
        *start.reports(begun),
        *full_reconcile.reports(completed),
        *(flood.reports(floods) if floods else ()),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="at rest")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--full-reconciles", type=int, default=3, help="of each kind")

    async def measure(given: argparse.Namespace, logs: Path) -> list[Report]:
        return await measure_scale(
            given.sizes,
            logs,
            seconds=60 * given.minutes,
            starts=given.starts,
            full_reconciles=given.full_reconciles,
            program=given.program,
        )

    return run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
