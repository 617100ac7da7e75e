"""One cluster for two, the service and the floor, each with a LINSTOR and volumes of its own."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks import floor
from tests.fakes.linstor_server import LinstorServer, LinstorWorld, Timing
from tests.real_parts.build import ensure_built
from tests.real_parts.cluster import RealCluster
from tests.stage import clusters, manifests
from tests.stage.clusters import Cluster
from tests.stage.service import Service, running
from tests.stage.stage import Stage

NODES = 6
AT_ONCE = 20

SERVICE, FLOOR = "service", "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two, with what it has to keep in step."""

    name: str
    stage: Stage
    directory: Path

    async def add(self, names: Iterable[str], node: str) -> None:
        """Make bound volumes with a replica on this node."""
        wanted, limit = tuple(names), asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with limit:
                self.stage.place(name, [node])
                await self.stage.bind(name, manifests.on_nodes([node]), csi=self._source(name))

        async with asyncio.TaskGroup() as group:
            for name in wanted:
                group.create_task(one(name))
        for name in wanted:
            await self.stage.until_bound(name, patience=600.0)

    def _source(self, name: str) -> dict[str, str]:
        driver = manifests.DRIVER if self.name == SERVICE else floor.DRIVER
        return {"driver": driver, "volumeHandle": name, "fsType": "ext4"}

    async def move(self, name: str, here: str, there: str) -> float:
        """Move a replica; answers the seconds from LINSTOR's last word of it to the volume."""
        self.stage.world.move(name, here, there)
        took = await self.until_moved(name, there)
        await self.stage.until_bound(name)
        return took

    async def until_moved(self, name: str, there: str, *, patience: float = 60.0) -> float:
        at = await self.stage.until_on(name, there, patience=patience)
        return at - self._last_word(name, at)

    def _last_word(self, name: str, at: float) -> float:
        for event in reversed(self.stage.world.emitted):
            if event.at <= at and event.payload.get("resource_name") == name:
                return float(event.at)
        raise AssertionError(f"LINSTOR told nothing of {name}")

    @asynccontextmanager
    async def at_work(self, *flags: str) -> AsyncIterator[None]:
        """Run the service, or the floor, for the length of the block."""
        cluster, url = self.stage.cluster, self.stage.linstor.url
        if self.name == SERVICE:
            log = self.directory / f"service-{time.monotonic_ns()}.log"
            service = Service(
                kubeconfig=cluster.kubeconfig, linstor=url, log=log, flags=tuple(flags)
            )
            async with running(service):
                yield
                await service.stop()
            return
        command = (sys.executable, "-m", "benchmarks.floor", "--linstor", url)
        process = await asyncio.create_subprocess_exec(
            *command, "--kubeconfig", str(cluster.kubeconfig), stdout=asyncio.subprocess.PIPE
        )
        try:
            if process.stdout is None or not await process.stdout.readline():
                raise AssertionError("the floor did not begin")
            yield
            if process.returncode is not None:
                raise AssertionError("the floor fell over; what it said stands above")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """The cluster and both sides."""

    cluster: Cluster
    service: Side
    floor: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.service, self.floor

    @classmethod
    @asynccontextmanager
    async def real(
        cls, directory: Path, *, binder_limit: int | None, timing: Timing | None = None
    ) -> AsyncIterator[Self]:
        """On real parts; `binder_limit` is what the binder may ask of the API server a second."""
        binaries = await asyncio.to_thread(ensure_built)
        async with (
            RealCluster(binaries=binaries, directory=directory, controller_qps=binder_limit) as one,
            clusters.real(one) as cluster,
            cls.of(cluster, directory, timing=timing) as arena,
        ):
            yield arena

    @classmethod
    @asynccontextmanager
    async def of(
        cls, cluster: Cluster, directory: Path, *, timing: Timing | None = None
    ) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(Stage.of(cluster, timing=timing))
            await first.prepare(nodes=NODES)
            world = LinstorWorld(timing=timing)
            stack.callback(world.close)
            linstor = await stack.enter_async_context(LinstorServer(world))
            second = Stage(cluster=cluster, world=world, linstor=linstor, observer=first.observer)
            await second.prepare(nodes=NODES)
            yield cls(
                cluster=cluster,
                service=Side(name=SERVICE, stage=first, directory=directory),
                floor=Side(name=FLOOR, stage=second, directory=directory),
            )
