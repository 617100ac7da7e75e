"""What the service costs its peers and the machine while nothing happens."""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.command import run
from benchmarks.large_cluster import LargeCluster, at_each
from benchmarks.programs import SERVICE, Program
from benchmarks.report import Goal, Report, Row
from benchmarks.request_counts import RequestCounts
from benchmarks.resource_usage import ResourceUsage, forget_peak
from benchmarks.waits import until_full_reconciles
from tests.testbed.service import Service, running

SETTLING = 5.0
"""Seconds after the first full reconciles in which the start has its last effects."""

GOALS_AT = 10_000

MOST_LINSTOR, MOST_KUBERNETES = 16.0, 10.0
"""Requests a minute. Of those to LINSTOR twelve are the poll's, served from its memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """One size."""

    volumes: int
    minutes: float
    linstor: Counter[str]
    """Requests by kind."""
    kubernetes: Counter[str]
    linstor_bytes: int
    """Bodies of responses, as they went over the wire."""
    kubernetes_bytes: int
    """Bodies both ways."""
    before: ResourceUsage
    after: ResourceUsage

    @property
    def cpu(self) -> float:
        """Seconds per minute."""
        return (self.after.cpu - self.before.cpu) / self.minutes

    def row(self) -> Row:
        return {
            "volumes": self.volumes,
            "LINSTOR requests/min": self.linstor.total() / self.minutes,
            "Kubernetes requests/min": self.kubernetes.total() / self.minutes,
            "LINSTOR KiB/min": self.linstor_bytes / self.minutes / 1024,
            "Kubernetes KiB/min": self.kubernetes_bytes / self.minutes / 1024,
            "CPU s/min": self.cpu,
            "RSS MiB": self.after.rss,
            "peak RSS MiB": self.after.peak,
            "threads": self.after.threads,
            "sockets": self.after.sockets,
        }


async def at_rest(
    testbed: LargeCluster,
    seconds: float,
    logs: Path,
    *,
    full_reconciles: int = 2,
    program: Program = SERVICE,
) -> Idle:
    """Run the service with its usual flags and leave it in peace, after so many full reconciles:
    its memory is stable after the second one, its requests after the first.
    """
    size = len(testbed.names)
    async with RequestCounts(testbed.real) as counts:
        service = Service(
            kubeconfig=counts.write_kubeconfig(logs / "counted.kubeconfig"),
            linstor=testbed.linstor.url,
            log=logs / f"idle-{size}.log",
            program=program,
        )
        async with running(service):
            await until_full_reconciles(service, full_reconciles)
            await asyncio.sleep(SETTLING)
            pid = service.pid
            forget_peak(pid)
            before, begun = ResourceUsage.of(pid), time.monotonic()
            asked = (testbed.world.requests.copy(), counts.requests.copy())
            sent = (testbed.world.bytes_sent.total(), _bytes(counts))
            await asyncio.sleep(seconds)
            found = Idle(
                volumes=size,
                minutes=(time.monotonic() - begun) / 60,
                linstor=testbed.world.requests - asked[0],
                kubernetes=counts.requests - asked[1],
                linstor_bytes=testbed.world.bytes_sent.total() - sent[0],
                kubernetes_bytes=_bytes(counts) - sent[1],
                before=before,
                after=ResourceUsage.of(pid),
            )
            await service.stop()
    return found


def _bytes(counts: RequestCounts) -> int:
    return counts.bytes_sent.total() + counts.bytes_taken.total()


def reports(found: Sequence[Idle]) -> list[Report]:
    """The table, and what the requests were."""
    kinds: list[Row] = [
        {
            "volumes": each.volumes,
            "peer": peer,
            "request": kind,
            "per minute": number / each.minutes,
        }
        for each in found
        for peer, asked in (("LINSTOR", each.linstor), ("Kubernetes", each.kubernetes))
        for kind, number in sorted(asked.items())
    ]
    return [
        Report(
            name="idle",
            title=f"At rest, over {found[0].minutes:.1f} minutes",
            rows=[each.row() for each in found],
            goals=[*_at_size(found), *_growth(found)],
        ),
        Report(name="idle-requests", title="Requests at rest", rows=kinds),
    ]


def _at_size(found: Sequence[Idle]) -> list[Goal]:
    goals = []
    for each in found:
        if each.volumes == GOALS_AT:
            at = f"at {GOALS_AT:,} volumes"
            goals += [
                Goal(
                    what=f"requests to {peer} {at}",
                    found=asked.total() / each.minutes,
                    most=most,
                    unit="/min",
                )
                for peer, asked, most in (
                    ("LINSTOR", each.linstor, MOST_LINSTOR),
                    ("Kubernetes", each.kubernetes, MOST_KUBERNETES),
                )
            ]
            goals += [
                Goal(what=f"CPU {at}", found=each.cpu, most=1, unit=" s/min"),
                Goal(what=f"RSS {at}", found=each.after.rss, most=128, unit=" MiB"),
            ]
    return goals


def _growth(found: Sequence[Idle]) -> list[Goal]:
    """What each volume adds, from the size that goals are set for on."""
    goals = []
    for less, more in pairwise(each for each in found if each.volumes >= GOALS_AT):
        grown = 1024 * (more.after.rss - less.after.rss) / (more.volumes - less.volumes)
        what = f"RSS per volume from {less.volumes:,} to {more.volumes:,}"
        goals.append(Goal(what=what, found=grown, most=1.5, unit=" KiB"))
    return goals


async def measure_idle(
    sizes: Sequence[int], seconds: float, directory: Path, *, program: Program = SERVICE
) -> list[Report]:
    """Each size in turn, on one cluster that grows."""
    rest = partial(at_rest, seconds=seconds, logs=directory, program=program)
    return reports(await at_each(sizes, directory, rest))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    return run(
        parser,
        lambda given, logs: measure_idle(
            given.sizes, 60 * given.minutes, logs, program=given.program
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
