"""A soak run from its beginning to its end."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.report import Report
from benchmarks.soak import soaked
from benchmarks.soak.acts import Scene
from benchmarks.soak.calm import Calm, Watcher
from benchmarks.soak.findings import Findings, read_metrics
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.losses import Losses
from benchmarks.soak.player import Player
from benchmarks.soak.reclaimer import Reclaimer
from tests.fakes.linstor_server import Timing
from tests.real_parts.build import ensure_built
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters
from tests.testbed.proxy import Proxy, Record, kubernetes_terms, linstor_terms
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

NODES, VOLUMES, AT_ONCE = 8, 150, 20
BUSY = 120.0
LEAST_CYCLES = 3
"""However short the run: growth is told by the last of them against the first."""
CALM_TAKES = 60.0
"""About, of which most is waiting on purpose."""

FLAGS = ("--reconcile-rate=30s", "--new-volume-grace=10s")
"""All else is default, the grace for new volumes as well; tests otherwise set it to nothing."""

UNFORESEEN = ("Traceback", "unexpected error", "CRITICAL")


async def measure_soak(
    minutes: float, seed: int, directory: Path, *, volumes: int = VOLUMES
) -> list[Report]:
    """Play for so long on a real Kubernetes, and tell whether the service stood it.

    What was played and what was found wrong is in `acts.log` in the directory, the service's own
    words in `service.log`.
    """
    binaries = await asyncio.to_thread(ensure_built)
    async with (
        RealCluster(binaries=binaries, directory=directory) as parts,
        clusters.real(parts) as cluster,
        Testbed.of(cluster, timing=Timing.real()) as testbed,
        _scene(testbed) as scene,
    ):
        await _populate(scene, seed, volumes)
        tasks = directory / "tasks.json"
        service = Service(
            kubeconfig=scene.kubernetes.write_kubeconfig(
                directory / "proxy.kubeconfig", token=cluster.token
            ),
            linstor=scene.linstor.url,
            log=directory / "service.log",
            flags=FLAGS,
            env={soaked.VARIABLE: str(tasks)},
            program=(sys.executable, "-m", soaked.__name__),
            secrets=testbed.secrets,
        )
        player = Player(scene, seed, directory / "acts.log", minutes * 60)
        reclaimer = Reclaimer(scene.ledger)
        losses = Losses(scene, player, parts.logs / "kube-controller-manager.log")
        async with running(service), _beside(reclaimer.run()), _beside(losses.run()):
            watcher = Watcher(scene, service, tasks, player)
            calms = await _cycles(player, watcher, minutes * 60, seed)
            _, told = await service.ask("/metrics")
            code = await service.stop()
        player.close()
    said = service.said()
    return Findings(
        title=f"Soak of {minutes:g} min, seed {seed}, {volumes} volumes on {NODES} nodes",
        calms=calms,
        played=player.played,
        metrics=read_metrics(told),
        lost=losses.found,
        retained=reclaimer.retained,
        unforeseen=sum(said.count(word) for word in UNFORESEEN),
        exit_code=code,
    ).reports()


@asynccontextmanager
async def _scene(testbed: Testbed) -> AsyncIterator[Scene]:
    record, cluster = Record(), testbed.cluster
    async with (
        Proxy(cluster.url, kubernetes_terms, record=record, tls=cluster.tls) as kubernetes,
        Proxy(testbed.linstor.url, linstor_terms, record=record) as linstor,
    ):
        yield Scene(ledger=Ledger(testbed), kubernetes=kubernetes, linstor=linstor)


async def _populate(scene: Scene, seed: int, volumes: int) -> None:
    """The volumes that are there before anything happens, most of them with two replicas."""
    ledger, testbed = scene.ledger, scene.ledger.testbed
    await testbed.prepare(nodes=NODES)
    chance = random.Random(f"{seed}/volumes")  # noqa: S311, nothing secret
    nodes = [node.name for node in testbed.world.nodes.values()]
    limit = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with limit:
            name, on = ledger.new_name(), chance.sample(nodes, chance.choice((1, 2, 2, 2, 2)))
            testbed.place(name, on)
            await ledger.make(name, on, chance)

    async with asyncio.TaskGroup() as group:
        for _ in range(volumes):
            group.create_task(one())
    for name in ledger.owned:
        await testbed.until_bound(name, within=300.0)


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Have it done meanwhile; its failure fails the run."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()


async def _cycles(player: Player, watcher: Watcher, whole: float, seed: int) -> list[Calm]:
    """Storm and calm in turns; the first calm is before the first storm, the last is the end."""
    chance = random.Random(f"{seed}/probes")  # noqa: S311, nothing secret
    busy = min(BUSY, max(20.0, whole / LEAST_CYCLES - CALM_TAKES))
    calms = [await watcher.calm(chance)]
    over = time.monotonic() + whole
    while len(calms) <= LEAST_CYCLES or time.monotonic() < over:
        await player.play(busy)
        calms.append(await watcher.calm(chance))
        _progress(calms[-1])
    return calms


def _progress(calm: Calm) -> None:
    print(
        f"minute {calm.minute:.1f}: right after {calm.right_after:.1f} s, "
        f"{len(calm.wrong)} wrong, {calm.late} late, {calm.size.rss:.1f} MiB, "
        f"{calm.tasks} tasks, {calm.size.sockets} sockets",
        file=sys.stderr,
        flush=True,
    )
