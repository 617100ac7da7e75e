"""Pairs of writes of a replacement that are sent concurrently."""

import asyncio

from linstor_affinity_events.engine.ports import Volumes
from linstor_affinity_events.engine.run_dependencies import RunDependencies
from linstor_affinity_events.errors import Again, Conflict, Refused
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.results import MarkedAndSaved

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


async def marked_and_saved(
    dependencies: RunDependencies, patch: Patch, entry: JournalEntry
) -> MarkedAndSaved:
    """Mark the volume and save the entry. Returns what succeeded, and why the rest did not: that
    one first which may have taken effect all the same.
    """
    marked, saved = await asyncio.gather(
        dependencies.volumes.patch(entry.pv, patch),
        dependencies.journal.save(entry),
        return_exceptions=True,
    )
    errors = list[Again | Refused]()
    for each in (marked, saved):
        if isinstance(each, Again | Refused):
            errors.append(each)
        elif isinstance(each, BaseException):
            raise each
    return MarkedAndSaved(
        pv=None if isinstance(marked, BaseException) else marked,
        entry=None if isinstance(saved, BaseException) else saved,
        error=min(errors, key=lambda each: isinstance(each, Refused), default=None),
    )
