"""The figures that linstor-affinity-controller was measured with, of this service, in one table.

The other column was measured once, with the real program, and is not measured here: that takes an
hour. See docs/performance.md.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import run
from benchmarks.comparison import NODES, SERVICE, Side
from benchmarks.figures import percentile
from benchmarks.idle import Idle, at_rest
from benchmarks.large_cluster import LargeCluster
from benchmarks.linstor_timing import REALISTIC
from benchmarks.programs import SERVICE as SERVICE_PROGRAM
from benchmarks.programs import Program
from benchmarks.report import Goal, Report, Row
from demo.pods import Scheduled, prepare, schedule
from tests.fakes.linstor_server import Timing
from tests.real_parts.build import ensure_built
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters
from tests.testbed.scheduling import Pods, with_pods
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

BINDER_LIMIT = 5_000
SINGLE, BURST, OTHERS = 20, 80, 140
"""Volumes that move one by one, at once, and not at all."""

FIELDS: Json = {
    "metadata": {"labels": {"team": "storage"}, "annotations": {"example.com/note": "keep"}},
    "spec": {"mountOptions": ["noatime"]},
}
"""What is set on every volume, and must be on it afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Times in seconds; lists in order."""

    single: list[float]
    single_lost: int
    absent: list[float]
    """In single moves."""
    burst: float
    burst_lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one run."""

    idle: Idle
    moves: Moves
    changed: int
    """Volumes of those that moved that lack anything they had before, apart from the affinity."""
    scheduled: list[Scheduled]
    pods_lost: int


async def measure_side_by_side(
    directory: Path, *, timing: Timing | None = REALISTIC, program: Program = SERVICE_PROGRAM
) -> list[Report]:
    """Measure all of it on one cluster: at rest, single moves, an evacuation, Pending pods."""
    async with _cluster(directory, timing) as (parts, side, pods):
        singles = [f"{SERVICE}-single-{number:02}" for number in range(SINGLE)]
        burst = [f"{SERVICE}-burst-{number:02}" for number in range(BURST)]
        others = [f"{SERVICE}-other-{number:03}" for number in range(OTHERS)]
        names = [*singles, *burst, *others]
        await side.add(
            dict.fromkeys(singles, ("n3",))
            | dict.fromkeys(burst, ("n1",))
            | dict.fromkeys(others, ("n5",))
        )
        for name in names:
            path = f"/api/v1/persistentvolumes/{name}"
            await side.testbed.cluster.ask("PATCH", path, FIELDS)
        before = await _fields(side, names)
        idle = await at_rest(
            _as_large_cluster(parts, side, names), 60.0, directory, program=program
        )
        async with side.at_work(program=program):
            moves = await _move(side, singles, burst)
            after = await _fields(side, names)
            # Only now: the evacuation would take the volumes of the pods along.
            await prepare(side.testbed, pods)
            lost = len(side.testbed.observer.lost)
            scheduled = await schedule(side.testbed, pods)
        figures = Figures(
            idle=idle,
            moves=moves,
            changed=sum(before[name] != after[name] for name in names),
            scheduled=scheduled,
            pods_lost=len(side.testbed.observer.lost) - lost,
        )
    return [_report(figures)]


@asynccontextmanager
async def _cluster(
    directory: Path, timing: Timing | None
) -> AsyncIterator[tuple[RealCluster, Side, Pods]]:
    binaries = await asyncio.to_thread(ensure_built)
    async with (
        RealCluster(binaries=binaries, directory=directory, controller_qps=BINDER_LIMIT) as parts,
        clusters.real(parts) as cluster,
        Testbed.of(cluster, timing=timing) as testbed,
        with_pods(cluster, parts.kubeconfig, directory) as pods,
    ):
        await testbed.prepare(nodes=NODES, zones=2)
        yield parts, Side(name=SERVICE, testbed=testbed, directory=directory), pods


def _as_large_cluster(parts: RealCluster, side: Side, names: list[str]) -> LargeCluster:
    here = side.testbed
    return LargeCluster(
        cluster=here.cluster, real=parts, world=here.world, linstor=here.linstor, names=names
    )


