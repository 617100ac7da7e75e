"""Writes that a recreated volume is Bound, for a volume binder that is behind.

The binder (the PersistentVolume controller) sends three requests for each replaced volume: it reads
the claim that the detached claimRef names, and writes the phases Released and Bound. At its default
limit of 20 per second that is what a large evacuation waits for. It writes no phase that is there
already, so the third can be spared: docs/decisions/2026-11-26-a-busy-binder-is-spared-a-write.md.
"""

import asyncio
import logging

from linstor_affinity_events.engine.ports import Volumes
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.manifest import Manifest, name_of

log = logging.getLogger(__name__)

TRIED_AGAIN_AFTER = 3600.0
"""How long a rejection is taken for lasting."""


class PhaseWriter:
    """The permission for it is optional: what is not written here, the binder writes."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._not_before = float("-inf")

    async def set_bound(self, made: Manifest) -> bool:
        """Set the phase of a volume that was just created. Returns whether it is written."""
        clock = asyncio.get_running_loop().time
        if clock() < self._not_before:
            return False
        try:
            await self._volumes.set_bound(made)
        except Again:
            # The binder was first, or will be.
            return False
        except Refused as error:
            self._not_before = clock() + TRIED_AGAIN_AFTER
            log.info(
                "this service may not write the phase of recreated volumes (optional permission "
                "to patch persistentvolumes/status): many changes at once take longer. Everything "
                "else works",
                extra=facts(pv=name_of(made), error=error),
            )
            return False
        return True
