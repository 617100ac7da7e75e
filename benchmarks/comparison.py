"""One cluster for two, the service and the baseline, each with a LINSTOR and volumes of its own."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks import baseline
from benchmarks.absence import absences
from benchmarks.large_cluster import bind, concurrently
from benchmarks.programs import SERVICE as SERVICE_PROGRAM
from benchmarks.programs import Program
from tests.fakes.linstor_server import LinstorServer, LinstorWorld, Timing
from tests.real_parts.build import csi_programs, ensure_built
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters, manifests
from tests.testbed.clusters import Cluster
from tests.testbed.csi import csi_parts
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

NODES = 6

Json = dict[str, Any]

SERVICE, BASELINE = "service", "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two, with what it has to keep in step."""

    name: str
    testbed: Testbed
    directory: Path
    minimal: bool = False
    """Whether it is the minimal client; only for the baseline."""

    async def add(self, volumes: Mapping[str, Iterable[str]]) -> None:
        """Make bound volumes, each with replicas on these nodes."""
        cluster = self.testbed.cluster
        await cluster.stop_binder()
        await concurrently(self._add(name, tuple(nodes)) for name, nodes in volumes.items())
        await cluster.start_binder()
        for name in volumes:
            await self.testbed.until_bound(name)

    async def _add(self, name: str, nodes: tuple[str, ...]) -> None:
        self.testbed.place(name, nodes)
        wish = manifests.claim(f"claim-{name}")
        wish["spec"]["volumeName"] = name
        driver = manifests.DRIVER if self.name == SERVICE else baseline.DRIVER
        source = {"driver": driver, "volumeHandle": name, "fsType": "ext4"}

        def volume(claim: Json) -> Json:
            affinity = manifests.on_nodes(nodes)
            return manifests.volume(name, claim=claim, node_affinity=affinity, csi=source)

        await bind(self.testbed.cluster, wish, volume)

    async def move(self, name: str, here: str, there: str, *, within: float = 60.0) -> float:
        """Move a replica; returns the seconds from LINSTOR's last event of it to the volume."""
        self.testbed.world.move(name, here, there)
        took = await self.until_moved(name, there, within=within)
        await self.testbed.until_bound(name)
        return took

    async def until_moved(self, name: str, there: str, *, within: float = 60.0) -> float:
        at = await self.testbed.until_on(name, there, within=within)
        return at - self._last_write(name, at)

    def lost(self) -> int:
        """How often a claim of this side became Lost."""
        mine = f"claim-{self.name}"
        return sum(name.startswith(mine) for _, name in self.testbed.observer.lost)

    def absences(self) -> list[float]:
        """Seconds for which there was no volume, in the middle of each replacement."""
        observer = self.testbed.observer
        names = [name for name in observer.history if name.startswith(self.name)]
        return sorted(absences(observer, names, 0.0))

    def _last_write(self, name: str, at: float) -> float:
        for event in reversed(self.testbed.world.emitted):
            if event.at <= at and event.payload.get("resource_name") == name:
                return float(event.at)
        raise AssertionError(f"LINSTOR sent no event for {name}")

    @asynccontextmanager
    async def at_work(self, *, program: Program = SERVICE_PROGRAM) -> AsyncIterator[None]:
        """Run the service, started in this way, or the baseline for the length of the block."""
        cluster, url = self.testbed.cluster, self.testbed.linstor.url
        if self.name == SERVICE:
            log = self.directory / f"service-{time.monotonic_ns()}.log"
            service = Service(kubeconfig=cluster.kubeconfig, linstor=url, log=log, program=program)
            async with running(service):
                yield
                await service.stop()
            return
        command = [sys.executable, "-m", "benchmarks.baseline", "--linstor", url]
        command += ["--minimal"] if self.minimal else []
        process = await asyncio.create_subprocess_exec(
            *command, "--kubeconfig", str(cluster.kubeconfig), stdout=asyncio.subprocess.PIPE
        )
        try:
            if process.stdout is None or not await process.stdout.readline():
                raise AssertionError("the baseline did not start")
            async with asyncio.TaskGroup() as group:
                guard = group.create_task(_failed(process), name="baseline")
                yield
                guard.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _failed(process: asyncio.subprocess.Process) -> None:
    await process.wait()
    raise AssertionError("the baseline failed; see its output above")


def client_named(*, minimal: bool) -> str:
    """What the service is compared with, in titles and goals."""
    return "the minimal client" if minimal else "the baseline"


def report_named(
    what: str, binder_limit: int | None, *, minimal: bool, sidecars: bool = False
) -> str:
    """The name of a report, different for each kind of comparison."""
    name = f"{what}, binder at {'default' if binder_limit is None else binder_limit}"
    return name + ", minimal" * minimal + ", sidecars" * sidecars


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The cluster and both sides."""

    cluster: Cluster
    service: Side
    baseline: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.service, self.baseline

    @classmethod
    @asynccontextmanager
    async def real(
        cls,
        directory: Path,
        *,
        binder_limit: int | None,
        timing: Timing | None = None,
        minimal: bool = False,
        sidecars: bool = False,
    ) -> AsyncIterator[Self]:
        """On real parts; `binder_limit` is what the binder may ask of the API server a second. With
        `sidecars`, the CSI driver of the service's volumes and its sidecars are at work, too.
        """
        binaries = await asyncio.to_thread(ensure_built)
        async with AsyncExitStack() as stack:
            one = RealCluster(binaries=binaries, directory=directory, controller_qps=binder_limit)
            await stack.enter_async_context(one)
            cluster = await stack.enter_async_context(clusters.real(one))
            comparison = await stack.enter_async_context(
                cls.of(cluster, directory, timing=timing, minimal=minimal)
            )
            if sidecars:
                linstor = comparison.service.testbed.linstor.url
                await stack.enter_async_context(
                    csi_parts(
                        await asyncio.to_thread(csi_programs),
                        one.kubeconfig,
                        linstor=linstor,
                        logs=directory,
                    )
                )
            yield comparison

    @classmethod
    @asynccontextmanager
    async def of(
        cls,
        cluster: Cluster,
        directory: Path,
        *,
        timing: Timing | None = None,
        minimal: bool = False,
    ) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(Testbed.of(cluster, timing=timing))
            await first.prepare(nodes=NODES)
            world = LinstorWorld(timing=timing)
            stack.callback(world.close)
            linstor = await stack.enter_async_context(LinstorServer(world))
            second = Testbed(cluster=cluster, world=world, linstor=linstor, observer=first.observer)
            await second.prepare(nodes=NODES)
            yield cls(
                cluster=cluster,
                service=Side(name=SERVICE, testbed=first, directory=directory),
                baseline=Side(name=BASELINE, testbed=second, directory=directory, minimal=minimal),
            )
