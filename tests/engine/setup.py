"""All of the engine put together on fakes, as app.py does it on adapters."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.engine import Engine
from linstor_affinity_events.engine.full_reconcile import FullReconciler
from linstor_affinity_events.engine.keyed_queue import KeyedQueue
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.reconciler import Reconciler
from linstor_affinity_events.engine.replacer import Ended, Replacer
from linstor_affinity_events.engine.reporter import Reporter
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.engine.tuning import Tuning
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.decision import Deferred, Refusal
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import claim_of
from linstor_affinity_events.model.names import PvName, ResourceName
from tests.fakes.kube_server import Binder, FakeCluster
from tests.fakes.linstor import FakeLinstor
from tests.fakes.others import FakeLeadership, FakeNotices, FakeTelemetry
from tests.fakes.volumes import FakeJournal, FakeVolumes, Faults
from tests.testbed import manifests

Json = dict[str, Any]

PV = PvName("pvc-1")
RD = ResourceName("pvc-1")


@dataclass(slots=True, kw_only=True)
class Setup:
    """One instance of the service on a cluster that others may share."""

    cluster: FakeCluster
    linstor: FakeLinstor
    faults: Faults
    volumes: FakeVolumes
    journal: FakeJournal
    notices: FakeNotices
    telemetry: FakeTelemetry
    leadership: FakeLeadership
    engine: Engine

    @property
    def queue(self) -> KeyedQueue[ResourceName]:
        return self.engine.queue

    @property
    def cluster_view(self) -> ClusterView:
        return self.engine.cluster_view

    @property
    def reporter(self) -> Reporter:
        return self.engine.reporter

    @property
    def replacer(self) -> Replacer:
        return self.engine.replacer

    @property
    def reconciler(self) -> Reconciler:
        return self.engine.reconciler

    @property
    def full_reconciler(self) -> FullReconciler:
        return self.engine.full_reconciler

    def pv(self, name: str = PV) -> Json:
        found = self.cluster.get("persistentvolumes", name)
        assert found is not None
        return found

    def claim(self, name: str = PV) -> Json:
        found = self.cluster.get("persistentvolumeclaims", f"claim-{name}", "default")
        assert found is not None
        return found

    def nodes(self, name: str = PV) -> frozenset[str]:
        return manifests.nodes_of(self.pv(name))

    @asynccontextmanager
    async def at_work(self, workers: int = 3) -> AsyncIterator[None]:
        """With workers, an index that follows the cluster, and nothing else."""
        await self.cluster_view.read_nodes()
        async with self.volumes.watching(), asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self.reconciler.work(), name=f"worker-{number}")
            try:
                yield
            finally:
                self.queue.close()


def setup_on(
    cluster: FakeCluster,
    linstor: FakeLinstor,
    *,
    journal: FakeJournal | None = None,
    volumes: FakeVolumes | None = None,
    faults: Faults | None = None,
    holder: str = "me",
    at_once: int = 2,
    after_full_reconcile: Callable[[], None] = lambda: None,
    limit: float = 60.0,
    readers: int = 4,
    allowed_finalizers: tuple[str, ...] = (),
) -> Setup:
    """A new instance; entries outlive it if the journal is given."""
    faults = faults or Faults()
    volumes = volumes or FakeVolumes(cluster, faults)
    journal = journal or FakeJournal(faults)
    notices, telemetry, leadership = FakeNotices(), FakeTelemetry(), FakeLeadership()
    engine = Engine(
        Ports(
            index=volumes.index,
            linstor=linstor,
            volumes=volumes,
            journal=journal,
            notices=notices,
            telemetry=telemetry,
            leadership=leadership,
            now=lambda: 2e9,
            parse_json=json.loads,
        ),
        Tuning(
            changes_at_once=at_once,
            readers=readers,
            full_reconcile_timeout=limit,
            allowed_finalizers=allowed_finalizers,
        ),
        holder=holder,
        chance=random.Random(1),
        streams=Streams(lambda: 2e9),
        after_full_reconcile=after_full_reconcile,
    )
    return Setup(
        cluster=cluster,
        linstor=linstor,
        faults=faults,
        volumes=volumes,
        journal=journal,
        notices=notices,
        telemetry=telemetry,
        leadership=leadership,
        engine=engine,
    )


@asynccontextmanager
async def cluster_with(
    *names: str, on: str = "n1", binder_takes: float = 0.001
) -> AsyncIterator[FakeCluster]:
    """A cluster with a binder and with bound volumes on one node each."""
    cluster = FakeCluster()
    for name, parameters in manifests.CLASSES.items():
        cluster.create("storageclasses", manifests.storage_class(name, parameters))
    async with Binder(cluster, delay=binder_takes) as binder:
        for name in names:
            bind(cluster, name, on)
        await binder.until_idle()
        yield cluster


@asynccontextmanager
async def one_setup(*placed: str) -> AsyncIterator[Setup]:
    """An instance on a cluster with one volume on n1; LINSTOR has its data on the nodes given, or
    there.
    """
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(PV, *(placed or ("n1",)))
        yield setup_on(cluster, linstor)


def bind(cluster: FakeCluster, name: str, *nodes: str, **volume: Any) -> None:
    claim = cluster.create(
        "persistentvolumeclaims", manifests.claim(f"claim-{name}"), namespace="default"
    )
    made = manifests.volume(name, claim=claim, node_affinity=manifests.on_nodes(nodes), **volume)
    cluster.create("persistentvolumes", made)


async def replace(setup: Setup, *nodes: str, name: str = PV) -> Any:
    """Have the replacer alone put a volume on other nodes; returns the outcome, or what is against
    it.
    """
    ended = await replaced(setup, *nodes, name=name)
    return ended.outcome if isinstance(ended, Ended) else ended


async def replaced(setup: Setup, *nodes: str, name: str = PV) -> Ended | Deferred | Refusal:
    """The same; returns all that is reported of it."""
    pv = await setup.volumes.read(PvName(name))
    assert pv is not None
    named = claim_of(pv)
    claim = None if named is None else await setup.volumes.read_claim(named)
    wanted = NodeAffinity.of(frozenset({(manifests.HOSTNAME, node)}) for node in nodes)
    return await setup.replacer.replace(pv, claim, VolumeKey(ResourceName(name)), wanted)


def instead(port: object, **methods: Any) -> None:
    """Override methods of one fake, for a fault of this test's own."""
    for name, method in methods.items():
        if not hasattr(port, name):
            raise AttributeError(name)
        setattr(port, name, method)


async def until(wanted: Any, within: float = 600.0) -> None:
    """Wait on the virtual clock."""
    async with asyncio.timeout(within):
        while not wanted():  # noqa: ASYNC110, what is waited for sets no Event
            await asyncio.sleep(0.01)
