"""Removes the old volume and creates the new one, in the shortest time without either."""

import asyncio

from linstor_affinity_events.engine.ports import Volumes
from linstor_affinity_events.errors import Conflict
from linstor_affinity_events.model.manifest import Manifest

CREATE_ATTEMPTS = 10
"""How often to try to create the volume while the old one is being removed."""


async def removed_and_created(volumes: Volumes, pv: Manifest, body: Manifest) -> Manifest | None:
    """Release the old volume and create the new one concurrently. Returns the new one, or None if
    only the removal succeeded; raises the error of the removal.

    While the old volume exists, the creation ends in a harmless conflict. So the new volume
    exists within a fraction of a round trip, and the binder, which resyncs all claims every
    15 s, hardly ever sees a claim without its volume.
    """
    responded = False

    async def remove() -> None:
        nonlocal responded
        try:
            await volumes.remove(pv)
        finally:
            responded = True

    async def create() -> Manifest | None:
        for _ in range(CREATE_ATTEMPTS):
            try:
                return await volumes.create(body)
            except Conflict:
                if responded:
                    return None
        return None

    removed, made = await asyncio.gather(remove(), create(), return_exceptions=True)
    if isinstance(removed, BaseException):
        raise removed
    return None if isinstance(made, BaseException) else made
