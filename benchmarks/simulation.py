"""A cluster far larger than fits on one machine, on a clock that jumps: the whole engine on ports
in memory, with the delays of real peers.

It counts requests and tells how long changes wait. It can't tell CPU or memory: the clock stands
still while something computes, and the peers are in the same process.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import run
from benchmarks.figures import percentile
from benchmarks.report import Report
from linstor_affinity_events.engine.tuning import Tuning
from linstor_affinity_events.model.names import PvName, ResourceName
from tests.engine.setup import Setup, setup_on
from tests.fakes.clock import run_virtually
from tests.fakes.kube_server import Binder, FakeCluster
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

KUBERNETES = 0.004
"""Seconds that a request to Kubernetes takes, as measured with etcd on the same machine."""

LINSTOR = 0.004
BULK_PER_RESOURCE = 0.0002
"""How much longer a bulk read of LINSTOR takes for each resource, as measured with the simulated
one at 10,000 resources.
"""

WORKERS = 14
"""As with --workers=10, and some that only read."""

NEVER = 1e9

VOLUME_REQUESTS = ("read", "read_claim", "patch", "delete", "remove", "create", "set_bound")
"""A dry run, three requests at a time, is not counted."""


@dataclass(kw_only=True)
class Hour:
    """What was counted."""

    volumes: int
    moves: int
    requests: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    most_waiting: int = 0
    lost: int = 0


def filled(volumes: int, nodes: int, chance: random.Random) -> tuple[FakeCluster, FakeLinstor]:
    """A cluster with bound volumes in sync: each on two of the nodes."""
    cluster = FakeCluster()
    for name, parameters in manifests.CLASSES.items():
        cluster.create("storageclasses", manifests.storage_class(name, parameters))
    linstor = FakeLinstor(*(f"n{number}" for number in range(nodes)))
    for number in range(volumes):
        name = f"pvc-{number}"
        on = [f"n{node}" for node in chance.sample(range(nodes), 2)]
        linstor.place(name, *on)
        bound = manifests.claim(f"claim-{name}")
        bound["spec"]["volumeName"] = name
        bound["metadata"]["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
        claim = cluster.create("persistentvolumeclaims", bound, namespace="default")
        status = {"status": {"phase": "Bound"}}
        cluster.patch(
            "persistentvolumeclaims", claim["metadata"]["name"], status, namespace="default"
        )
        affinity = manifests.on_nodes(on)
        cluster.create(
            "persistentvolumes", manifests.volume(name, claim=claim, node_affinity=affinity)
        )
        cluster.patch("persistentvolumes", name, status)
    return cluster, linstor


def slowed(setup: Setup, volumes: int, counted: Counter[str]) -> None:
    """Let each request take its time, and count it."""
    for port, took, names in (
        (setup.volumes, KUBERNETES, VOLUME_REQUESTS),
        (setup.journal, KUBERNETES, ("read", "create", "save", "drop", "all")),
        (setup.linstor, LINSTOR, ("definition", "placement", "nodes", "poll")),
        (setup.linstor, BULK_PER_RESOURCE * volumes, ("definitions", "placements")),
    ):
        for name in names:
            kind = "LINSTOR" if port is setup.linstor else "Kubernetes"
            setattr(port, name, _counting(port, name, kind, took, counted))


def _counting(
    port: Any, name: str, kind: str, took: float, counted: Counter[str]
) -> Callable[..., Awaitable[Any]]:
    method = getattr(port, name)

    async def ask(*args: Any) -> Any:
        counted[f"{kind} {name}"] += 1
        await asyncio.sleep(took)
        return await method(*args)

    return ask


async def one_hour(
    volumes: int, nodes: int, moves: float, seconds: float, binder_takes: float, at_once: int
) -> Hour:
    """So many moves a second, for so long."""
    chance = random.Random(1)  # noqa: S311, the same hour each time
    cluster, linstor = filled(volumes, nodes, chance)
    hour = Hour(volumes=volumes, moves=round(moves * seconds))
    async with Binder(cluster, delay=0.0, resync_every=NEVER) as binder:
        await binder.until_idle()
        binder.delay = binder_takes
        setup = setup_on(cluster, linstor, at_once=at_once, readers=Tuning().readers)
        slowed(setup, volumes, hour.requests)
        async with asyncio.TaskGroup() as group, setup.at_work(WORKERS):
            loops = [
                group.create_task(each)
                for each in (
                    setup.full_reconciler.run(),
                    setup.engine.poll.run(),
                    setup.replacer.lost_claims.run(),
                )
            ]
            setup.full_reconciler.request("start")
            async with asyncio.TaskGroup() as watchers:
                for number in range(hour.moves):
                    await asyncio.sleep(1 / moves)
                    hour.most_waiting = max(hour.most_waiting, len(setup.queue))
                    name = f"pvc-{number * 7919 % volumes}"
                    left, kept = (each.node for each in linstor.placed[ResourceName(name)].replicas)
                    there = _another(chance, nodes, {str(left), str(kept)})
                    linstor.place(name, str(kept), there)
                    setup.engine.trigger(ResourceName(name), "promotion")
                    watchers.create_task(_until_on(setup, name, {str(kept), there}, hour))
            for loop in loops:
                loop.cancel()
        hour.lost = len(binder.lost_claims)
    hour.waits.sort()
    return hour


def _another(chance: random.Random, nodes: int, than: set[str]) -> str:
    while (found := f"n{chance.randrange(nodes)}") in than:
        pass
    return found


async def _until_on(setup: Setup, name: str, nodes: set[str], hour: Hour) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()
    with setup.volumes.follow(PvName(name)) as watch:
        while watch.latest is None or manifests.nodes_of(dict(watch.latest)) != nodes:
            await watch.event()
    hour.waits.append(clock() - begun)


def report(hour: Hour, seconds: float) -> Report:
    minutes = seconds / 60
    asked = {
        peer: sum(n for key, n in hour.requests.items() if key.startswith(peer)) / minutes
        for peer in ("LINSTOR", "Kubernetes")
    }
    row = {
        "volumes": hour.volumes,
        "moves": hour.moves,
        "wait p50, s": percentile(hour.waits, 0.5),
        "p99": percentile(hour.waits, 0.99),
        "max": hour.waits[-1],
        "queue at most": hour.most_waiting,
        "LINSTOR / min": asked["LINSTOR"],
        "Kubernetes / min": asked["Kubernetes"],
        "Lost": hour.lost,
    }
    return Report(name="simulation", title="Simulated: moves without pause", rows=[row])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--moves", type=float, default=10.0, help="a second")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--binder-takes", type=float, default=0.002, help="seconds for a request")
    parser.add_argument("--at-once", type=int, default=10, help="as --workers of the service")

    async def measure(given: argparse.Namespace, _: Path) -> list[Report]:
        def simulate() -> list[Report]:
            return [
                report(
                    run_virtually(
                        one_hour(
                            size,
                            given.nodes,
                            given.moves,
                            given.seconds,
                            given.binder_takes,
                            given.at_once,
                        )
                    ),
                    given.seconds,
                )
                for size in given.sizes
            ]

        return await asyncio.to_thread(simulate)

    return run(parser, measure)


if __name__ == "__main__":
    sys.exit(main())
