"""Puts the parts together, owns every task that runs, and drains them on the way out."""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from datetime import UTC, datetime
from uuid import uuid4

from linstor_affinity_events import __version__
from linstor_affinity_events.adapters.bodies import parse_text
from linstor_affinity_events.adapters.http_endpoints import Answers, HttpEndpoints
from linstor_affinity_events.adapters.kube_database import KubeDatabase
from linstor_affinity_events.adapters.kube_events import KubeEvents
from linstor_affinity_events.adapters.kube_index import VolumeIndex
from linstor_affinity_events.adapters.kube_informer import Informer, Store
from linstor_affinity_events.adapters.kube_journal import KubeJournal
from linstor_affinity_events.adapters.kube_lease import AlwaysLeading, LeaseElection
from linstor_affinity_events.adapters.kube_volumes import CLASSES_PATH, VOLUMES_PATH, KubeVolumes
from linstor_affinity_events.adapters.linstor_rest import LinstorRest
from linstor_affinity_events.app.drain import Drain
from linstor_affinity_events.app.garbage import Garbage
from linstor_affinity_events.app.peers import (
    default_policy,
    event_streams,
    everywhere,
    kubernetes,
    lease_namespace,
    linstor_connection,
    notes_namespace,
)
from linstor_affinity_events.app.status import StatusReport
from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.crowd import Crowd
from linstor_affinity_events.engine.hints import (
    DATABASE_SOURCES,
    MissedSome,
    Touched,
    from_stream,
)
from linstor_affinity_events.engine.keyed_queue import KeyedQueue
from linstor_affinity_events.engine.picture import Picture
from linstor_affinity_events.engine.ports import EventStream
from linstor_affinity_events.engine.pulse import Pulse
from linstor_affinity_events.engine.reconciler import Reconciler
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.engine.saved_notes import SavedNotes
from linstor_affinity_events.engine.sweep import Sweeper
from linstor_affinity_events.engine.teller import Teller
from linstor_affinity_events.engine.whole_view import WholeView
from linstor_affinity_events.errors import Again, Missing, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.metrics import Metrics
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.settings import Settings

log = logging.getLogger(__name__)

DATABASE_AGAIN = 600.0
"""How often it is seen whether LINSTOR's database can be watched after all."""

SPARE_WORKERS = 4
"""Workers beyond those that may change something: they look while all others wait."""


MOST_WAITING = 20_000
"""Resources in the queue before those without a volume here are left to the full pass. A LINSTOR
that others use as well tells of theirs, too.
"""


