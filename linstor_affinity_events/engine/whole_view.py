"""Where all replicas are: in one request where LINSTOR manages it, else resource by resource."""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from linstor_affinity_events.engine.ports import Linstor
from linstor_affinity_events.errors import Again, Refused, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.placement import Placement

log = logging.getLogger(__name__)

READERS = 4
BULK_AGAIN = 300.0
"""How long single reads are preferred after the one big read failed: it fails when a satellite
hangs, slowly each time, and a node failure is when the pass matters most.
"""


class WholeView:
    """Reads placements of many resources, and remembers which way works now."""

    def __init__(self, linstor: Linstor) -> None:
        self._linstor = linstor
        self._bulk_from = float("-inf")

    async def placements(
        self, resources: Iterable[ResourceName]
    ) -> tuple[Mapping[ResourceName, Placement], bool]:
        """The placements of these resources, perhaps of more, and whether they came in one piece.
        A resource that LINSTOR does not know is not among them.
        """
        found = await self.in_one_piece()
        return (await self.one_by_one(resources), False) if found is None else (found, True)

    @property
    def bulk_works(self) -> bool:
        """Whether one big read is worth trying."""
        return asyncio.get_running_loop().time() >= self._bulk_from

    async def in_one_piece(self) -> Mapping[ResourceName, Placement] | None:
        """The placements of all resources; None while that is not to be had."""
        if not self.bulk_works:
            return None
        try:
            return await self._linstor.placements()
        except Unreachable as error:
            self._bulk_from = asyncio.get_running_loop().time() + BULK_AGAIN
            log.info("reading resources one by one", extra=facts(why=error))
            return None

    async def one_by_one(
        self, resources: Iterable[ResourceName]
    ) -> Mapping[ResourceName, Placement]:
        """Read each of these resources, a few at a time, whatever satellites do."""
        found: dict[ResourceName, Placement] = {}
        rest = iter(tuple(resources))

        async def read_on() -> None:
            for resource in rest:
                placement = await self._linstor.placement(resource)
                if placement is not None:
                    found[resource] = placement

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(READERS):
                    group.create_task(read_on(), name=f"reader-{number}")
        except* (Again, Refused) as errors:
            raise errors.exceptions[0] from None
        return found
