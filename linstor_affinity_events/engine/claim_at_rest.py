"""Waits until nobody writes to a claim any more, before its volume is removed."""

import asyncio

from linstor_affinity_events.engine.ports import Volumes
from linstor_affinity_events.model.manifest import Manifest, version_of
from linstor_affinity_events.model.names import ClaimName
from linstor_affinity_events.model.obstacles import csi_resizer_writes_claim

RESIZE_AT_MOST, RESIZE_CHECKED_EVERY = 1.0, 0.05
"""How long the removal of a volume waits for a resize of its claim. LINSTOR does not grow a volume
while a replica is not UpToDate, which may need this very replacement, so it can't be long.
"""


def is_at_rest(claim: Manifest | None, before: Manifest | None) -> bool:
    """Whether no resize of it is under way, and nobody wrote to it since it was last read."""
    if claim is None:
        return True
    written = before is not None and version_of(before) != version_of(claim)
    return not written and not csi_resizer_writes_claim(claim)


class ClaimAtRest:
    """Reads the claim of one replacement."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes, self._clock = volumes, asyncio.get_running_loop().time
        self._until: float | None = None
        """Until when to wait for csi-resizer, once it was asked for a claim at rest."""

    async def read(self, name: ClaimName, before: Manifest | None) -> Manifest | None:
        """Read the claim once csi-resizer is done with it, or has taken too long. The volume binder
        calls a claim Lost if it learns of a write to it in the milliseconds without its volume, so
        that the last write must be a moment ago. `before` is the claim as last read.
        """
        if self._until is None:
            self._until = self._clock() + RESIZE_AT_MOST
        while True:
            claim = await self._volumes.read_claim(name)
            if is_at_rest(claim, before) or self._clock() >= self._until:
                return claim
            before = claim
            await asyncio.sleep(RESIZE_CHECKED_EVERY)
