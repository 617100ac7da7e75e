"""Reconciles many queued resources with one bulk read.

A satellite that connects or disconnects makes LINSTOR send an event for every replica on it:
thousands at once, most without any effect. Two requests for each would load the controller when
it is already busy.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import closing

from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.keyed_queue import KeyedQueue, WorkItem
from linstor_affinity_events.engine.placement_reader import PlacementReader
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.reconciler import Reconciler
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import Again, Missing, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.placement import Definition, Placement

log = logging.getLogger(__name__)

SMALLEST = 100
SHARE = 50
"""For each volume of the cluster a bulk read costs us about 1/60 of the two single requests."""

COLLECT_FOR = 0.2
"""A burst of events takes some time; events that arrive after a read began need the next read."""

RETRY_AFTER = 5.0
LIMIT_READS_FOR = 5.0
"""How long single reconciles are limited. A read takes much longer while LINSTOR hangs."""

YIELD_EVERY = 100


class BatchReconciler:
    """Waits for a large backlog, reads everything at once, and decides from that.

    It serves a work item only if its trigger is older than the read. Anything that needs more than
    a decision (a change, an unfinished replacement, a resource that is missing in the bulk read)
    is requeued for a single reconcile, which reads again. Meanwhile single reconciles continue, one
    at a time, so that the latest events do not wait. If no bulk read is possible, all workers
    reconcile one by one.
    """

    def __init__(
        self,
        ports: Ports,
        *,
        queue: KeyedQueue[ResourceName],
        cluster_view: ClusterView,
        placement_reader: PlacementReader,
        reconciler: Reconciler,
    ) -> None:
        self._queue, self._cluster_view = queue, cluster_view
        self._index, self._linstor = ports.index, ports.linstor
        self._placement_reader, self._reconciler = placement_reader, reconciler
        self._telemetry = ports.telemetry

    async def run(self) -> None:
        """Serve one batch after another, forever."""
        while True:
            await self._queue.until_backlog(self._threshold)
            served = self._placement_reader.bulk_works
            while served and self._queue.due_reads() >= self._threshold():
                with self._queue.limit_reads(for_at_most=LIMIT_READS_FOR):
                    await asyncio.sleep(COLLECT_FOR)
                    served = await self._serve()
            if not served:
                await asyncio.sleep(RETRY_AFTER)

    def _threshold(self) -> int:
        return max(SMALLEST, len(self._index.resources()) // SHARE)

    async def _serve(self) -> bool:
        """Reconcile all items requested until now. Returns False if no bulk read was possible."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            # First the reads that rarely fail: an outage is no hung satellite.
            await self._cluster_view.read_nodes()
            definitions = await self._linstor.definitions()
            placements = await self._placement_reader.bulk_read()
            if placements is None:
                return False
        except (Again, Refused, Missing) as error:
            log.info(
                "LINSTOR did not return all resources at once; reconciling them one by one, which "
                "is slower",
                extra=facts(error=error),
            )
            return False
        reconciled = 0
        with closing(self._queue.take_reads(until=begun)) as items:
            async for item in yielding(items, every=YIELD_EVERY):
                reconciled += await self._reconcile(item, definitions, placements)
        self._telemetry.batch_reconciled(reconciled)
        log.info(
            "reconciled many resources with one bulk read",
            extra=facts(reconciles=reconciled, took_s=round(clock() - begun, 2)),
        )
        return True

    async def _reconcile(
        self,
        item: WorkItem[ResourceName],
        definitions: Mapping[ResourceName, Definition],
        placements: Mapping[ResourceName, Placement],
    ) -> bool:
        definition, placement = definitions.get(item.key), placements.get(item.key)
        if definition is not None and placement is not None and not definition.saved:
            return await self._reconciler.reconcile_from_batch(item, definition, placement)
        # It may have been created or deleted between the two reads.
        self._reconciler.requeue_unbatchable(item)
        return False
