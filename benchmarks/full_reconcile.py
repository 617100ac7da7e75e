"""What a full reconcile costs, and for how long it keeps the event loop from everything else."""

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import run
from benchmarks.instrumented import Block, Collection, CompletedReconcile
from benchmarks.large_cluster import NODES, LargeCluster, at_each
from benchmarks.programs import SERVICE, Program, instrumented
from benchmarks.report import Goal, Report, Row
from benchmarks.waits import Ended, until_full_reconciles
from tests.testbed.service import Service, running

LONGEST_BLOCK = 0.05
PHASES = ("start", "first full reconcile", "full reconcile", "rest")


@dataclass(frozen=True, slots=True, kw_only=True)
class FullReconciles:
    """All measurements at one size."""

    volumes: int
    full_reconciles: Sequence[CompletedReconcile]
    blocks: Sequence[Block]
    collections: Sequence[Collection]

    @classmethod
    def read(cls, volumes: int, tree: Mapping[str, Any]) -> "FullReconciles":
        full_reconciles = [CompletedReconcile(**each) for each in tree["full reconciles"]]
        if full_reconciles[-1].bulk is None:
            # The end of the measurement came in the midst of it.
            del full_reconciles[-1]
        return cls(
            volumes=volumes,
            full_reconciles=full_reconciles,
            blocks=[Block(**each) for each in tree["blocks"]],
            collections=[Collection(**each) for each in tree["collections"]],
        )

    def costs(self) -> list[Row]:
        """First full reconciles warm up caches for later ones, so they are listed separately."""
        ways = (
            ("the first, in one piece", self.full_reconciles[:1]),
            ("in one piece", [each for each in self.full_reconciles[1:] if each.bulk]),
            ("one by one", [each for each in self.full_reconciles[1:] if each.bulk is False]),
            ("cut off or failed", [each for each in self.full_reconciles if each.bulk is None]),
        )
        return [
            {
                "volumes": self.volumes,
                "mode": way,
                "full reconciles": len(found),
                "wall s": statistics.median(each.wall for each in found),
                "CPU s": statistics.median(each.cpu for each in found),
            }
            for way, found in ways
            if found
        ]

    def waits(self) -> list[Row]:
        return [self._phase(phase) for phase in PHASES]

    def _phase(self, phase: str) -> Row:
        worst = max(
            (each for each in self.blocks if each.phase == phase),
            key=lambda each: each.cpu,
            default=None,
        )
        long = [each.wall for each in self.collections if each.phase == phase]
        over = [each for each in self.blocks if each.phase == phase and each.cpu > LONGEST_BLOCK]
        return {
            "volumes": self.volumes,
            "phase": phase,
            "longest ms (CPU)": 0.0 if worst is None else 1000 * worst.cpu,
            "longest ms (wall)": 0.0 if worst is None else 1000 * worst.wall,
            "over 50 ms": len(over),
            "collections over 10 ms": len(long),
            "longest collection ms": 1000 * max(long, default=0.0),
            "in": "" if worst is None else _shortened(worst.stack),
        }

    @property
    def longest(self) -> float:
        """Milliseconds of CPU."""
        return 1000 * max((each.cpu for each in self.blocks), default=0.0)


def _shortened(stack: str) -> str:
    """The innermost function, without what all of ours have in common."""
    return stack.partition(" < ")[0].removeprefix("linstor_affinity_events.")


async def completed(
    testbed: LargeCluster,
    full_reconciles: int,
    logs: Path,
    *,
    every: float = 10.0,
    env: Mapping[str, str],
    program: Program = SERVICE,
) -> FullReconciles:
    """Run full reconciles often, first with healthy satellites, then with a hung one."""
    size = len(testbed.names)
    reported = logs / f"measurements-{size}.json"
    service = Service(
        kubeconfig=testbed.cluster.kubeconfig,
        linstor=testbed.linstor.url,
        log=logs / f"full-reconcile-{size}.log",
        flags=(f"--reconcile-rate={every:g}s",),
        env={"MEASUREMENTS_FILE": str(reported), **env},
        program=instrumented(program),
    )
    async with running(service):
        await until_full_reconciles(service, 1 + full_reconciles)
        testbed.world.hung_satellites.add(NODES[-1])
        try:
            # The full reconcile that finds out, and those that know.
            await until_full_reconciles(service, 2 + 2 * full_reconciles)
        except Ended:
            print(f"{size} volumes: full reconciles one by one do not complete", file=sys.stderr)
        finally:
            testbed.world.hung_satellites.clear()
        await asyncio.sleep(2.0)
        await service.stop()
    return FullReconciles.read(size, json.loads(reported.read_text()))


def reports(found: Sequence[FullReconciles]) -> list[Report]:
    goals = [
        Goal(
            what=f"longest block of the loop at {each.volumes:,} volumes",
            found=each.longest,
            most=1000 * LONGEST_BLOCK,
            unit=" ms",
        )
        for each in found
    ]
    return [
        Report(
            name="full-reconcile",
            title="What a full reconcile costs (medians)",
            rows=[row for each in found for row in each.costs()],
        ),
        Report(
            name="loop",
            title="How long the event loop came to nothing else",
            rows=[row for each in found for row in each.waits()],
            goals=goals,
        ),
    ]


async def measure_full_reconcile(
    sizes: Sequence[int],
    full_reconciles: int,
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    program: Program = SERVICE,
) -> list[Report]:
    """Each size in turn, on one cluster that grows; `env` is for the instrumentation."""
    measure = partial(
        completed, full_reconciles=full_reconciles, logs=directory, env=env or {}, program=program
    )
    return reports(await at_each(sizes, directory, measure))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.full_reconcile", description=__doc__
    )
    parser.add_argument("--full-reconciles", type=int, default=3, help="of each kind")
    parser.add_argument("--profile", type=Path, help="profile the service into this file")
    parser.add_argument("--memory", type=Path, help="tell here what owns its memory")

    async def measure(given: argparse.Namespace, logs: Path) -> list[Report]:
        wishes = {"MEASUREMENTS_PROFILE": given.profile, "MEASUREMENTS_MEMORY": given.memory}
        env = {key: str(file) for key, file in wishes.items() if file is not None}
        return await measure_full_reconcile(
            given.sizes, given.full_reconciles, logs, env=env, program=given.program
        )

    return run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
