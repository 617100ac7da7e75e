"""The service of the `run` command: builds its parts, owns all tasks, and drains them on stop."""

import asyncio
import logging
import random
import socket
import time
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from uuid import uuid4

from linstor_affinity_events import __version__
from linstor_affinity_events.adapters.http.endpoints import EndpointSources, HttpEndpoints
from linstor_affinity_events.adapters.kubernetes.database import KubeDatabase
from linstor_affinity_events.adapters.kubernetes.election import LeaseElection
from linstor_affinity_events.adapters.kubernetes.events import KubeEvents
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.informer import Informer, Store
from linstor_affinity_events.adapters.kubernetes.journal import KubeJournal
from linstor_affinity_events.adapters.kubernetes.volumes import (
    CLASSES_PATH,
    VOLUMES_PATH,
    KubeVolumes,
)
from linstor_affinity_events.adapters.kubernetes.watch import EventDeadline
from linstor_affinity_events.adapters.linstor.rest import LinstorRest
from linstor_affinity_events.adapters.transport.bodies import parse_text
from linstor_affinity_events.app.drain import Drain
from linstor_affinity_events.app.event_sources import EventSources
from linstor_affinity_events.app.garbage import Garbage
from linstor_affinity_events.app.gauges import gauges
from linstor_affinity_events.app.peers import (
    election,
    event_streams,
    journal_namespace,
    kubernetes,
    linstor_connection,
    tuning_of,
)
from linstor_affinity_events.app.readiness import Readiness
from linstor_affinity_events.app.status import StatusReport
from linstor_affinity_events.engine.engine import Engine
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.errors import Again, Missing, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.metrics import Metrics
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.settings import Settings

log = logging.getLogger(__name__)

DATABASE_RECHECK = 600.0
"""Seconds between checks of whether LINSTOR's database can be watched."""

SPARE_WORKERS = 4
"""Workers beyond the concurrency limit of changes: they reconcile while all others wait."""


