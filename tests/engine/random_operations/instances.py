"""Instances that can be killed at any call, and the gate between them and the fake cluster."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName
from linstor_affinity_events.model.placement import Placement
from linstor_affinity_events.model.volume import Volume
from tests.engine.setup import Setup, setup_on
from tests.fakes.kube_server import FakeCluster
from tests.fakes.linstor import FakeLinstor
from tests.fakes.volumes import VOLUMES, FakeJournal, FakeVolumes

Json = dict[str, Any]
T = TypeVar("T")

NETWORK = 0.001
"""The latency of a request, and of its response."""


class FaultInjector(Protocol):
    """Injects faults into calls; raises the error that the caller sees."""

    async def before(self, instance: "Instance", call: "Call") -> None: ...

    async def after(self, instance: "Instance", call: "Call") -> None: ...


class Call:
    """One call on its way to the cluster."""

    def __init__(
        self, verb: str, work: Callable[[], Awaitable[Any]], *, writes: bool, asked_by: int
    ) -> None:
        self.verb, self.work, self.writes = verb, work, writes
        self.asked_by = asked_by
        """The number of the instance."""
        self.open, self.late, self.stalled = True, False, False
        self.landed = self.responded = False

    @property
    def under_way(self) -> bool:
        """Whether it may still take effect, although its caller may have timed out."""
        return self.open or self.late


class CallProxy:
    """All calls of one instance go through this; once it is dead, none does."""

    def __init__(self, instance: "Instance", faults: FaultInjector) -> None:
        self._instance, self._faults = instance, faults

    async def read(self, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._through(self._call(verb, work, writes=False), work)

    async def write(self, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        return await self._through(self._call(verb, work, writes=True), work)

    def _call(self, verb: str, work: Callable[[], Awaitable[Any]], *, writes: bool) -> Call:
        return Call(verb, work, writes=writes, asked_by=self._instance.number)

    async def _through(self, call: Call, work: Callable[[], Awaitable[T]]) -> T:
        try:
            await self._travel()
            await self._faults.before(self._instance, call)
            self._only_alive()
            response = await work()
            call.open, call.landed = False, True
            await self._faults.after(self._instance, call)
            await self._travel()
        finally:
            call.open, call.responded = False, True
        return response

    async def _travel(self) -> None:
        self._only_alive()
        await asyncio.sleep(NETWORK)
        self._only_alive()

    def _only_alive(self) -> None:
        # After a SIGKILL nothing is written any more, by no `finally` either.
        if not self._instance.alive:
            raise asyncio.CancelledError


class GatedVolumes(FakeVolumes):
    def __init__(
        self, cluster: FakeCluster, on_change: Callable[[Volume], None], *, lag: float
    ) -> None:
        super().__init__(cluster)
        self.index = VolumeIndex(on_change)
        self.proxy: CallProxy
        self._lag = lag

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """As in the base class, but events arrive `lag` seconds late."""
        clock = asyncio.get_running_loop().time
        delayed: asyncio.Queue[tuple[float, str, Json]] = asyncio.Queue()

        async def listen() -> None:
            async for change in changes:
                delayed.put_nowait((clock() + self._lag, change.kind, change.object))

        async def deliver() -> None:
            while True:
                due, kind, manifest = await delayed.get()
                await asyncio.sleep(max(0.0, due - clock()))
                (self.index.gone if kind == "DELETED" else self.index.changed)(manifest)

        with self.cluster.subscribe(VOLUMES) as changes:
            for store, plural in ((self.index, VOLUMES), (self.index.classes, "storageclasses")):
                store.begin_list()
                for manifest in self.cluster.objects(plural):
                    store.listed(manifest)
                store.end_list()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(listen()), group.create_task(deliver())]
                try:
                    yield
                finally:
                    for task in tasks:
                        task.cancel()

    async def read(self, name: PvName) -> Manifest | None:
        return await self.proxy.read("read", lambda: super(GatedVolumes, self).read(name))

    async def read_claim(self, claim: ClaimName) -> Manifest | None:
        return await self.proxy.read("claim", lambda: super(GatedVolumes, self).read_claim(claim))

    async def patch(self, name: PvName, patch: Patch) -> Manifest:
        return await self.proxy.write("patch", lambda: super(GatedVolumes, self).patch(name, patch))

    async def delete(self, manifest: Manifest) -> Manifest | None:
        return await self.proxy.write("delete", lambda: super(GatedVolumes, self).delete(manifest))

    async def remove(self, manifest: Manifest) -> None:
        return await self.proxy.write("remove", lambda: super(GatedVolumes, self).remove(manifest))

    async def create(self, manifest: Manifest) -> Manifest:
        return await self.proxy.write("create", lambda: super(GatedVolumes, self).create(manifest))

    async def dry_run(self, pv: Manifest, mark: Patch, wanted: Manifest) -> Manifest:
        return await self.proxy.read(
            "dry_run", lambda: super(GatedVolumes, self).dry_run(pv, mark, wanted)
        )


class GatedJournal(FakeJournal):
    """One instance's client of the journal that all share."""

    def __init__(self, shared: FakeJournal) -> None:
        super().__init__()
        self._shared = shared
        self.entries = shared.entries
        self.proxy: CallProxy

    async def all(self) -> Listed:
        return await self.proxy.read("list", self._shared.all)

    async def read(self, name: PvName) -> JournalEntry | None:
        return await self.proxy.read("read entry", lambda: self._shared.read(name))

    async def create(self, entry: JournalEntry) -> JournalEntry:
        return await self.proxy.write("create entry", lambda: self._shared.create(entry))

    async def save(self, entry: JournalEntry) -> JournalEntry:
        return await self.proxy.write("save", lambda: self._shared.save(entry))

    async def drop(self, entry: JournalEntry) -> None:
        return await self.proxy.write("drop", lambda: self._shared.drop(entry))


