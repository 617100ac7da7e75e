"""A flood of events that mean nothing: satellites came back, and no replica moved, or just one."""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.command import run
from benchmarks.large_cluster import NODES, LargeCluster, at_each
from benchmarks.programs import SERVICE, Program
from benchmarks.report import Goal, Report, Row
from benchmarks.request_counts import RequestCounts
from benchmarks.resource_usage import ResourceUsage, forget_peak
from benchmarks.waits import Ended, until_full_reconciles
from tests.fakes.linstor_server.event_log import PROMOTION
from tests.testbed import manifests
from tests.testbed.service import Service, running

SETTLING = 5.0
QUIET = 4.0
"""Seconds without a request after which it is over: more than the pause before a recheck."""

TIMEOUT = 600.0
READ_EVERY = 0.2
REPORT_EVERY = 0.01
RARE = "--reconcile-rate=1h"
"""Full reconciles would be taken for something that the flood led to."""

GOALS_AT = 10_000

READ = 2
"""Requests to LINSTOR that one look costs."""

OF_THE_LEASE = "leases.coordination.k8s.io"
"""Leader election continues through a flood, and is not caused by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Seconds from the first event on."""

    volumes: int
    events: int
    reported: float
    """Until LINSTOR had sent all of it."""
    heard: float
    """Until the service had taken all of it in."""
    quiet: float
    """Until the last request that followed."""
    changed: float | None
    """From a move of one replica, in the midst of it all, until its volume was right; None where
    nothing moved."""
    slowest: float
    """The longest that the service let a reader of its status wait."""
    linstor: Counter[str]
    kubernetes: Counter[str]
    before: ResourceUsage
    after: ResourceUsage
    fake_cpu: float
    """What it cost the fake LINSTOR and whoever measures: where that is nearly all the time,
    the service was not what made it long."""

    def row(self) -> Row:
        return {
            "volumes": self.volumes,
            "events": self.events,
            "sent in s": self.reported,
            "heard after s": self.heard,
            "quiet after s": self.quiet,
            "move seen through in s": self.changed,
            "LINSTOR requests": self.linstor.total(),
            "Kubernetes requests": self.kubernetes.total(),
            "CPU s": self.after.cpu - self.before.cpu,
            "CPU s of the fake": self.fake_cpu,
            "RSS before MiB": self.before.rss,
            "peak RSS MiB": self.after.peak,
            "RSS after MiB": self.after.rss,
            "slowest /status s": self.slowest,
        }


async def flooded(
    testbed: LargeCluster,
    events: int,
    rate: float,
    logs: Path,
    *,
    with_move: bool = False,
    program: Program = SERVICE,
) -> Flood:
    """Send so many events, spread over all volumes, and see it through to the end. `with_move` lets
    one replica move in the midst of it.
    """
    size = len(testbed.names)
    async with RequestCounts(testbed.real) as counts:
        service = Service(
            kubeconfig=counts.write_kubeconfig(logs / "counted.kubeconfig"),
            linstor=testbed.linstor.url,
            log=logs / f"flood-{size}.log",
            flags=(RARE,),
            program=program,
        )
        async with running(service):
            await until_full_reconciles(service, 1)
            await asyncio.sleep(SETTLING)
            found = await _flood(testbed, counts, service, events, rate, with_move=with_move)
            await service.stop()
    return found


async def _flood(
    testbed: LargeCluster,
    counts: RequestCounts,
    service: Service,
    events: int,
    rate: float,
    *,
    with_move: bool,
) -> Flood:
    forget_peak(service.pid)
    before, fake = ResourceUsage.of(service.pid), time.process_time()
    asked = testbed.world.requests.copy(), counts.requests.copy()
    known = (await _read(service))[0]
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        reporter = group.create_task(_emit(testbed, events, rate), name="flood")
        mover = None
        if with_move:
            mover = group.create_task(_move(testbed, events / rate / 2), name="mover")
        heard, quiet, slowest = await _until_quiet(testbed, counts, service, known + events)
    return Flood(
        volumes=len(testbed.names),
        events=events,
        reported=reporter.result() - begun,
        heard=heard - begun,
        quiet=quiet - begun,
        changed=None if mover is None else mover.result(),
        slowest=slowest,
        linstor=testbed.world.requests - asked[0],
        kubernetes=counts.requests - asked[1],
        before=before,
        after=ResourceUsage.of(service.pid),
        fake_cpu=time.process_time() - fake,
    )


async def _emit(testbed: LargeCluster, events: int, rate: float) -> float:
    """Send events at this rate, each volume's replicas one after the other; returns when it was
    done.
    """
    payloads = _payloads(testbed, events)
    begun, reported = time.monotonic(), 0
    while reported < events:
        due = min(events, int((time.monotonic() - begun) * rate) + 1)
        batch = payloads[reported:due]
        testbed.world.event_log.emit(PROMOTION, [("may-promote-change", each) for each in batch])
        reported = due
        await asyncio.sleep(REPORT_EVERY)
    return time.monotonic()