class Service:
    """A service that can run once. The constructor raises BadSettings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._garbage = Garbage()
        identity = settings.leader_election_id or socket.gethostname()
        # Unique per process: two on one host must not both regard a Lease as their own.
        instance = f"{identity}_{uuid4()}"
        streams = Streams(time.time)
        self.metrics = Metrics(streams)
        self.api = kubernetes(settings)
        connection = linstor_connection(settings)
        self.linstor = LinstorRest(connection, namespace=settings.property_namespace)
        linstor_streams = event_streams(connection)
        self._stream_names = tuple(stream.name for stream in linstor_streams)
        self.index = VolumeIndex(self._volume_changed)
        self.index.classes.on_change = lambda: self.engine.full_reconciler.request("storageclass")
        self.events = KubeEvents(self.api, instance=instance, now=_now)
        self.election = election(
            settings,
            self.api,
            settings.leader_election_id or instance,
            on_change=lambda leading: self.engine.leadership_changed(leading=leading),
            now=_now,
            healthy=lambda: streams.any_up(self._stream_names),
        )
        self.engine = Engine(
            self._ports(),
            tuning_of(settings),
            holder=instance,
            chance=random.Random(),  # noqa: S311, adds jitter to retries, not used for security
            streams=streams,
            after_full_reconcile=self._garbage.collect,
        )
        self.informers = {
            "persistentvolumes": self._informer(VOLUMES_PATH, self.index, self.index.deadline),
            "storageclasses": self._informer(CLASSES_PATH, self.index.classes),
        }
        self._sources = EventSources(
            self.engine,
            linstor_streams,
            KubeDatabase(self.api, watch_for=settings.resync_rate, recheck_every=DATABASE_RECHECK),
            watch_database=settings.watch_linstor_database,
        )
        self.readiness = Readiness(
            engine=self.engine,
            informers=self.informers,
            election=self.election,
            sources=self._sources,
            streams=self._stream_names,
        )
        self.status = StatusReport(
            self.engine,
            instance=instance,
            index=self.index,
            streams=self._stream_names,
            election=self.election,
            not_ready=self.readiness.failures,
        )
        self.metrics.read(gauges(self.engine, self.index, self.election, self.events))

    def _ports(self) -> Ports:
        return Ports(
            index=self.index,
            linstor=self.linstor,
            volumes=KubeVolumes(self.api, self.index),
            journal=KubeJournal(self.api, journal_namespace(self._settings)),
            notices=self.events,
            telemetry=self.metrics,
            leadership=self.election,
            now=time.time,
            parse_json=parse_text,
        )

    def _volume_changed(self, volume: Volume) -> None:
        self.engine.volume_changed(volume)

    def _informer(self, path: str, store: Store, deadline: EventDeadline | None = None) -> Informer:
        return Informer(
            self.api,
            path,
            store,
            delays=self.engine.delays(first=0.5, most=30.0),
            watch_for=self._settings.resync_rate,
            deadline=deadline,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set or a task fails with an unexpected error.

        A failed task stops the service on purpose: after a restart it reconciles everything,
        while one that lacks a task only looks healthy. After `stop` no new work starts, and work
        in progress has the shutdown grace to finish.
        """
        settings = self._settings
        log.info("service is starting", extra=facts(version=__version__, host=socket.gethostname()))
        async with AsyncExitStack() as stack:
            stack.enter_context(self._garbage.held_back())
            await self.api.open()
            stack.push_async_callback(self.api.close)
            await stack.enter_async_context(self.linstor)
            endpoints = HttpEndpoints(
                EndpointSources(
                    self.readiness.failures,
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
        log.info("service stopped")

    async def _serve(self, stop: asyncio.Event) -> None:
        """Run all tasks. Workers outlive the others and can finish their work whatever fails."""
        drain = Drain(self.engine.queue, grace=self._settings.shutdown_grace)
        async with asyncio.TaskGroup() as workforce:
            workers = [
                workforce.create_task(self.engine.reconciler.work(), name=f"worker-{number}")
                for number in range(self._settings.workers + SPARE_WORKERS)
            ]
            try:
                async with asyncio.TaskGroup() as group:
                    background, listeners = self._begin(group)
                    await stop.wait()
                    for task in listeners:
                        task.cancel()
                    # A replacement in progress needs the watch and the Lease.
                    await drain.wait(workers)
                    for task in background:
                        task.cancel()
            finally:
                await drain.wait(workers)
                await self._leave()

    def _begin(
        self, group: asyncio.TaskGroup
    ) -> tuple[list[asyncio.Task[None]], list[asyncio.Task[None]]]:
        """Start the tasks that workers depend on, and the listeners that give them work."""
        background = [
            group.create_task(informer.run(), name=f"informer-{name}")
            for name, informer in self.informers.items()
        ]
        background.append(group.create_task(self.events.run(), name="events"))
        background.append(group.create_task(self._log_linstor_version(), name="linstor-version"))
        background.append(group.create_task(self._garbage.run(), name="garbage"))
        background.append(group.create_task(self.engine.replacer.lost_claims.run(), name="claims"))
        if isinstance(self.election, LeaseElection):
            background.append(group.create_task(self.election.run(), name="election"))
        listeners = [
            group.create_task(listening, name=name)
            for name, listening in self._sources.tasks().items()
        ]
        listeners.append(group.create_task(self._reconcile_all(), name="full-reconcile"))
        if self._settings.poll_rate:
            listeners.append(group.create_task(self.engine.poll.run(), name="poll"))
        return background, listeners

    async def _leave(self) -> None:
        await self.events.flush()
        if isinstance(self.election, LeaseElection):
            await self.election.release()

    async def _log_linstor_version(self) -> None:
        """Log LINSTOR's version. Nothing waits for it: the journal is resumed without LINSTOR."""
        with suppress(Again, Refused, Missing):
            # If it can't be read, the first full reconcile reports why.
            log.info(
                "LINSTOR's REST API responds",
                extra=facts(linstor_version=await self.linstor.version()),
            )

    async def _reconcile_all(self) -> None:
        """Run full reconciles, once volumes and StorageClasses are listed."""
        for informer in self.informers.values():
            await informer.synced.wait()
        log.info(
            "listed all PersistentVolumes of LINSTOR's CSI driver; the first full reconcile starts",
            extra=facts(volumes=len(self.index)),
        )
        self.engine.full_reconciler.request("start")
        await self.engine.full_reconciler.run()


def _now() -> datetime:
    return datetime.now(UTC)
