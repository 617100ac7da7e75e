"""Reconciles one resource at a time: sets the node affinity of its volumes."""

import asyncio
import logging

from linstor_affinity_events.engine.changing import Changer
from linstor_affinity_events.engine.coalescing_reader import DEFER_FOR, Reading
from linstor_affinity_events.engine.components import Components
from linstor_affinity_events.engine.keyed_queue import Priority, QueueClosed, WorkItem
from linstor_affinity_events.engine.ports import NO_TRIGGER
from linstor_affinity_events.engine.rechecks import RECHECK_AFTER, Rechecks
from linstor_affinity_events.engine.resuming import RECHECK_RESUMED_AFTER, Resuming
from linstor_affinity_events.engine.retries import REFUSED_LEAST
from linstor_affinity_events.engine.saved_volumes import SavedVolumes
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.decision import (
    Change,
    Decision,
    Deferred,
    InSync,
    Refusal,
    Resume,
    Skipped,
    decide,
)
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

YIELD_EVERY = 100
"""Number of volumes of one resource before a cooperative yield. Others may have created
thousands.
"""

WATCH_DELAY_FIRST, WATCH_DELAY_SHORT, WATCH_DELAY_MOST = 0.02, 5.0, 120.0


class Reconciler:
    """Runs at most one reconcile per resource at a time, and retries a failed one with backoff."""

    def __init__(self, components: Components, *, take_over: bool) -> None:
        """`take_over` completes what linstor-affinity-controller left unfinished."""
        self._queue, self._reader = components.queue, components.reader
        self._index, self._leadership = components.ports.index, components.ports.leadership
        self._cluster_view, self._replacer = components.cluster_view, components.replacer
        self._retries, self._reporter = components.retries, components.reporter
        self._resuming, self._changer = Resuming(components), Changer(components)
        self._preemption, self._may_begin = components.preemption, components.may_begin
        self._rechecks = Rechecks(components.queue)
        self._saved_volumes = SavedVolumes(
            components.ports,
            replacer=components.replacer,
            cluster_view=components.cluster_view,
            enabled=take_over,
        )

    async def work(self) -> None:
        """Process work items until the queue closes. Only here are unexpected errors caught."""
        while True:
            try:
                async with self._queue.get() as item:
                    await self._work_on(item)
            except QueueClosed:
                return

    def remembered(self) -> int:
        """Number of entries kept between reconciles, for volumes and resources together."""
        own = len(self._retries) + len(self._rechecks) + len(self._saved_volumes)
        return own + self._cluster_view.remembered()

    def forget_gone(self) -> None:
        """Drop the state kept for volumes and resources that no longer exist."""
        self._cluster_view.forget_gone()
        self._rechecks.keep(self._index.resources())
        self._saved_volumes.keep(self._cluster_view.saved)
        self._retries.forget_gone()
        self._replacer.forget_gone()
        self._changer.forget_before(asyncio.get_running_loop().time() - WATCH_DELAY_MOST)

    async def _work_on(self, item: WorkItem[ResourceName]) -> None:
        """Reconcile an item, and requeue it if that fails."""
        try:
            await self.reconcile(item)
        except Again as error:
            self._retries.failed(item, error, after=error.after)
        except Refused as error:
            self._retries.failed(item, error, after=REFUSED_LEAST)
        except Exception:
            log.exception(
                "unexpected error while reconciling this LINSTOR resource, a defect of the "
                "service. It is retried, which also completes a replacement in progress. "
                "Please report it with the traceback",
                extra=facts(resource=item.key),
            )
            self._retries.failed(item, None, after=REFUSED_LEAST)
        else:
            self._retries.succeeded(item.key)

    async def reconcile(self, item: WorkItem[ResourceName]) -> None:
        """Read where the data of one resource is now, decide on its volumes, and act."""
        proceed, failed = await self._resuming.finish(item)
        if not proceed:
            return
        if not self._index.of(item.key) and item.key not in self._cluster_view.saved:
            self._no_volume(item)
        elif (reading := await self._read(item)) is not None:
            await self._decide(item, reading)
        else:
            self._queue.add(
                item.key,
                after=DEFER_FOR,
                since=item.since,
                source=item.source,
                requested=item.requested,
            )
        if failed is not None:
            raise failed

    async def _read(self, item: WorkItem[ResourceName]) -> Reading | None:
        """What a change starts from is read for it alone."""
        if item.limit is self._queue.changes:
            return await self._reader.read_alone(item.key)
        return await self._reader.read(item.key, newer_than=item.requested)

    async def _decide(self, item: WorkItem[ResourceName], reading: Reading) -> None:
        definition, placement = reading.definition, reading.placement
        await self._cluster_view.ensure_nodes(placement)
        if definition is not None and definition.saved and self._leadership.leading:
            known = frozenset(self._replacer.unfinished.of(item.key))
            await self._saved_volumes.take_over(definition)
            # Only for what was taken over just now: an older entry that can't be finished must not
            # keep the volumes of the resource waiting, nor have it reconciled without a pause.
            if not known.issuperset(self._replacer.unfinished.of(item.key)):
                self._queue.add(item.key, priority=Priority.URGENT, since=item.since)
                return
        log.debug(
            "reconciling",
            extra=facts(
                resource=item.key,
                trigger=item.source or NO_TRIGGER,
                waited_ms=round((asyncio.get_running_loop().time() - item.since) * 1000, 1),
                data_on=",".join(sorted(placement.serving_nodes)) if placement else "unknown",
            ),
        )
        in_sync, failed = True, None
        async for volume in yielding(tuple(self._index.of(item.key)), every=YIELD_EVERY):
            case = self._cluster_view.case(volume, definition, placement)
            decision = decide(case)
            self._reporter.duplicates(volume, case.duplicates)
            try:
                in_sync &= await self._carry_out(item, volume, decision, reading)
            except (Again, Refused) as error:
                # A failure of one volume must not block the others of the resource.
                failed = error
        if failed is not None:
            raise failed
        if self._index.of(item.key):
            # Else it is here for a saved volume: no volume is affected by where its replicas are.
            self._rechecks.plan(item, placement, in_sync=in_sync)

    def _no_volume(self, item: WorkItem[ResourceName]) -> None:
        """Keep a trigger until the watch reports the volume that we have just created."""
        self._rechecks.forget(item.key)
        age = asyncio.get_running_loop().time() - self._changer.changed_at(item.key)
        if item.trigger and age < WATCH_DELAY_MOST:
            after = WATCH_DELAY_FIRST if age < WATCH_DELAY_SHORT else RECHECK_AFTER
            self._queue.add(item.key, after=after, since=item.since, source=item.source)

    async def _carry_out(
        self, item: WorkItem[ResourceName], volume: Volume, decision: Decision, reading: Reading
    ) -> bool:
        """Act on a decision. Returns whether nothing had to be changed."""
        self._reporter.report(volume, decision)
        match decision:
            case InSync() | Skipped() | Refusal():
                self._retries.volume_in_sync(volume.name)
                return True
            case Deferred():
                self._retries.defer(item, volume, decision)
                return True
            case Resume():
                # It was just finished, or another instance finishes it; the index follows.
                if self._leadership.leading:
                    self._retries.wait(item, volume, RECHECK_RESUMED_AFTER)
                return False
            case Change():
                pass
        if not self._may_begin():
            return False
        ahead = self._may_go_ahead(item, decision)
        if reading.bulk or not self._queue.may_change(item, urgent=decision.urgent, ahead=ahead):
            priority = Priority.URGENT if decision.urgent else Priority.CHANGE
            self._queue.add(item.key, priority=priority, since=item.since, source=item.source)
            return False
        await self._changer.change(item, volume, reading, ahead=ahead)
        return False

    def _may_go_ahead(self, item: WorkItem[ResourceName], change: Change) -> bool:
        """Whether all other changes give way to this one."""
        return change.urgent and self._preemption.is_free and self._queue.is_alone(item)