async def _move(testbed: LargeCluster, after: float) -> float:
    """Move one replica in a while; returns the seconds until its volume says so."""
    await asyncio.sleep(after)
    name = testbed.names[-1]
    replicas = testbed.world.definition(name).replicas.values()
    taken = {replica.node.name for replica in replicas}
    old, *others = (replica.node.name for replica in replicas if replica.diskful)
    new = next(node for node in NODES if node not in taken)
    begun = time.monotonic()
    testbed.world.move(name, old, new)
    while time.monotonic() < begun + TIMEOUT:
        found = await testbed.cluster.find(f"/api/v1/persistentvolumes/{name}")
        if found is not None and manifests.nodes_of(found) == {new, *others}:
            return time.monotonic() - begun
        await asyncio.sleep(READ_EVERY / 10)
    raise Ended(f"{name} never got right")


def _payloads(testbed: LargeCluster, events: int) -> list[dict[str, object]]:
    of_all: list[dict[str, object]] = [
        {
            "resource_name": name,
            "node_name": replica.node.name,
            "may_promote": replica.may_promote,
        }
        for name in testbed.names
        for replica in testbed.world.definition(name).replicas.values()
        if replica.diskful
    ]
    return [of_all[number % len(of_all)] for number in range(events)]


async def _until_quiet(
    testbed: LargeCluster, counts: RequestCounts, service: Service, events: int
) -> tuple[float, float, float]:
    """When all events were received and when the last request came, and the slowest response."""
    heard, slowest, observed = float("inf"), 0.0, -1
    last = begun = time.monotonic()
    while time.monotonic() < begun + TIMEOUT:
        requests = time.monotonic()
        known, busy = await _read(service)
        now = time.monotonic()
        slowest = max(slowest, now - requests)
        if known >= events:
            heard = min(heard, now)
        asked = testbed.world.requests.total() + counts.requests.total() - _of_the_lease(counts)
        if asked != observed:
            observed, last = asked, now
        elif heard < now and not busy and now - last > QUIET:
            return heard, last, slowest
        await asyncio.sleep(READ_EVERY)
    raise Ended(f"still not quiet: {service.said()[-2000:]}")


async def _read(service: Service) -> tuple[int, int]:
    """How many events were received, and how many resources wait or are reconciled."""
    tree = json.loads((await service.ask("/status"))[1])
    queue = tree["queue"]
    return sum(each["events"] for each in tree["streams"]), queue["waiting"] + queue["processing"]


def _of_the_lease(counts: RequestCounts) -> int:
    return sum(number for kind, number in counts.requests.items() if kind.endswith(OF_THE_LEASE))


def reports(found: Sequence[Flood]) -> list[Report]:
    kinds: list[Row] = [
        {
            "volumes": each.volumes,
            "moves": 0 if each.changed is None else 1,
            "peer": peer,
            "request": kind,
            "requests": number,
        }
        for each in found
        for peer, asked in (("LINSTOR", each.linstor), ("Kubernetes", each.kubernetes))
        for kind, number in sorted(asked.items())
    ]
    title = "A flood of events after which nothing is to be changed"
    goals = [
        Goal(
            what=f"requests to LINSTOR beside a reconcile for each of {each.volumes:,} volumes",
            found=each.linstor.total() / (READ * each.volumes),
            most=1,
            unit=" x",
        )
        for each in found
        if each.changed is None and each.volumes >= GOALS_AT
    ]
    return [
        Report(name="flood", title=title, rows=[each.row() for each in found], goals=goals),
        Report(name="flood-requests", title="Requests that a flood led to", rows=kinds),
    ]


async def both_at(
    testbed: LargeCluster,
    per_volume: int,
    seconds: float,
    logs: Path,
    *,
    program: Program = SERVICE,
) -> list[Flood]:
    """A flood in which nothing moves, and one with a move."""
    events = per_volume * len(testbed.names)
    return [
        await flooded(testbed, events, events / seconds, logs, with_move=moves, program=program)
        for moves in (False, True)
    ]


async def measure_flood(
    sizes: Sequence[int],
    per_volume: int,
    seconds: float,
    directory: Path,
    *,
    program: Program = SERVICE,
) -> list[Report]:
    """So many events for each volume within so many seconds, at each size in turn."""
    both = partial(both_at, per_volume=per_volume, seconds=seconds, logs=directory, program=program)
    return reports([flood for pair in await at_each(sizes, directory, both) for flood in pair])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--per-volume", type=int, default=2, help="events for each volume")
    parser.add_argument("--seconds", type=float, default=1.0, help="time to tell them all in")

    async def measure(given: argparse.Namespace, logs: Path) -> list[Report]:
        return await measure_flood(
            given.sizes, given.per_volume, given.seconds, logs, program=given.program
        )

    return run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
