"""How long the service takes from its start until it is ready and knows every drift."""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from benchmarks.command import run
from benchmarks.large_cluster import LargeCluster, at_each
from benchmarks.programs import SERVICE, Program
from benchmarks.report import Goal, Report, Row
from benchmarks.resource_usage import ResourceUsage
from benchmarks.waits import Ended, until_full_reconciles
from tests.testbed.service import Service

GOALS_AT = 10_000
TIMEOUT = 180.0
READ_EVERY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start; seconds from the start of the program, imports included."""

    ready: float
    completed: float
    """Until the first full reconcile was over, and so every drift known."""
    usage: ResourceUsage
    """When that was so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """All starts at one size."""

    volumes: int
    starts: Sequence[Start]

    @property
    def ready(self) -> float:
        return statistics.median(each.ready for each in self.starts)

    @property
    def peak(self) -> float:
        return max(each.usage.peak for each in self.starts)

    def row(self) -> Row:
        return {
            "volumes": self.volumes,
            "starts": len(self.starts),
            "ready s": self.ready,
            "slowest s": max(each.ready for each in self.starts),
            "first full reconcile done s": statistics.median(
                each.completed for each in self.starts
            ),
            "CPU s": statistics.median(each.usage.cpu for each in self.starts),
            "RSS MiB": statistics.median(each.usage.rss for each in self.starts),
            "peak RSS MiB": self.peak,
        }


async def started(
    testbed: LargeCluster, times: int, logs: Path, *, program: Program = SERVICE
) -> Starts:
    """Start it again and again; each leaves the lease to the next."""
    size = len(testbed.names)
    starts = [await _start(testbed, logs / f"start-{size}-{n}.log", program) for n in range(times)]
    return Starts(volumes=size, starts=starts)


async def _start(testbed: LargeCluster, log: Path, program: Program) -> Start:
    service = Service(
        kubeconfig=testbed.cluster.kubeconfig, linstor=testbed.linstor.url, log=log, program=program
    )
    begun = time.monotonic()
    try:
        await service.start()
        ready = await _until_ready(service)
        completed = await until_full_reconciles(service, 1, every=READ_EVERY)
        usage = ResourceUsage.of(service.pid)
        await service.stop()
    finally:
        await service.kill()
    return Start(ready=ready - begun, completed=completed - begun, usage=usage)


async def _until_ready(service: Service) -> float:
    """Returns when it was, by the monotonic clock; asks on one connection, to disturb little."""
    url = f"http://127.0.0.1:{service.port}/readyz"
    last = time.monotonic() + TIMEOUT
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < last and service.runs:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return time.monotonic()
            except aiohttp.ClientError:
                pass  # It is not listening yet.
            await asyncio.sleep(READ_EVERY)
    raise Ended(f"the service did not get ready: {service.said()[-2000:]}")


def reports(found: Sequence[Starts]) -> list[Report]:
    goals = []
    for each in found:
        if each.volumes == GOALS_AT:
            at = f"at {GOALS_AT:,} volumes"
            goals += [
                Goal(what=f"ready {at}", found=each.ready, most=4, unit=" s"),
                Goal(what=f"peak RSS until then {at}", found=each.peak, most=128, unit=" MiB"),
            ]
    rows = [each.row() for each in found]
    title = "From the start of the program (medians)"
    return [Report(name="start", title=title, rows=rows, goals=goals)]


async def measure_start(
    sizes: Sequence[int], times: int, directory: Path, *, program: Program = SERVICE
) -> list[Report]:
    """Each size in turn, on one cluster that grows."""
    start = partial(started, times=times, logs=directory, program=program)
    return reports(await at_each(sizes, directory, start))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="starts at each size")
    return run(
        parser,
        lambda given, logs: measure_start(given.sizes, given.times, logs, program=given.program),
    )


if __name__ == "__main__":
    sys.exit(main())
