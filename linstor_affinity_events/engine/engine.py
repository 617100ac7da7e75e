"""Builds the engine from its ports. Its parts are created only here."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.changing import Changer
from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.coalescing_reader import CoalescingReader
from linstor_affinity_events.engine.concurrency_limit import ConcurrencyLimit, ReadLimit
from linstor_affinity_events.engine.full_reconcile import FullReconciler
from linstor_affinity_events.engine.keyed_queue import KeyedQueue
from linstor_affinity_events.engine.placement_reader import PlacementReader
from linstor_affinity_events.engine.poll import Poll
from linstor_affinity_events.engine.ports import Index, Linstor, Ports
from linstor_affinity_events.engine.reconciler import Reconciler
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.engine.reporter import Reporter
from linstor_affinity_events.engine.retries import Retries
from linstor_affinity_events.engine.saved_volumes import SavedVolumes
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.engine.triggers import DATABASE_SOURCES
from linstor_affinity_events.model.affinity import NO_AFFINITY, NodeAffinity
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.policy import Policy
from linstor_affinity_events.model.volume import Volume

MOST_WAITING = 20_000
"""With so many resources in the queue, those without a volume in this cluster are left to the full
reconcile. A LINSTOR cluster that others use as well also sends events for their resources.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What operators may configure; times are in seconds."""

    changes_at_once: int = 10
    readers: int = 10
    grace: float = 10.0
    """How long a new volume is left to the driver that created it."""

    default_policy: Policy | None = None
    everywhere: NodeAffinity = NO_AFFINITY
    """The affinity of volumes that any node may use."""

    guard_timeout: float = 2.0
    """How long to wait for an unresponsive volume binder."""

    allowed_finalizers: tuple[str, ...] = ()
    take_over_saved_volumes: bool = True
    pace: float = 60.0
    """Interval of full reconciles."""

    limit: float = 60.0
    """Timeout of a full reconcile."""

    poll_every: float = 10.0


def cluster_view_of(
    index: Index, linstor: Linstor, now: Callable[[], float], tuning: Tuning
) -> ClusterView:
    """The cluster view for the service, and for commands that decide but change nothing."""
    return ClusterView(
        index=index,
        linstor=linstor,
        now=now,
        grace=tuning.grace,
        default_policy=tuning.default_policy,
        everywhere=tuning.everywhere,
    )


class Engine:
    """All control loops, without HTTP or JSON. The owner runs their tasks."""

    def __init__(
        self,
        ports: Ports,
        tuning: Tuning,
        *,
        holder: str,
        chance: random.Random,
        streams: Streams,
        after_full_reconcile: Callable[[], None] = lambda: None,
    ) -> None:
        """`holder` is the name that this instance writes into journal entries."""
        self._ports, self._chance = ports, chance
        self.streams = streams
        self.changes, reads = ConcurrencyLimit(tuning.changes_at_once), ReadLimit()
        self.queue = KeyedQueue[ResourceName](changes=self.changes, reads=reads)
        reads.on_lifted = self.queue.wake
        self.cluster_view = cluster_view_of(ports.index, ports.linstor, ports.now, tuning)
        self.reporter = Reporter(ports.notices, ports.telemetry, ports.now)
        self.replacer = Replacer(
            ports,
            delays=lambda: self.delays(first=0.05, most=2.0),
            holder=holder,
            may_begin=lambda: ports.leadership.leading and not self.queue.closed,
            guard_timeout=tuning.guard_timeout,
            allowed_finalizers=tuning.allowed_finalizers,
        )
        saved_volumes = SavedVolumes(
            ports,
            replacer=self.replacer,
            cluster_view=self.cluster_view,
            enabled=tuning.take_over_saved_volumes,
        )
        retries = Retries(
            ports,
            queue=self.queue,
            unfinished=self.replacer.unfinished,
            reporter=self.reporter,
            chance=chance,
        )
        changer = Changer(
            ports,
            queue=self.queue,
            limit=self.changes,
            cluster_view=self.cluster_view,
            replacer=self.replacer,
            retries=retries,
            reporter=self.reporter,
        )
        self.placement_reader = PlacementReader(ports.linstor, readers=tuning.readers)
        reader = CoalescingReader(
            ports,
            self.placement_reader,
            read_nodes=self.cluster_view.read_nodes,
            waiting=self.queue.due_reads,
            limit=reads,
        )
        self.reconciler = Reconciler(
            ports,
            queue=self.queue,
            reader=reader,
            cluster_view=self.cluster_view,
            replacer=self.replacer,
            changer=changer,
            retries=retries,
            saved_volumes=saved_volumes,
            reporter=self.reporter,
        )
        self.full_reconciler = FullReconciler(
            ports,
            queue=self.queue,
            cluster_view=self.cluster_view,
            reader=reader,
            placement_reader=self.placement_reader,
            replacer=self.replacer,
            reporter=self.reporter,
            delays=self.delays(first=1.0, most=30.0),
            forget_gone=self.reconciler.forget_gone,
            after_full_reconcile=after_full_reconcile,
            pace=tuning.pace,
            limit=tuning.limit,
        )
        self.poll = Poll(
            linstor=ports.linstor,
            leadership=ports.leadership,
            request=self.full_reconciler.request,
            paused=lambda: streams.all_up(DATABASE_SOURCES),
            every=tuning.poll_every,
        )

    def delays(self, *, first: float, most: float) -> Backoff:
        return Backoff(first=first, most=most, chance=self._chance)

    def trigger(self, resource: ResourceName, source: str) -> None:
        """Queue a resource, unless it has no volume here and the queue is very long: a LINSTOR that
        sends invalid names would fill it.
        """
        if len(self.queue) >= MOST_WAITING and not self._ports.index.of(resource):
            return
        self.placement_reader.invalidate(resource)
        if self._ports.leadership.leading:
            self.queue.add(resource, source=source)

    def volume_changed(self, volume: Volume) -> None:
        """Queue a volume for which the watch of Kubernetes sent an event."""
        if volume.key is None:
            self.full_reconciler.request("volume")
        elif self._ports.leadership.leading:
            self.queue.add(volume.key.resource)

    def leadership_changed(self, *, leading: bool) -> None:
        """Start work as the leader, or leave it to the new one."""
        if leading:
            self.replacer.unfinished.leadership_gained()
            self.full_reconciler.request("leading")
            self.poll.wake()
        else:
            self.replacer.unfinished.leadership_lost()

    def failures(self, streams: Iterable[str]) -> dict[str, str]:
        """What prevents it from working, by component."""
        against = {}
        if self.full_reconciler.failure is not None:
            against["linstor"] = self.full_reconciler.failure
        for name in streams:
            if not self.streams.state(name).up:
                against[f"linstor {name} stream"] = "not connected"
        return against
