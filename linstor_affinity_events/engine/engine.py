"""Builds the engine from its ports. Its components are created only here."""

import random
from collections.abc import Callable

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.components import components_of
from linstor_affinity_events.engine.full_reconcile import FullReconciler
from linstor_affinity_events.engine.poll import Poll
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.reconciler import Reconciler
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.engine.triggers import DATABASE_SOURCES
from linstor_affinity_events.engine.tuning import Tuning
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.volume import Volume

MOST_WAITING = 20_000
"""With so many resources in the queue, those without a volume in this cluster are left to the full
reconcile. A LINSTOR cluster that others use as well also sends events for their resources.
"""


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
        components = components_of(ports, tuning, holder=holder, chance=chance)
        self._ports, self._chance, self.streams = ports, chance, streams
        self.queue, self.changes = components.queue, components.changes
        self.preemption = components.preemption
        self.cluster_view, self.placement_reader = (
            components.cluster_view,
            components.placement_reader,
        )
        self.reporter, self.replacer = components.reporter, components.replacer
        self.reconciler = Reconciler(components, take_over=tuning.take_over_saved_volumes)
        self.full_reconciler = FullReconciler(
            components,
            tuning,
            delays=self.delays(first=1.0, most=30.0),
            forget_gone=self.reconciler.forget_gone,
            after_full_reconcile=after_full_reconcile,
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
