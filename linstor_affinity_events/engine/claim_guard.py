"""Keeps claims from turning Lost while their volume is replaced, and sees that none did."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.ports import Sighting, Telemetry, Volumes
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.manifest import (
    Manifest,
    finalizers_of,
    phase_of,
    tombstone_name,
    uid_of,
)
from linstor_affinity_events.model.note import Note

log = logging.getLogger(__name__)

GUARD_AT_MOST = 60.0
NEWS_AT_MOST = 0.5
PROTECTION = "kubernetes.io/pv-protection"
PROTECTION_AT_MOST = 0.05
BOUND_WITHIN = 5.0


class ClaimGuard:
    """Waits for the volume binder, which alone writes phases."""

    def __init__(
        self,
        volumes: Volumes,
        telemetry: Telemetry,
        delays: Callable[[], Backoff],
        *,
        timeout: float,
    ) -> None:
        self._volumes, self._telemetry = volumes, telemetry
        self._delays, self._timeout = delays, timeout

    async def until_let_go(self, note: Note, sighting: Sighting) -> tuple[Manifest | None, bool]:
        """Wait until the binder has let go of the claim, or somebody changed the volume instead.

        Answers the volume as it is then, and True; after the guard's time without any sign of the
        binder's life, on any volume, False.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            silent_since = max(begun, self._volumes.last_phase_change())
            deadline = min(silent_since + self._timeout, begun + GUARD_AT_MOST)
            if clock() >= deadline:
                log.warning("the binder did not answer in time", extra=facts(pv=note.pv))
                return None, False
            seen = sighting.latest
            # A watch that lags may still tell of an earlier incarnation: only an uncached read
            # can say that ours is gone.
            if seen is not None and uid_of(seen) == note.uid and _let_go(seen):
                return await self._unprotected(note, sighting, seen), True
            try:
                async with asyncio.timeout(min(NEWS_AT_MOST, deadline - clock())):
                    await sighting.news()
            except TimeoutError:
                pv = await self._volumes.read(note.pv)
                if pv is None or uid_of(pv) != note.uid or _let_go(pv):
                    return pv, True

    @staticmethod
    async def _unprotected(note: Note, sighting: Sighting, seen: Manifest) -> Manifest:
        """Give the protection controller a moment: it drops its finalizer right after the binder's
        write, and a removal sent in between would only end in a conflict.
        """
        if PROTECTION not in finalizers_of(seen):
            return seen
        with suppress(TimeoutError):
            async with asyncio.timeout(PROTECTION_AT_MOST):
                while sighting.latest is seen:
                    await sighting.news()
        latest = sighting.latest
        return latest if latest is not None and uid_of(latest) == note.uid else seen

    async def see_bound(self, note: Note) -> None:
        """See that the claim kept its volume; it is told if it ever got lost on the way."""
        if note.claim is None:
            return
        delays, lost = self._delays(), False
        deadline = asyncio.get_running_loop().time() + BOUND_WITHIN
        while True:
            claim = await self._volumes.read_claim(note.claim)
            if claim is None or uid_of(claim) != note.claim.uid or phase_of(claim) == "Bound":
                return
            if phase_of(claim) == "Lost" and not lost:
                lost = True
                self._telemetry.claim_lost()
                log.warning("claim seen Lost", extra=facts(pv=note.pv, claim=note.claim))
            if asyncio.get_running_loop().time() > deadline:
                log.error(
                    "claim is not bound again",
                    extra=facts(pv=note.pv, claim=note.claim, phase=phase_of(claim)),
                )
                return
            await asyncio.sleep(delays.next())


def _let_go(pv: Manifest) -> bool:
    named = (pv["spec"].get("claimRef") or {}).get("name")
    return bool(named == tombstone_name(pv) and phase_of(pv) != "Bound")
