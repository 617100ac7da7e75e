"""Prevents that claims become Lost while their volume is replaced."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from linstor_affinity_events.engine.ports import Telemetry, Volumes, VolumeWatch
from linstor_affinity_events.engine.resync_prediction import SAME_RESYNC, ResyncPrediction
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    finalizers_of,
    phase_of,
    tombstone_name,
    uid_of,
    version_of,
)
from linstor_affinity_events.model.names import Uid
from linstor_affinity_events.model.results import Postponed

log = logging.getLogger(__name__)

GUARD_AT_MOST = 60.0
EVENT_WITHIN = 0.5
PROTECTION = "kubernetes.io/pv-protection"
PROTECTION_AT_MOST = 0.05
BEHIND_AFTER = 0.08
"""A binder that takes so long for one volume has others to do first. Without a queue, its two
requests for it take some milliseconds; with the default limit of 20 per second, 100 ms.
"""


class ClaimGuard:
    """Waits for the volume binder (the PersistentVolume controller), the only writer of phases."""

    def __init__(
        self,
        volumes: Volumes,
        telemetry: Telemetry,
        *,
        timeout: float,
        on_binder_wait: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`on_binder_wait` gets the seconds that the binder took to release a volume."""
        self._volumes, self._telemetry, self._timeout = volumes, telemetry, timeout
        self._on_binder_wait = on_binder_wait
        self._resyncs = ResyncPrediction()
        self._checked = dict[Uid, float]()
        """When a resync bound a volume to its claim again that was to be removed."""
        self._waits = deque[float](maxlen=3)
        """How long the binder took for the last volumes."""

    @property
    def is_binder_behind(self) -> bool:
        """Whether the binder has more to do than its request limit allows at once."""
        return max(self._waits, default=0.0) >= BEHIND_AFTER

    async def until_released(
        self, entry: JournalEntry, detached: Manifest, volume_watch: VolumeWatch
    ) -> tuple[Manifest | None, bool]:
        """Wait until the binder has released the volume from its claim, or another client changed
        it.

        `detached` is the volume right after its claimRef was detached. Returns the volume at that
        time and True; False if the binder wrote no phase of any volume for the guard's timeout.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            last_sign = max(begun, self._volumes.last_phase_change())
            deadline = min(last_sign + self._timeout, begun + GUARD_AT_MOST)
            if clock() >= deadline:
                self._telemetry.volume_controller_timed_out()
                log.warning(
                    "the PersistentVolume controller (kube-controller-manager) did not set "
                    "the deleted volume to Released within --claim-guard-timeout: "
                    "recreating it without waiting longer. The claim may be Lost for a "
                    "moment; no data is affected",
                    extra=facts(pv=entry.pv),
                )
                return None, False
            seen = volume_watch.latest
            # A lagging watch may still report an earlier incarnation: only an uncached read can
            # prove that ours is gone.
            if seen is not None and uid_of(seen) == entry.uid:
                if _is_released(seen):
                    self._waits.append(clock() - begun)
                    self._on_binder_wait(clock() - begun)
                    return await self._until_unprotected(entry, volume_watch, seen), True
                if _names_other_claim(seen) and _is_newer(seen, detached):
                    self._waits.append(clock() - begun)
                    if claim_of(seen) == entry.claim:
                        self._saw_resync()
                    return seen, True
            try:
                async with asyncio.timeout(min(EVENT_WITHIN, deadline - clock())):
                    await volume_watch.event()
            except TimeoutError:
                pv = await self._volumes.read(entry.pv)
                if (
                    pv is None
                    or uid_of(pv) != entry.uid
                    or _is_released(pv)
                    or _names_other_claim(pv)
                ):
                    self._waits.append(clock() - begun)
                    return pv, True

    def found_lost(self) -> None:
        """A claim was found to be Lost: there was a resync a while ago."""
        self._resyncs.saw(asyncio.get_running_loop().time(), late=True)

    async def avoid_resync(
        self, pv: Manifest, entry: JournalEntry, watch: VolumeWatch
    ) -> Postponed | None:
        """Return when no resync of the binder is expected: None if that was so from the beginning.

        The claim of a volume that is absent during a resync becomes Lost. If the resync comes
        meanwhile, it binds `pv`, the volume to be removed, to its claim again. That claim has been
        checked then: the volume need not wait once more.
        """
        clock = asyncio.get_running_loop().time
        at_most = self._resyncs.wait(clock(), lag=max(self._waits, default=0.0))
        if not at_most or clock() - self._checked.pop(entry.uid, float("-inf")) < SAME_RESYNC:
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                while not _is_restored(watch.latest, pv, entry):
                    await watch.event()
                self._saw_resync()
                self._checked[entry.uid] = clock()
                return Postponed(restored=True)
        return Postponed()

    def _saw_resync(self) -> None:
        now = asyncio.get_running_loop().time()
        self._resyncs.saw(now)
        self._checked = {uid: at for uid, at in self._checked.items() if now - at < SAME_RESYNC}

    @staticmethod
    async def _until_unprotected(
        entry: JournalEntry, volume_watch: VolumeWatch, seen: Manifest
    ) -> Manifest:
        """Wait briefly for the protection controller: it removes its finalizer right after the
        binder's write, and a release in between would end in a conflict.
        """
        if PROTECTION not in finalizers_of(seen):
            return seen
        with suppress(TimeoutError):
            async with asyncio.timeout(PROTECTION_AT_MOST):
                while volume_watch.latest is seen:
                    await volume_watch.event()
        latest = volume_watch.latest
        return latest if latest is not None and uid_of(latest) == entry.uid else seen


def _names_other_claim(pv: Manifest) -> bool:
    named = claim_of(pv)
    return named is not None and named.name != tombstone_name(pv)


def _is_restored(seen: Manifest | None, pv: Manifest, entry: JournalEntry) -> bool:
    """Whether the binder has bound the volume to its claim again. Until it has written the phase
    too, a conflict would have it restore the claimRef once more.
    """
    return (
        seen is not None
        and uid_of(seen) == entry.uid
        and claim_of(seen) == entry.claim
        and phase_of(seen) == "Bound"
        and _is_newer(seen, pv)
    )


def _is_released(pv: Manifest) -> bool:
    return not _names_other_claim(pv) and phase_of(pv) != "Bound"


def _is_newer(seen: Manifest, than: Manifest) -> bool:
    """Whether a resourceVersion is later. They are increasing numbers: Kubernetes guarantees it
    from 1.35 on, and it was so before. If they are not numbers, only uncached reads show it.
    """
    new, old = version_of(seen), version_of(than)
    return new.isdigit() and old.isdigit() and int(new) > int(old)
