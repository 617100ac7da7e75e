"""The engine put together from its ports: the one place where its parts are made."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.crowd import Crowd
from linstor_affinity_events.engine.hints import DATABASE_SOURCES
from linstor_affinity_events.engine.keyed_queue import KeyedQueue
from linstor_affinity_events.engine.picture import Picture
from linstor_affinity_events.engine.ports import Index, Linstor, Ports
from linstor_affinity_events.engine.pulse import Pulse
from linstor_affinity_events.engine.reconciler import Reconciler
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.engine.saved_notes import SavedNotes
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.engine.sweep import Sweeper
from linstor_affinity_events.engine.teller import Teller
from linstor_affinity_events.engine.whole_view import WholeView
from linstor_affinity_events.model.affinity import NO_AFFINITY, NodeAffinity
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.policy import Policy
from linstor_affinity_events.model.volume import Volume

MOST_WAITING = 20_000
"""Resources in the queue before those without a volume here are left to the full pass. A LINSTOR
that others use as well tells of theirs, too.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What people may set; times are in seconds."""

    changes_at_once: int = 10
    readers: int = 10
    grace: float = 10.0
    """How long a new volume is left to the driver that made it."""

    default_policy: Policy | None = None
    everywhere: NodeAffinity = NO_AFFINITY
    """What is written on volumes that any node may use."""

    guard_timeout: float = 2.0
    """How long a silent volume binder is waited for."""

    allowed_finalizers: tuple[str, ...] = ()
    take_over_saved_volumes: bool = True
    pace: float = 60.0
    """From one full pass to the next."""

    limit: float = 60.0
    """How long a full pass may take."""

    pulse_every: float = 10.0


def picture_of(index: Index, linstor: Linstor, now: Callable[[], float], tuning: Tuning) -> Picture:
    """What is known of the cluster, for whoever decides on volumes, be it to change nothing."""
    return Picture(
        index=index,
        linstor=linstor,
        now=now,
        grace=tuning.grace,
        default_policy=tuning.default_policy,
        everywhere=tuning.everywhere,
    )


class Engine:
    """All that decides and acts, and knows neither HTTP nor JSON; its owner runs its tasks."""

    def __init__(
        self,
        ports: Ports,
        tuning: Tuning,
        *,
        holder: str,
        chance: random.Random,
        streams: Streams,
        after_pass: Callable[[], None] = lambda: None,
    ) -> None:
        """`holder` is the name that this instance writes on notes."""
        self._ports, self._chance = ports, chance
        self.streams = streams
        self.queue = KeyedQueue[ResourceName](changes_at_once=tuning.changes_at_once)
        self.picture = picture_of(ports.index, ports.linstor, ports.now, tuning)
        self.teller = Teller(ports.notices, ports.telemetry, ports.now)
        self.replacer = Replacer(
            ports,
            delays=lambda: self.delays(first=0.05, most=2.0),
            holder=holder,
            may_begin=lambda: ports.leadership.leading and not self.queue.closed,
            guard_timeout=tuning.guard_timeout,
            allowed_finalizers=tuning.allowed_finalizers,
        )
        saved_notes = SavedNotes(
            ports,
            replacer=self.replacer,
            picture=self.picture,
            enabled=tuning.take_over_saved_volumes,
        )
        self.reconciler = Reconciler(
            ports,
            queue=self.queue,
            picture=self.picture,
            replacer=self.replacer,
            saved_notes=saved_notes,
            teller=self.teller,
            chance=chance,
        )
        self.whole_view = WholeView(ports.linstor, readers=tuning.readers)
        self.crowd = Crowd(
            ports,
            queue=self.queue,
            picture=self.picture,
            whole_view=self.whole_view,
            reconciler=self.reconciler,
        )
        self.sweeper = Sweeper(
            ports,
            queue=self.queue,
            picture=self.picture,
            whole_view=self.whole_view,
            replacer=self.replacer,
            teller=self.teller,
            delays=self.delays(first=1.0, most=30.0),
            forget_gone=self.reconciler.forget_gone,
            after_pass=after_pass,
            pace=tuning.pace,
            limit=tuning.limit,
        )
        self.pulse = Pulse(
            linstor=ports.linstor,
            leadership=ports.leadership,
            request=self.sweeper.request,
            paused=lambda: streams.all_up(DATABASE_SOURCES),
            every=tuning.pulse_every,
        )

    def delays(self, *, first: float, most: float) -> Backoff:
        return Backoff(first=first, most=most, chance=self._chance)

    def hinted(self, resource: ResourceName, source: str) -> None:
        """Look at a resource, unless it is nobody's and very many wait already: a LINSTOR that
        makes up names would fill the queue with them.
        """
        if len(self.queue) >= MOST_WAITING and not self._ports.index.of(resource):
            return
        self.whole_view.heard_of(resource)
        if self._ports.leadership.leading:
            self.queue.add(resource, source=source)

    def volume_changed(self, volume: Volume) -> None:
        """Look at a volume that Kubernetes told of."""
        if volume.key is None:
            self.sweeper.request("volume")
        elif self._ports.leadership.leading:
            self.queue.add(volume.key.resource)

    def leadership_changed(self, *, leading: bool) -> None:
        """Begin, or leave everything to whoever leads now."""
        if leading:
            self.sweeper.request("leading")
            self.pulse.wake()
        else:
            self.replacer.unfinished.stand_back()

    def failures(self, streams: Iterable[str]) -> dict[str, str]:
        """What keeps it from doing its work, by part."""
        against = {}
        if self.sweeper.failure is not None:
            against["linstor"] = self.sweeper.failure
        for name in streams:
            if not self.streams.state(name).up:
                against[f"linstor {name} stream"] = "not open"
        return against