async def _move(side: Side, singles: Sequence[str], burst: Sequence[str]) -> Moves:
    """Single moves, then the evacuation."""
    # Full reconciles at the start are not to find what moves.
    await asyncio.sleep(5.0)
    waits, lost = [], side.lost()
    for name in singles:
        waits.append(await side.move(name, "n3", "n4"))
        await asyncio.sleep(1.0)
    single_lost, lost = side.lost() - lost, side.lost()
    absent = side.absences()
    began = time.monotonic()
    side.testbed.world.evacuate("n1", target="n2")
    ends = [await side.testbed.until_on(name, "n2", within=300.0) for name in burst]
    for name in burst:
        await side.testbed.until_bound(name)
    side.testbed.world.restore("n1")
    return Moves(
        single=sorted(waits),
        single_lost=single_lost,
        absent=absent,
        burst=max(ends) - began,
        burst_lost=side.lost() - lost,
    )


async def _fields(side: Side, names: Sequence[str]) -> dict[str, Json]:
    """All that is to survive a replacement: not the affinity, nor what each object has anew."""
    found = {}
    for name in names:
        one = await side.testbed.cluster.ask("GET", f"/api/v1/persistentvolumes/{name}")
        metadata, spec = one["metadata"], dict(one["spec"])
        del spec["nodeAffinity"]
        spec["claimRef"] = {**spec["claimRef"], "resourceVersion": None}
        known = {key: metadata.get(key) for key in ("labels", "annotations", "finalizers")}
        known["finalizers"] = sorted(known["finalizers"])
        found[name] = {**known, "spec": spec}
    return found


def _report(found: Figures) -> Report:
    lost = "claims seen Lost in"
    return Report(
        name="side by side",
        title="Side by side, 240 volumes (linstor-affinity-controller as measured on 2026-11-25)",
        rows=_rows(found),
        goals=[
            Goal(what=f"{lost} 20 single moves", found=found.moves.single_lost, most=0),
            Goal(what=f"{lost} a burst of 80 volumes", found=found.moves.burst_lost, most=0),
            Goal(what=f"{lost} 3 moves for Pending pods", found=found.pods_lost, most=0),
            Goal(what="volumes that lost other fields", found=found.changed, most=0, must=True),
        ],
    )


def _rows(found: Figures) -> list[Row]:
    idle, moves = found.idle, found.moves
    pods = sorted(each.to_node for each in found.scheduled)
    linstor, kubernetes = (
        round(asked.total() / idle.minutes) for asked in (idle.linstor, idle.kubernetes)
    )
    ours: Mapping[str, tuple[str, str]] = {
        "single move, median / max, s": (
            "107 / 130",
            f"{percentile(moves.single, 0.5):.3f} / {moves.single[-1]:.3f}",
        ),
        "claims Lost in 20 single moves": ("20", f"{moves.single_lost}"),
        "volume absent, median / max, ms": (
            "2,000 / 2,000",
            f"{1000 * percentile(moves.absent, 0.5):.1f} / {1000 * moves.absent[-1]:.1f}",
        ),
        "80 volumes at once: s until all were correct; Lost": (
            "189; 80",
            f"{moves.burst:.1f}; {moves.burst_lost}",
        ),
        "volumes that lost other fields": ("100 of 100", f"{found.changed} of {SINGLE + BURST}"),
        "idle, requests/min to LINSTOR / Kubernetes": ("3 / 301", f"{linstor} / {kubernetes}"),
        "idle, CPU s/min": ("0.46", f"{idle.cpu:.2f}"),
        "RSS, MiB": ("55", f"{idle.after.rss:.0f}"),
        "pod Pending, until scheduled, s; Lost": (
            "54.7 to 75.6; 3 of 3 (real LINSTOR)",
            f"{pods[0]:.2f} to {pods[-1]:.2f}; {found.pods_lost} of {len(pods)}",
        ),
    }
    return [
        {"figure": what, "linstor-affinity-controller": controller, "this service": here}
        for what, (controller, here) in ours.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    return run(parser, lambda given, logs: measure_side_by_side(logs, program=given.program))


if __name__ == "__main__":
    sys.exit(main())
