"""Reads all placements: in one bulk read if LINSTOR manages it, else resource by resource."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from linstor_affinity_events.engine.ports import Linstor
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.placement import Placement

log = logging.getLogger(__name__)

READERS = 4
"""Minimum number of resources that are read concurrently."""

BULK_RETRY_AFTER = 300.0
"""How long single reads are preferred after a bulk read failed. It fails slowly each time while a
satellite hangs, and a full reconcile matters most during a node failure.
"""

REUSE_FOR = 600.0
"""Maximum age of a reading that is reused from an interrupted attempt."""


@dataclass(frozen=True, slots=True)
class View:
    """The placements that were read, without resources that LINSTOR does not know."""

    placements: Mapping[ResourceName, Placement]
    since: float
    """When the oldest of them was read, by the loop's clock."""

    bulk: bool = False
    """Whether one bulk read returned them."""


class PlacementReader:
    """Reads placements of many resources, and remembers which way works now.

    Reading one by one, it keeps its readings until it has read all: the next attempt continues an
    interrupted or failed one, so that it completes however long it takes.
    """

    def __init__(self, linstor: Linstor, *, readers: int = READERS) -> None:
        self._linstor, self._readers = linstor, max(READERS, readers)
        self._bulk_from = float("-inf")
        self._read_so_far: dict[ResourceName, tuple[float, Placement | None]] = {}
        self._invalidated: set[ResourceName] = set()
        self._wanted: Mapping[ResourceName, None] = {}
        """What is being read one by one: only this is invalidated meanwhile. Events may be about
        any name, so remembering them all would have no limit.
        """

    @property
    def read_so_far(self) -> int:
        """Number of resources read by attempts that did not complete."""
        return len(self._read_so_far)

    async def placements(self, resources: Iterable[ResourceName]) -> View:
        """The placements of these resources, possibly of more."""
        begun = asyncio.get_running_loop().time()
        found = await self.bulk_read()
        if found is None:
            return await self.one_by_one(resources)
        self._read_so_far.clear()
        return View(found, begun, bulk=True)

    @property
    def bulk_works(self) -> bool:
        """Whether a bulk read is worth trying."""
        return asyncio.get_running_loop().time() >= self._bulk_from

    async def bulk_read(self) -> Mapping[ResourceName, Placement] | None:
        """The placements of all resources; None while a bulk read is not possible."""
        if not self.bulk_works:
            return None
        try:
            return await self._linstor.placements()
        except Unreachable as error:
            self._bulk_from = asyncio.get_running_loop().time() + BULK_RETRY_AFTER
            log.warning(
                "LINSTOR did not return all resources at once, usually because a satellite "
                "hangs; each is read by requests of its own now, which is slower. Check: "
                "linstor node list",
                extra=facts(error=error, read_all_again_in_s=BULK_RETRY_AFTER),
            )
            return None

    def invalidate(self, resource: ResourceName) -> None:
        """Mark a reading as outdated: the resource may have changed."""
        if resource in self._wanted or resource in self._read_so_far:
            self._invalidated.add(resource)

    async def one_by_one(self, resources: Iterable[ResourceName]) -> View:
        """Read each of these resources, a few at a time; a hung satellite does not prevent it."""
        wanted = dict.fromkeys(resources)
        self._drop_outdated(wanted)
        self._wanted = wanted
        try:
            await self._read([name for name in wanted if name not in self._read_so_far])
            # Read again what was invalidated meanwhile; later triggers are queued on their own.
            await self._read([name for name in wanted if name in self._invalidated])
        finally:
            self._wanted = {}
        read_so_far, self._read_so_far = self._read_so_far, {}
        self._invalidated.clear()
        found = {
            name: placement for name, (_, placement) in read_so_far.items() if placement is not None
        }
        now = asyncio.get_running_loop().time()
        return View(found, min((at for at, _ in read_so_far.values()), default=now))

    def _drop_outdated(self, wanted: Mapping[ResourceName, None]) -> None:
        """Drop the readings that are outdated or no longer requested."""
        oldest = asyncio.get_running_loop().time() - REUSE_FOR
        self._read_so_far = {
            name: reading
            for name, reading in self._read_so_far.items()
            if name in wanted and name not in self._invalidated and reading[0] > oldest
        }
        self._invalidated.clear()

    async def _read(self, resources: Iterable[ResourceName]) -> None:
        clock = asyncio.get_running_loop().time
        rest = iter(tuple(resources))

        async def read_on() -> None:
            for resource in rest:
                begun = clock()
                self._invalidated.discard(resource)
                self._read_so_far[resource] = begun, await self._linstor.placement(resource)

        await together(*(read_on() for _ in range(self._readers)))
