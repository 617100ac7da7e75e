"""The `migrate-properties` command: moves saved PVs to where version 1.5 of the reference has them.

Saved PVs are the reference controller's record of its unfinished replacements.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from linstor_affinity_events.adapters.linstor.rest import LinstorRest
from linstor_affinity_events.app.peers import linstor_connection
from linstor_affinity_events.errors import Again, Missing, Refused
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.settings import Settings


@dataclass(frozen=True, slots=True)
class Move:
    """One resource definition that has a saved PV, and what was done with it."""

    resource: ResourceName
    done: str
    failed: bool = False


async def migrate(settings: Settings, *, dry_run: bool) -> AsyncIterator[Move]:
    """Move each saved PV. It is safe to run again: a moved saved PV is not found a second time.

    A saved PV that volume 0 already has is the newer one and is kept.
    """
    connection = linstor_connection(settings)
    async with LinstorRest(connection, namespace=settings.property_namespace) as linstor:
        for resource, listed in sorted((await linstor.definitions()).items()):
            definition = await linstor.definition(resource) if listed.may_have_saved else None
            if definition is not None and definition.unreadable:
                yield Move(resource, "not changed: it has too many properties", failed=True)
            if definition is None or -1 not in definition.saved:
                continue
            newer = 0 in definition.saved
            done = "deleted, because volume 0 has a newer one" if newer else "moved to volume 0"
            if dry_run:
                yield Move(resource, f"would be {done}")
                continue
            try:
                if newer:
                    await linstor.forget_saved(resource, -1)
                else:
                    await linstor.move_saved(resource, definition.saved[-1])
            except Missing:
                yield Move(resource, "not changed: it has no volume 0", failed=True)
            except (Again, Refused) as error:
                # The others may be movable.
                yield Move(resource, f"not changed: {error}", failed=True)
            else:
                yield Move(resource, done)
