"""From event to PersistentVolume, one move after another, alternating with the baseline."""

import argparse
import sys
from pathlib import Path

from benchmarks.command import run
from benchmarks.comparison import Comparison, client_named, report_named
from benchmarks.figures import percentile
from benchmarks.programs import SERVICE, Program
from benchmarks.report import Goal, Report, Row
from tests.fakes.linstor_server import Timing

VOLUMES = 25
"""On each side; they go to and fro."""

ABSENT = ("away p50", "away max")
"""For how long there was no volume, in the watch."""

MOST_P50, MOST_P50_MINIMAL, MOST_P99 = 1.25, 1.2, 2.0


async def measure_latency(
    moves: int,
    directory: Path,
    *,
    binder_limit: int | None = 500,
    timing: Timing | None = None,
    program: Program = SERVICE,
    minimal: bool = False,
) -> list[Report]:
    """Move volumes one at a time, each on the service's side and then on the baseline's."""
    volumes = [f"{number:03}" for number in range(VOLUMES)]
    waits: dict[str, list[float]] = {}
    absent: dict[str, list[float]] = {}
    async with Comparison.real(
        directory, binder_limit=binder_limit, timing=timing, minimal=minimal
    ) as comparison:
        for side in comparison.sides:
            await side.add({f"{side.name}-{name}": ["n1"] for name in volumes})
        async with comparison.service.at_work(program=program), comparison.baseline.at_work():
            for number in range(moves):
                name = volumes[number % VOLUMES]
                there, here = ("n1", "n2") if number // VOLUMES % 2 else ("n2", "n1")
                # Who comes second may find caches warm, or the binder busy.
                for side in comparison.sides if number % 2 else reversed(comparison.sides):
                    took = await side.move(f"{side.name}-{name}", here, there)
                    waits.setdefault(side.name, []).append(1000 * took)
        for side in comparison.sides:
            absent[side.name] = [1000 * gap for gap in side.absences()]
        lost = comparison.service.lost()
    shown = "its default" if binder_limit is None else f"{binder_limit}/s"
    beside = client_named(minimal=minimal)
    names = [side.name for side in comparison.sides]
    rows: list[Row] = [_row(name, waits[name], absent[name]) for name in names]
    service, baseline = rows
    ratios = {
        key: float(service[key] or 0) / float(baseline[key] or 1)
        for key in ("p50", "p90", "p99", "max")
    }
    none = dict.fromkeys(ABSENT)
    rows.append({"who": "service / baseline", "moves": None, **ratios, **none})
    most = MOST_P50_MINIMAL if minimal else MOST_P50
    goals = [
        Goal(what=f"p50 beside {beside}", found=ratios["p50"], most=most, unit=" x"),
        Goal(what=f"p99 beside {beside}", found=ratios["p99"], most=MOST_P99, unit=" x"),
        Goal(what="claims seen Lost", found=lost, most=0),
    ]
    limit = f"the binder's request limit {shown}"
    title = f"Latency: from LINSTOR's event to the volume, ms; {limit}; beside {beside}"
    name = report_named("latency", binder_limit, minimal=minimal)
    return [Report(name=name, title=title, rows=rows, goals=goals)]


def _row(name: str, found: list[float], absent: list[float]) -> Row:
    ordered = sorted(found)
    return {
        "who": name,
        "moves": len(ordered),
        "p50": percentile(ordered, 0.5),
        "p90": percentile(ordered, 0.9),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1],
        ABSENT[0]: percentile(absent, 0.5),
        ABSENT[1]: absent[-1],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--moves", type=int, default=100)
    parser.add_argument("--binder-limit", type=int, help="requests/s; its default without")
    parser.add_argument("--minimal", action="store_true", help="beside the minimal client")

    async def measure(given: argparse.Namespace, logs: Path) -> list[Report]:
        return await measure_latency(
            given.moves,
            logs,
            binder_limit=given.binder_limit,
            program=given.program,
            minimal=given.minimal,
        )

    return run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
