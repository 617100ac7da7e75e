"""Finds the last version of a removed volume, and copies late writes to the new one."""

import asyncio
import logging
from collections import deque
from contextlib import suppress

from linstor_affinity_events.engine.ports import Volumes, VolumeWatch
from linstor_affinity_events.errors import Conflict, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.claim_ref import rebound
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.late_write import apart, joined, late_patch
from linstor_affinity_events.model.manifest import (
    Manifest,
    Patch,
    claim_of,
    guarded,
    name_of,
    uid_of,
)

log = logging.getLogger(__name__)

_COPIED = (
    "another client changed the volume while this service deleted it: the change was applied to "
    "the recreated volume, so it is not lost"
)
_OTHER_CLAIM = (
    "another client gave the volume to another claim while this service deleted it: the recreated "
    "volume has that claimRef. Nothing is retried; check that it is intended"
)

WATCH_WITHIN = 1.0
"""The watch reports it within milliseconds, while the claim is read."""

MAX_CONFLICTS = 5

MAX_PATCHES = 50
"""Enough to find a few rejected changes among thousands."""


async def carry_over_late_write(
    volumes: Volumes, entry: JournalEntry, made: Manifest, volume_watch: VolumeWatch
) -> None:
    """Copy a late write to the new volume: one just when the old volume was removed.

    The API server compares versions when the last finalizer goes, and removes the object after
    that. It accepts a write in between with status 200, but only the last watch event of the object
    shows it. Raises Unreachable, after which it may be retried.
    """
    last = await _last_version(entry, volume_watch)
    if last is None:
        log.warning(
            "the watch did not report the final state of the deleted volume: what another "
            "client wrote to it in that moment may be missing on the recreated volume. "
            "Everything else is there; nothing is retried",
            extra=facts(pv=entry.pv, claim=entry.claim),
        )
        return
    pv: Manifest | None = made
    for _ in range(MAX_CONFLICTS):
        if pv is None:
            return
        patch = late_patch(entry.wanted, last, pv, rebound_from=entry.claim)
        if patch is None:
            return
        try:
            copied = await _patched(volumes, pv, patch)
        except Conflict:
            pv = await volumes.read(entry.pv)
            continue
        if copied:
            claim_changed = rebound(last, entry.claim)
            log.log(
                logging.WARNING if claim_changed else logging.INFO,
                _OTHER_CLAIM if claim_changed else _COPIED,
                extra=facts(pv=entry.pv, claim=claim_of(last) if claim_changed else entry.claim),
            )
        return


async def _patched(volumes: Volumes, pv: Manifest, patch: Patch) -> bool:
    """Apply all that Kubernetes accepts, so that a change that it rejects, such as a label that
    another client wrote to that end, takes no other one with it. Returns whether it accepted any.

    What is rejected is tried in halves, in MAX_PATCHES requests at most: others may write very many
    labels and annotations, and other volumes wait meanwhile.
    """
    pending, requests, any_accepted = deque([apart(patch)]), 0, False
    while pending and requests < MAX_PATCHES:
        parts = pending.popleft()
        requests += 1
        try:
            pv = await volumes.patch(name_of(pv), guarded(pv, joined(parts)))
        except Refused as error:
            if len(parts) == 1:
                _rejected(pv, parts[0], error)
            else:
                middle = len(parts) // 2
                pending.extend((parts[:middle], parts[middle:]))
        else:
            any_accepted = True
    if pending:
        log.error(
            "another client made very many changes to the volume while this service deleted it, "
            "and Kubernetes rejected some on the recreated volume: the others were not applied. "
            "The volume exists without them. Nothing is retried: apply them again if they are "
            "needed",
            extra=facts(pv=name_of(pv), changes=sum(map(len, pending))),
        )
    return any_accepted


def _rejected(pv: Manifest, change: Patch, error: Refused) -> None:
    log.error(
        "another client changed the volume while this service deleted it, and Kubernetes "
        "rejected that change on the recreated volume. The volume exists without it. It is "
        "not retried: apply it again if it is needed",
        extra=facts(pv=name_of(pv), change=change, error=error),
    )


async def _last_version(entry: JournalEntry, volume_watch: VolumeWatch) -> Manifest | None:
    with suppress(TimeoutError):
        async with asyncio.timeout(WATCH_WITHIN):
            while True:
                gone = volume_watch.gone
                if gone is not None and uid_of(gone) == entry.uid:
                    return gone
                await volume_watch.event()
    return None
