"""Hears how a volume was when it went, and gives its like what it lacks of that."""

import asyncio
import logging
from contextlib import suppress

from linstor_affinity_events.engine.ports import Sighting, Volumes
from linstor_affinity_events.errors import Conflict, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.late_change import late_patch
from linstor_affinity_events.model.manifest import Manifest, claim_of, rebound, uid_of
from linstor_affinity_events.model.note import Note

log = logging.getLogger(__name__)

TOLD_WITHIN = 1.0
"""The watch tells of it within milliseconds, while the claim is looked at."""

MAX_CONFLICTS = 5


async def heed_last_word(volumes: Volumes, note: Note, made: Manifest, sighting: Sighting) -> None:
    """Take over what somebody changed just when the old volume was removed.

    The API server compares versions when the last finalizer goes and removes the object after
    that: what is written in between is accepted, and answered with 200, but seen in the watch's
    last event of the object only. Raises Unreachable, after which it may be tried again.
    """
    last = await _last_word(note, sighting)
    if last is None:
        log.warning(
            "the watch did not tell how the old volume was when it went; what somebody wrote on it "
            "in that very moment is lost, all else is on the new one",
            extra=facts(pv=note.pv, claim=note.claim),
        )
        return
    pv: Manifest | None = made
    for _ in range(MAX_CONFLICTS):
        if pv is None:
            return
        patch = late_patch(note.wanted, last, pv, rebound_from=note.claim)
        if patch is None:
            return
        try:
            await volumes.patch(note.pv, patch)
        except Conflict:
            pv = await volumes.read(note.pv)
            continue
        except Refused as error:
            told = facts(pv=note.pv, change=patch, why=error)
            log.log(logging.ERROR, "a change that came with the removal is lost", extra=told)
        else:
            claimed = rebound(last, note.claim)
            log.log(
                logging.WARNING if claimed else logging.INFO,
                "took over what changed while it was removed",
                extra=facts(pv=note.pv, claim=claim_of(last) if claimed else note.claim),
            )
        return


async def _last_word(note: Note, sighting: Sighting) -> Manifest | None:
    with suppress(TimeoutError):
        async with asyncio.timeout(TOLD_WITHIN):
            while True:
                gone = sighting.gone
                if gone is not None and uid_of(gone) == note.uid:
                    return gone
                await sighting.news()
    return None
