"""From event to PersistentVolume, one move after another, by turns with the floor."""

import argparse
import asyncio
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.figures import percentile
from benchmarks.report import Goal, Report, Row, show
from tests.fakes.linstor_server import Timing

VOLUMES = 25
"""On each side; they go to and fro."""

MOST_P50, MOST_P99 = 1.25, 2.0


async def measure_latency(
    moves: int, directory: Path, *, binder_limit: int | None = 500, timing: Timing | None = None
) -> list[Report]:
    """Move volumes one at a time, each on the service's side and then on the floor's."""
    names = [f"{number:03}" for number in range(VOLUMES)]
    waits: dict[str, list[float]] = {}
    async with Arena.real(directory, binder_limit=binder_limit, timing=timing) as arena:
        for side in arena.sides:
            await side.add({f"{side.name}-{name}": ["n1"] for name in names})
        async with arena.service.at_work(), arena.floor.at_work():
            for number in range(moves):
                name = names[number % VOLUMES]
                there, here = ("n1", "n2") if number // VOLUMES % 2 else ("n2", "n1")
                for side in arena.sides:
                    took = await side.move(f"{side.name}-{name}", here, there)
                    waits.setdefault(side.name, []).append(1000 * took)
        lost = len(arena.service.stage.observer.lost)
    shown = "its default" if binder_limit is None else f"{binder_limit}/s"
    rows: list[Row] = [_row(name, found) for name, found in waits.items()]
    service, floor = rows
    ratios = {
        key: float(service[key] or 0) / float(floor[key] or 1)
        for key in ("p50", "p90", "p99", "max")
    }
    rows.append({"who": "service / floor", "moves": None, **ratios})
    goals = [
        Goal(what="p50 beside the floor", found=ratios["p50"], most=MOST_P50, unit=" x"),
        Goal(what="p99 beside the floor", found=ratios["p99"], most=MOST_P99, unit=" x"),
        Goal(what="claims seen Lost", found=lost, most=0),
    ]
    title = f"Latency: from LINSTOR's event to the volume, ms; the binder's request limit {shown}"
    return [Report(name="latency", title=title, rows=rows, goals=goals)]


def _row(name: str, found: list[float]) -> Row:
    ordered = sorted(found)
    return {
        "who": name,
        "moves": len(ordered),
        "p50": percentile(ordered, 0.5),
        "p90": percentile(ordered, 0.9),
        "p99": percentile(ordered, 0.99),
        "max": ordered[-1],
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="linstor-affinity-bench-") as scratch:
        show(await measure_latency(given.moves, Path(scratch)), Console())


if __name__ == "__main__":
    asyncio.run(main())