class Service:
    """A service ready to run once. Raises BadSettings when it can't be put together."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        chance = random.Random()  # noqa: S311, spreads retries and guards nothing
        self._chance = chance
        self.metrics = Metrics()
        self._garbage = Garbage()
        identity = settings.leader_election_id or socket.gethostname()
        # Unique for each process: two on one host must not both take a Lease for their own.
        instance = f"{identity}_{uuid4()}"
        self.queue = KeyedQueue[ResourceName](changes_at_once=settings.workers)
        self.index = VolumeIndex(self._volume_changed)
        self.index.classes.on_change = self._classes_changed
        self.api = kubernetes(settings)
        connection = linstor_connection(settings)
        self.linstor = LinstorRest(connection, namespace=settings.property_namespace)
        self.streams = event_streams(connection)
        self.events = KubeEvents(self.api, instance=instance, now=_now)
        self.teller = Teller(self.events, self.metrics, time.time)
        self._database = KubeDatabase(self.api, lasts=settings.resync_rate, again=DATABASE_AGAIN)
        self.database_failure: str | None = None
        self.election = self._election(
            lease_namespace(settings), settings.leader_election_id or instance
        )
        volumes = KubeVolumes(self.api, self.index)
        self.replacer = Replacer(
            volumes=volumes,
            index=self.index,
            journal=KubeJournal(self.api, notes_namespace(settings)),
            notices=self.events,
            telemetry=self.metrics,
            delays=lambda: self._delays(first=0.05, most=2.0),
            holder=instance,
            may_begin=lambda: self.election.leading and not self.queue.closed,
            guard_timeout=settings.claim_guard_timeout,
            allowed_finalizers=settings.allow_finalizer,
        )
        picture = Picture(
            index=self.index,
            linstor=self.linstor,
            now=time.time,
            grace=settings.new_volume_grace,
            default_policy=default_policy(settings.default_remote_access_policy),
            everywhere=everywhere(settings.everywhere),
        )
        self.reconciler = Reconciler(
            queue=self.queue,
            picture=picture,
            index=self.index,
            linstor=self.linstor,
            volumes=volumes,
            replacer=self.replacer,
            saved_notes=SavedNotes(
                linstor=self.linstor,
                volumes=volumes,
                replacer=self.replacer,
                picture=picture,
                parse_json=parse_text,
                enabled=settings.take_over_saved_volumes == "auto",
            ),
            leadership=self.election,
            teller=self.teller,
            telemetry=self.metrics,
            chance=chance,
        )
        self.whole_view = WholeView(self.linstor, readers=settings.workers)
        self.crowd = Crowd(
            queue=self.queue,
            picture=picture,
            index=self.index,
            linstor=self.linstor,
            whole_view=self.whole_view,
            reconciler=self.reconciler,
            telemetry=self.metrics,
        )
        self.sweeper = Sweeper(
            queue=self.queue,
            picture=picture,
            index=self.index,
            linstor=self.linstor,
            whole_view=self.whole_view,
            replacer=self.replacer,
            leadership=self.election,
            teller=self.teller,
            telemetry=self.metrics,
            delays=self._delays(first=1.0, most=30.0),
            forget_gone=self.reconciler.forget_gone,
            after_pass=self._garbage.collect,
            pace=settings.reconcile_rate,
            limit=settings.timeout,
        )
        self.pulse = Pulse(
            linstor=self.linstor,
            leadership=self.election,
            request=self.sweeper.request,
            paused=self._database_tells,
            every=settings.pulse_rate,
        )
        self.informers = {
            "persistentvolumes": self._informer(VOLUMES_PATH, self.index),
            "storageclasses": self._informer(CLASSES_PATH, self.index.classes),
        }
        self.status = StatusReport(
            instance=instance,
            index=self.index,
            teller=self.teller,
            sweeper=self.sweeper,
            queue=self.queue,
            unfinished=self.replacer.unfinished,
            metrics=self.metrics,
            streams=tuple(stream.name for stream in self.streams),
            election=self.election,
            not_ready=self.not_ready,
        )
        self._publish_gauges()
        self.metrics.gauge(
            "volumes_held_back",
            "Volumes that are not changed for now, because they came out of a change otherwise "
            "than wanted or were changed too often.",
            picture.backoff.held_back,
        )

    def _election(self, namespace: str, identity: str) -> AlwaysLeading | LeaseElection:
        settings = self._settings
        if not settings.leader_election:
            return AlwaysLeading()
        return LeaseElection(
            self.api,
            namespace=namespace,
            name=settings.lease_lock_name,
            identity=identity,
            lease_duration=settings.leader_election_lease_duration,
            renew_deadline=settings.leader_election_renew_deadline,
            retry_period=settings.leader_election_retry_period,
            on_change=self._leadership_changed,
            now=_now,
            fit=lambda: any(self.metrics.streams[stream.name].up for stream in self.streams),
        )

    def _informer(self, path: str, store: Store) -> Informer:
        return Informer(
            self.api,
            path,
            store,
            delays=self._delays(first=0.5, most=30.0),
            watch_for=self._settings.resync_rate,
        )

    def _delays(self, *, first: float, most: float) -> Backoff:
        return Backoff(first=first, most=most, chance=self._chance)

    def _publish_gauges(self) -> None:
        def oldest() -> float:
            since = self.queue.oldest()
            return 0.0 if since is None else asyncio.get_running_loop().time() - since

        gauge = self.metrics.gauge
        gauge("queue_depth", "Resources that wait for a look.", lambda: len(self.queue))
        gauge("queue_oldest_seconds", "How long the oldest of them waits.", oldest)
        places = self.queue.places
        gauge("queue_changing", "Resources whose volumes are being changed.", lambda: places.taken)
        gauge(
            "queue_places",
            "Resources whose volumes may be changed at a time.",
            lambda: places.at_once,
        )
        gauge("queue_working", "Resources in a worker's hands.", lambda: self.queue.held)
        gauge("leader", "Whether this instance leads.", lambda: self.election.leading)
        gauge("known_volumes", "Volumes of our driver.", lambda: len(self.index))
        gauge("events_lost", "Kubernetes Events not sent.", lambda: self.events.lost)

    def not_ready(self) -> Mapping[str, str]:
        """What keeps the service from doing its work, by part."""
        against = {
            f"kubernetes {name}": informer.failure
            for name, informer in self.informers.items()
            if informer.failure is not None
        }
        if self.sweeper.failure is not None:
            against["linstor"] = self.sweeper.failure
        if isinstance(self.election, LeaseElection) and self.election.failure is not None:
            against["lease"] = self.election.failure
        if self.database_failure is not None:
            against["LINSTOR's database in Kubernetes"] = self.database_failure
        for stream in self.streams:
            if not self.metrics.streams[stream.name].up:
                against[f"linstor {stream.name} stream"] = "not open"
        return against

    def _volume_changed(self, volume: Volume) -> None:
        if volume.key is None:
            self.sweeper.request("volume")
        elif self.election.leading:
            self.queue.add(volume.key.resource)

    def _database_tells(self) -> bool:
        """Whether LINSTOR's own database tells of every change."""
        streams = [self.metrics.streams.get(name) for name in DATABASE_SOURCES]
        return all(stream is not None and stream.up for stream in streams)

    def _classes_changed(self) -> None:
        self.sweeper.request("storageclass")

    def _leadership_changed(self, leading: bool) -> None:  # noqa: FBT001, a callback
        if leading:
            self.sweeper.request("leading")
            self.pulse.wake()
        else:
            self.replacer.unfinished.stand_back()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, or until anything fails unforeseen.

        A task that fails takes the service down on purpose: a restarted one looks at everything,
        a deaf one only looks healthy. On `stop` nothing is begun any more, and what was begun
        has the shutdown grace to end.
        """
        settings = self._settings
        log.info("starting", extra=facts(version=__version__, host=socket.gethostname()))
        async with AsyncExitStack() as stack:
            stack.enter_context(self._garbage.held_back())
            await self.api.open()
            stack.push_async_callback(self.api.close)
            await stack.enter_async_context(self.linstor)
            endpoints = HttpEndpoints(
                Answers(
                    self.not_ready,
                    self.metrics.text,
                    None if settings.status_page == "off" else self.status.tree,
                    status_for_all=settings.status_page == "all",
                ),
                bind=settings.bind_address,
                metrics=settings.metrics_address,
            )
            stack.push_async_callback(endpoints.stop)
            await endpoints.start()
            await self._serve(stop)
        log.info("stopped")

    async def _serve(self, stop: asyncio.Event) -> None:
        """Workers outlive everything else, so that what they began can end whatever fails."""
        drain = Drain(self.queue, grace=self._settings.shutdown_grace)
        async with asyncio.TaskGroup() as workforce:
            workers = [
                workforce.create_task(self.reconciler.work(), name=f"worker-{number}")
                for number in range(self._settings.workers + SPARE_WORKERS)
            ]
            try:
                async with asyncio.TaskGroup() as group:
                    background, listeners = self._begin(group)
                    await stop.wait()
                    for task in listeners:
                        task.cancel()
                    # The watch and the lease are of use as long as something is being replaced.
                    await drain.wait(workers)
                    for task in background:
                        task.cancel()
            finally:
                await drain.wait(workers)
                await self._leave()

    def _begin(
        self, group: asyncio.TaskGroup
    ) -> tuple[list[asyncio.Task[None]], list[asyncio.Task[None]]]:
        """Start what runs beside the workers: what they lean on, and what gives them work."""
        background = [
            group.create_task(informer.run(), name=f"informer-{name}")
            for name, informer in self.informers.items()
        ]
        background.append(group.create_task(self.events.run(), name="events"))
        background.append(group.create_task(self._greet(), name="greeting"))
        background.append(group.create_task(self._garbage.run(), name="garbage"))
        if isinstance(self.election, LeaseElection):
            background.append(group.create_task(self.election.run(), name="election"))
        listeners = [
            group.create_task(self._listen(stream), name=f"stream-{stream.name}")
            for stream in self.streams
        ]
        listeners.append(group.create_task(self._sweep(), name="sweeper"))
        listeners.append(group.create_task(self._listen_to_database(), name="database"))
        listeners.append(group.create_task(self.crowd.run(), name="crowd"))
        if self._settings.pulse_rate:
            listeners.append(group.create_task(self.pulse.run(), name="pulse"))
        return background, listeners

    async def _leave(self) -> None:
        await self.events.flush()
        if isinstance(self.election, LeaseElection):
            await self.election.release()

    async def _greet(self) -> None:
        """Log whom we talk to. Nothing waits for it: notes are finished without LINSTOR."""
        with suppress(Again, Refused, Missing):
            # Where it can't be had, the first pass says why.
            log.info("LINSTOR found", extra=facts(version=await self.linstor.version()))

    async def _sweep(self) -> None:
        """Pass over everything, once it is known what everything is."""
        for informer in self.informers.values():
            await informer.synced.wait()
        log.info("volumes known", extra=facts(volumes=len(self.index)))
        self.sweeper.request("start")
        await self.sweeper.run()

    async def _listen_to_database(self) -> None:
        """Take LINSTOR's own database for a source of hints, where it can be watched."""
        if self._settings.database_hints == "off":
            return
        required = self._settings.database_hints == "on"
        self.database_failure = "not found yet" if required else None
        rows = await self._database.found(required=required)
        self.database_failure = None
        await self._listen(rows)

    def hinted(self, resource: ResourceName, source: str) -> None:
        """Look at a resource, unless it is nobody's and very many wait already: a LINSTOR that
        makes up names would fill the queue with them.
        """
        if len(self.queue) >= MOST_WAITING and not self.index.of(resource):
            return
        self.whole_view.heard_of(resource)
        if self.election.leading:
            self.queue.add(resource, source=source)

    async def _listen(self, stream: EventStream) -> None:
        hints = from_stream(stream, self._delays(first=0.2, most=30.0), self.metrics)
        async with aclosing(hints):
            async for hint in hints:
                match hint:
                    case MissedSome(cause):
                        self.sweeper.request(cause)
                    case Touched(resource):
                        self.hinted(resource, stream.name)
        raise RuntimeError("a source of hints ran dry, though it promised not to")


def _now() -> datetime:
    return datetime.now(UTC)
