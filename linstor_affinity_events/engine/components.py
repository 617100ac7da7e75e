"""What the control loops of the engine share, built from its ports."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.coalescing_reader import CoalescingReader
from linstor_affinity_events.engine.concurrency_limit import ConcurrencyLimit, ReadLimit
from linstor_affinity_events.engine.keyed_queue import KeyedQueue
from linstor_affinity_events.engine.placement_reader import PlacementReader
from linstor_affinity_events.engine.ports import Index, Linstor, Ports
from linstor_affinity_events.engine.preemption import Preemption
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.engine.reporter import Reporter
from linstor_affinity_events.engine.retries import Retries
from linstor_affinity_events.engine.tuning import Tuning
from linstor_affinity_events.model.names import ResourceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """One of each."""

    ports: Ports
    may_begin: Callable[[], bool]
    """Whether this instance may begin to change something: it leads and is not shutting down."""

    queue: KeyedQueue[ResourceName]
    changes: ConcurrencyLimit
    cluster_view: ClusterView
    placement_reader: PlacementReader
    reader: CoalescingReader
    replacer: Replacer
    preemption: Preemption
    retries: Retries
    reporter: Reporter


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


def components_of(
    ports: Ports, tuning: Tuning, *, holder: str, chance: random.Random
) -> Components:
    """Build all of them. `holder` is the name that this instance writes into journal entries."""
    changes, reads = ConcurrencyLimit(tuning.changes_at_once), ReadLimit()
    queue = KeyedQueue[ResourceName](changes=changes, reads=reads)
    reads.on_lifted = queue.wake
    cluster_view = cluster_view_of(ports.index, ports.linstor, ports.now, tuning)
    placement_reader = PlacementReader(ports.linstor, readers=tuning.readers)
    reporter = Reporter(ports.notices, ports.telemetry, ports.now)
    preemption = Preemption()

    def may_begin() -> bool:
        return ports.leadership.leading and not queue.closed

    replacer = Replacer(
        ports,
        delays=lambda: Backoff(first=0.05, most=2.0, chance=chance),
        holder=holder,
        may_begin=may_begin,
        guard_timeout=tuning.guard_timeout,
        on_binder_wait=changes.observe,
        preemption=preemption,
        allowed_finalizers=tuning.allowed_finalizers,
    )
    return Components(
        ports=ports,
        may_begin=may_begin,
        queue=queue,
        changes=changes,
        cluster_view=cluster_view,
        placement_reader=placement_reader,
        reader=CoalescingReader(
            ports,
            placement_reader,
            read_nodes=cluster_view.read_nodes,
            waiting=queue.due_reads,
            limit=reads,
        ),
        replacer=replacer,
        preemption=preemption,
        retries=Retries(
            ports,
            queue=queue,
            unfinished=replacer.unfinished,
            reporter=reporter,
            chance=chance,
        ),
        reporter=reporter,
    )
