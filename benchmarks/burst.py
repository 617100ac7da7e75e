"""A node with many volumes is evacuated at once, while a single volume elsewhere goes to and fro.

Every other volume has a second replica, so that its present affinity still admits a node with data:
the rest is more urgent.
"""

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from benchmarks.command import run
from benchmarks.comparison import Comparison, Side, client_named, report_named
from benchmarks.figures import percentile
from benchmarks.programs import SERVICE, Program
from benchmarks.report import Goal, Report, Row
from tests.fakes.linstor_server import Timing

WORKERS = 10
SECOND = "n3"
LONE_HERE, LONE_THERE = "n5", "n6"
LONES = 100
"""How many volumes alternate as the single one: none may be changed over and over."""

LONE_ALONE = 20
"""Moves of the single volume before anything else moves."""
LONE_EVERY = 0.5
TIMEOUT = 1200.0

LEAST_RATE = 0.8
MOST_STARVED = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """One evacuation on one side. Times in seconds."""

    who: str
    volumes: int
    last: float
    last_urgent: float
    overtaken: int
    """Volumes that could have waited and were right before the last urgent one was."""
    lone_alone: list[float]
    lone_amidst: list[float]
    lost: int

    @property
    def rate(self) -> float:
        return self.volumes / self.last


async def measure_burst(
    sizes: Sequence[int],
    directory: Path,
    *,
    binder_limit: int | None = 500,
    timing: Timing | None = None,
    program: Program = SERVICE,
    minimal: bool = False,
    alone: bool = False,
    sidecars: bool = False,
) -> list[Report]:
    """Evacuate on the service's side, then on the baseline's unless `alone`, at each size."""
    found: list[tuple[Burst, Burst | None]] = []
    async with Comparison.real(
        directory,
        binder_limit=binder_limit,
        timing=timing,
        minimal=minimal,
        sidecars=sidecars,
    ) as comparison:
        here, there, known = "n1", "n2", 0
        sides = (comparison.service,) if alone else comparison.sides
        for side in sides:
            await side.add({name: [LONE_HERE] for name in _lones(side)})
        for size in sizes:
            for side in sides:
                numbers = range(known, size)
                await side.add({_name(side, n): _nodes(n, here) for n in numbers})
            known = size
            gc.collect()
            gc.freeze()
            bursts = []
            for side in sides:
                async with side.at_work(program=program):
                    bursts.append(await _evacuate(side, size, here, there))
            found.append((bursts[0], None if alone else bursts[1]))
            here, there = there, here
    gc.unfreeze()
    return [_report(found, binder_limit, minimal=minimal, sidecars=sidecars)]


def _name(side: Side, number: int) -> str:
    return f"{side.name}-{number:05}"


def _nodes(number: int, node: str) -> list[str]:
    return sorted((node, SECOND)) if number % 2 else [node]


async def _evacuate(side: Side, size: int, here: str, there: str) -> Burst:
    lone = _Lone(side)
    for _ in range(LONE_ALONE):
        # A volume that is sent back at once would be seen half-way.
        await asyncio.sleep(LONE_EVERY)
        await lone.move()
    alone, lone.took = lone.took, []
    lost = side.lost()
    begun = time.monotonic()
    side.testbed.world.evacuate(here, target=there)
    restless = asyncio.create_task(lone.keep_moving(), name="lone volume")
    at = {}
    for number in range(size):
        name, nodes = _name(side, number), _nodes(number, there)
        at[number] = await side.testbed.until_on(name, *nodes, within=TIMEOUT) - begun
    await lone.rest(restless)
    side.testbed.world.restore(here)
    last_urgent = max(moment for number, moment in at.items() if not number % 2)
    return Burst(
        who=side.name,
        volumes=size,
        last=max(at.values()),
        last_urgent=last_urgent,
        overtaken=sum(moment < last_urgent for number, moment in at.items() if number % 2),
        lone_alone=sorted(alone),
        lone_amidst=sorted(lone.took),
        lost=side.lost() - lost,
    )


def _lones(side: Side) -> list[str]:
    return [f"{side.name}-lone-{number:03}" for number in range(LONES)]


