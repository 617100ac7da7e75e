"""Serves many reads of single resources from one bulk read.

A satellite that connects or disconnects makes LINSTOR send an event for every replica on it:
thousands at once, most without any effect. Two requests for each would load the controller when
it is already busy.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from linstor_affinity_events.engine.concurrency_limit import ReadLimit
from linstor_affinity_events.engine.placement_reader import PlacementReader
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.together import together
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
"""How long single reads are limited. A bulk read takes much longer while LINSTOR hangs."""

USELESS_RETRY_AFTER = 60.0
"""How long reads are single after a bulk read that lacked most of what waited."""

DEFER_FOR = 0.2
EXHAUSTED_AFTER = 20
"""After so many in a row that are too new for the last bulk read, the next one is due."""

KEEP_FOR = 10.0
"""How long a bulk read is kept at most: that of a large cluster takes tens of megabytes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One resource as LINSTOR has it; None where LINSTOR has none."""

    definition: Definition | None
    placement: Placement | None
    bulk: bool = False
    """Whether it comes from a bulk read: good enough to see that nothing is to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """All resources, as a full reconcile needs them."""

    definitions: Mapping[ResourceName, Definition]
    placements: Mapping[ResourceName, Placement]
    since: float
    """When the oldest part was read, by the loop's clock."""

    bulk: bool
    """Whether one bulk read returned all placements."""


@dataclass(slots=True)
class _Bulk:
    began: float
    definitions: Mapping[ResourceName, Definition]
    placements: Mapping[ResourceName, Placement]
    served: int = 0
    lacked: int = 0
    too_old_in_row: int = 0


class CoalescingReader:
    """Reads a resource, newer than a given moment: from the last bulk read if that began later, by
    a new one if very many wait, otherwise alone.

    While a bulk read is in progress, or serves those that wait, single reads continue one at a
    time, so that the latest events do not wait. If no bulk read is possible, all are read alone.
    """

    def __init__(
        self,
        ports: Ports,
        placement_reader: PlacementReader,
        *,
        read_nodes: Callable[[], Awaitable[None]],
        waiting: Callable[[], int],
        limit: ReadLimit,
    ) -> None:
        """`waiting` returns how many resources wait to be read; `limit` is that of their reads."""
        self._read_nodes = read_nodes
        self._linstor, self._index = ports.linstor, ports.index
        self._telemetry, self._placement_reader = ports.telemetry, placement_reader
        self._waiting, self._limit = waiting, limit
        self._bulk: _Bulk | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._reading = self._reading_alone = False
        self._not_before = float("-inf")

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def read(self, resource: ResourceName, *, newer_than: float) -> Reading | None:
        """Read one resource, as it is at that time of the loop's clock or later. Returns None if it
        has to be requested again after DEFER_FOR: then a bulk read may have it.
        """
        if not self._has_newer(newer_than) and self._pays_off():
            if self._bulk is not None and self._bulk.too_old_in_row < EXHAUSTED_AFTER:
                self._bulk.too_old_in_row += 1
                return None if self._reading_alone else await self._read_between(resource)
            await self._read_all()
        found = self._from_bulk_read(resource) if self._has_newer(newer_than) else None
        if found is None:
            return await self.read_alone(resource)
        self._telemetry.read_from_bulk()
        if not self._waiting():
            self._forget()
        # Nothing was waited for, and there are thousands of these.
        await asyncio.sleep(0)
        return found

    async def _read_between(self, resource: ResourceName) -> Reading:
        self._reading_alone = True
        try:
            return await self.read_alone(resource)
        finally:
            self._reading_alone = False

    async def read_alone(self, resource: ResourceName) -> Reading:
        """Read one resource as it is now."""
        return Reading(
            *await together(self._linstor.definition(resource), self._linstor.placement(resource))
        )

    async def read_everything(self, resources: Iterable[ResourceName]) -> Everything:
        """Read all nodes, all definitions, and the placements of these resources or of more."""
        began = self._clock()
        await self._read_nodes()
        definitions = await self._linstor.definitions()
        view = await self._placement_reader.placements(resources)
        if view.bulk and self._waiting() >= SMALLEST:
            self._keep(_Bulk(began, definitions, view.placements))
        return Everything(
            definitions=definitions,
            placements=view.placements,
            since=min(began, view.since),
            bulk=view.bulk,
        )

    def _has_newer(self, moment: float) -> bool:
        # Strictly newer: the loop's clock may not advance for a millisecond.
        return self._bulk is not None and self._bulk.began > moment

    def _from_bulk_read(self, resource: ResourceName) -> Reading | None:
        """What the last bulk read has of it. It may have been created or deleted between the two
        requests for a bulk read, so both must have it; a saved volume needs a definition of now.
        What is too long in a bulk read may be readable alone, where it has fewer fields.
        """
        bulk = self._bulk
        if bulk is None:
            return None
        definition, placement = bulk.definitions.get(resource), bulk.placements.get(resource)
        if (
            definition is not None
            and placement is not None
            and not (definition.may_have_saved or placement.unreadable)
        ):
            bulk.served += 1
            bulk.too_old_in_row = 0
            return Reading(definition, placement, bulk=True)
        bulk.lacked += 1
        if bulk.lacked >= SMALLEST // 2 > bulk.served:
            self._not_before = self._clock() + USELESS_RETRY_AFTER
        return None

    def _pays_off(self) -> bool:
        enough = max(SMALLEST, len(self._index.resources()) // SHARE)
        return (
            not self._reading
            and self._waiting() >= enough
            and self._clock() >= self._not_before
            and self._placement_reader.bulk_works
        )

    async def _read_all(self) -> None:
        """Read all resources, unless that is not possible now."""
        self._reading = True
        # Those that wait are too new for the last one: two would take twice the memory.
        self._forget()
        try:
            with self._limit.lowered(for_at_most=LIMIT_READS_FOR):
                await asyncio.sleep(COLLECT_FOR)
                began = self._clock()
                # First the reads that rarely fail: an outage is no hung satellite.
                await self._read_nodes()
                definitions = await self._linstor.definitions()
                placements = await self._placement_reader.bulk_read()
        except (Again, Refused, Missing) as error:
            log.warning(
                "LINSTOR did not return all resources at once; each one that waits is read "
                "by requests of its own now, which is slower. Nothing is missing; reading "
                "them at once is tried again",
                extra=facts(error=error, read_all_again_in_s=RETRY_AFTER),
            )
            placements = None
        finally:
            self._reading = False
        if placements is None:
            self._not_before = self._clock() + RETRY_AFTER
        else:
            self._keep(_Bulk(began, definitions, placements))

    def _keep(self, bulk: _Bulk) -> None:
        self._forget()
        self._bulk = bulk
        self._expiry = asyncio.get_running_loop().call_later(KEEP_FOR, self._forget)

    def _forget(self) -> None:
        if self._bulk is None or self._expiry is None:
            return
        self._expiry.cancel()
        log.info(
            "many resources were waiting, so LINSTOR was asked once for all of them, "
            "instead of once for each",
            extra=facts(
                reconciles_served=self._bulk.served,
                s_since_read_began=round(self._clock() - self._bulk.began, 2),
            ),
        )
        self._bulk = None
