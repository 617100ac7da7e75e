"""A soak run from its beginning to its end."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.report import Report
from benchmarks.soak import instrumented
from benchmarks.soak.actions import Context
from benchmarks.soak.findings import Findings, read_metrics
from benchmarks.soak.lost_claims import LostClaims
from benchmarks.soak.oracle import Oracle
from benchmarks.soak.reclaimer import Reclaimer
from benchmarks.soak.runner import Runner
from benchmarks.soak.steady_state import SteadyState, Watcher
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
"""However short the run: growth is measured by the last of them against the first."""
STEADY_STATE_TAKES = 60.0
"""About, of which most is waiting on purpose."""

FLAGS = ("--reconcile-rate=30s", "--new-volume-grace=10s")
"""All else is default, the grace for new volumes as well; tests otherwise set it to nothing."""

UNFORESEEN = ("Traceback", "unexpected error", "CRITICAL")


async def measure_soak(
    minutes: float, seed: int, directory: Path, *, volumes: int = VOLUMES
) -> list[Report]:
    """Run for this long on a real Kubernetes, and report whether the service survived it.

    What was run and what was found wrong is in `actions.log` in the directory, the service's own
    words in `service.log`.
    """
    binaries = await asyncio.to_thread(ensure_built)
    async with (
        RealCluster(binaries=binaries, directory=directory) as parts,
        clusters.real(parts) as cluster,
        Testbed.of(cluster, timing=Timing.real()) as testbed,
        _context(testbed) as context,
    ):
        await _populate(context, seed, volumes)
        tasks = directory / "tasks.json"
        service = Service(
            kubeconfig=context.kubernetes.write_kubeconfig(
                directory / "proxy.kubeconfig", token=cluster.token
            ),
            linstor=context.linstor.url,
            log=directory / "service.log",
            flags=FLAGS,
            env={instrumented.VARIABLE: str(tasks)},
            program=(sys.executable, "-m", instrumented.__name__),
            secrets=testbed.secrets,
        )
        runner = Runner(context, seed, directory / "actions.log", minutes * 60)
        reclaimer = Reclaimer(context.oracle)
        lost_claims = LostClaims(context, runner, parts.logs / "kube-controller-manager.log")
        async with running(service), _beside(reclaimer.run()), _beside(lost_claims.run()):
            watcher = Watcher(context, service, tasks, runner)
            steady_phases = await _cycles(runner, watcher, minutes * 60, seed)
            _, reported = await service.ask("/metrics")
            code = await service.stop()
        runner.close()
    said = service.said()
    return Findings(
        title=f"Soak of {minutes:g} min, seed {seed}, {volumes} volumes on {NODES} nodes",
        steady_phases=steady_phases,
        done=runner.done,
        metrics=read_metrics(reported),
        lost=lost_claims.found,
        retained=reclaimer.retained,
        unforeseen=sum(said.count(word) for word in UNFORESEEN),
        exit_code=code,
    ).reports()


@asynccontextmanager
async def _context(testbed: Testbed) -> AsyncIterator[Context]:
    record, cluster = Record(), testbed.cluster
    async with (
        Proxy(cluster.url, kubernetes_terms, record=record, tls=cluster.tls) as kubernetes,
        Proxy(testbed.linstor.url, linstor_terms, record=record) as linstor,
    ):
        yield Context(oracle=Oracle(testbed), kubernetes=kubernetes, linstor=linstor)


async def _populate(context: Context, seed: int, volumes: int) -> None:
    """The volumes that are there before anything happens, most of them with two replicas."""
    oracle, testbed = context.oracle, context.oracle.testbed
    await testbed.prepare(nodes=NODES)
    chance = random.Random(f"{seed}/volumes")  # noqa: S311, nothing secret
    nodes = [node.name for node in testbed.world.nodes.values()]
    limit = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with limit:
            name, on = oracle.new_name(), chance.sample(nodes, chance.choice((1, 2, 2, 2, 2)))
            testbed.place(name, on)
            await oracle.make(name, on, chance)

    async with asyncio.TaskGroup() as group:
        for _ in range(volumes):
            group.create_task(one())
    for name in oracle.owned:
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


async def _cycles(runner: Runner, watcher: Watcher, whole: float, seed: int) -> list[SteadyState]:
    """Chaos and steady phases alternate; it starts and ends with a steady phase."""
    chance = random.Random(f"{seed}/probes")  # noqa: S311, nothing secret
    busy = min(BUSY, max(20.0, whole / LEAST_CYCLES - STEADY_STATE_TAKES))
    steady_phases = [await watcher.steady_state(chance)]
    over = time.monotonic() + whole
    while len(steady_phases) <= LEAST_CYCLES or time.monotonic() < over:
        await runner.run(busy)
        steady_phases.append(await watcher.steady_state(chance))
        _progress(steady_phases[-1])
    return steady_phases


def _progress(state: SteadyState) -> None:
    print(
        f"minute {state.minute:.1f}: right after {state.right_after:.1f} s, "
        f"{len(state.wrong)} wrong, {state.late} late, {state.size.rss:.1f} MiB, "
        f"{state.tasks} tasks, {state.size.sockets} sockets",
        file=sys.stderr,
        flush=True,
    )