class _Lone:
    """Single volumes that have nothing to do with the evacuation, one after the other."""

    def __init__(self, side: Side) -> None:
        self._side, self._names = side, cycle(_lones(side))
        self.took: list[float] = []

    async def move(self) -> None:
        name = next(self._names)
        found = self._side.testbed.observer.volumes[name]["spec"]["nodeAffinity"]
        here, there = LONE_HERE, LONE_THERE
        if LONE_THERE in str(found):
            here, there = there, here
        self.took.append(await self._side.move(name, here, there, within=TIMEOUT))

    async def keep_moving(self) -> None:
        while True:
            # Not in the very moment of the evacuation: it would be one of many.
            await asyncio.sleep(LONE_EVERY)
            await self.move()

    async def rest(self, moving: asyncio.Task[None]) -> None:
        """Let the move that is under way end."""
        before = len(self.took)
        while len(self.took) == before and not moving.done():
            await asyncio.wait([moving], timeout=0.01)
        moving.cancel()
        with suppress(asyncio.CancelledError):
            await moving


def _report(
    found: Sequence[tuple[Burst, Burst | None]],
    binder_limit: int | None,
    *,
    minimal: bool,
    sidecars: bool,
) -> Report:
    rows: list[Row] = []
    goals = []
    beside = client_named(minimal=minimal)
    for service, baseline in found:
        ratio = None if baseline is None else service.rate / baseline.rate
        rows.append(_row(service, ratio))
        if baseline is not None:
            rows.append(_row(baseline, None))
        at = f"at {service.volumes:,} volumes"
        if binder_limit is not None and ratio is not None:
            goals.append(
                Goal(what=f"rate beside {beside} {at}", found=ratio, least=LEAST_RATE, unit=" x")
            )
        starved = percentile(service.lone_amidst, 0.99) / percentile(service.lone_alone, 0.5)
        what = f"p99 of a single move in the burst beside its p50 at rest {at}"
        goals.append(Goal(what=what, found=starved, most=MOST_STARVED, unit=" x"))
        what = f"volumes that overtook a more urgent one {at}"
        goals.append(Goal(what=what, found=service.overtaken, most=2 * WORKERS))
        goals.append(Goal(what=f"claims seen Lost {at}", found=service.lost, most=0))
    shown = "its default" if binder_limit is None else f"{binder_limit}/s"
    title = f"Burst: a node is evacuated; the binder's request limit {shown}; beside {beside}"
    title += ", with the CSI sidecars" * sidecars
    name = report_named("burst", binder_limit, minimal=minimal, sidecars=sidecars)
    return Report(name=name, title=title, rows=rows, goals=goals)


def _row(burst: Burst, ratio: float | None) -> Row:
    return {
        "volumes": burst.volumes,
        "who": burst.who,
        "volumes/s": burst.rate,
        "x baseline": ratio,
        "last, s": burst.last,
        "last urgent, s": burst.last_urgent,
        "overtaken": burst.overtaken,
        "lone p50 at rest, ms": 1000 * percentile(burst.lone_alone, 0.5),
        "lone p50, ms": 1000 * percentile(burst.lone_amidst, 0.5),
        "lone p99, ms": 1000 * percentile(burst.lone_amidst, 0.99),
        "lone moves": len(burst.lone_amidst),
        "Lost": burst.lost,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.burst", description=__doc__)
    parser.add_argument("--binder-limit", type=int, help="requests/s; its default without")
    parser.add_argument("--minimal", action="store_true", help="beside the minimal client")
    parser.add_argument(
        "--sidecars",
        action="store_true",
        help="the service only, with linstor-csi, csi-provisioner, csi-attacher and csi-resizer at "
        "work, which the baseline was not made for",
    )
    parser.add_argument("--alone", action="store_true", help="the service only, beside no other")

    async def measure(given: argparse.Namespace, logs: Path) -> list[Report]:
        return await measure_burst(
            given.sizes,
            logs,
            binder_limit=given.binder_limit,
            program=given.program,
            minimal=given.minimal,
            sidecars=given.sidecars,
            alone=given.alone or given.sidecars,
        )

    return run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