class GatedLinstor(FakeLinstor):
    """One instance's client of the LINSTOR that all share."""

    def __init__(self, shared: FakeLinstor) -> None:
        super().__init__()
        self.node_labels, self.known = shared.node_labels, shared.known
        self.placed = shared.placed
        self.proxy: CallProxy

    async def placement(self, resource: ResourceName) -> Placement | None:
        return await self.proxy.read(
            "placement", lambda: super(GatedLinstor, self).placement(resource)
        )


class Instance:
    """One process of the service: workers and the full reconcile, until it is killed."""

    def __init__(
        self,
        number: int,
        faults: FaultInjector,
        cluster: FakeCluster,
        linstor: FakeLinstor,
        journal: FakeJournal,
        *,
        lag: float,
    ) -> None:
        self.number, self.alive = number, True
        volumes = GatedVolumes(cluster, self._heard, lag=lag)
        entries, asked = GatedJournal(journal), GatedLinstor(linstor)
        volumes.proxy = entries.proxy = asked.proxy = CallProxy(self, faults)
        self.setup: Setup = setup_on(
            cluster, asked, journal=entries, volumes=volumes, holder=f"instance-{number}"
        )
        # Each of them leads all the time, as without an election.
        self.setup.leadership.exclusive = False
        self._task = asyncio.create_task(self._live(), name=f"instance-{number}")

    def _heard(self, volume: Volume) -> None:
        if volume.key is not None:
            self.setup.queue.add(volume.key.resource)

    async def _live(self) -> None:
        async with self.setup.at_work(workers=2):
            self.setup.full_reconciler.request("start")
            await self.setup.full_reconciler.run()

    def kill(self) -> None:
        self.alive = False
        self._task.cancel()

    async def ended(self) -> None:
        """Wait for its end; raises its error if it was not killed."""
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error

    @property
    def failures(self) -> int:
        """The number of unexpected errors."""
        return self.setup.telemetry.counted["failed NoneType"]
