"""Prevents that claims become Lost while their volume is replaced, and verifies it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.ports import Telemetry, Volumes, VolumeWatch
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.claim_ref import tombstone_name
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    finalizers_of,
    phase_of,
    uid_of,
    version_of,
)

log = logging.getLogger(__name__)

GUARD_AT_MOST = 60.0
EVENT_WITHIN = 0.5
PROTECTION = "kubernetes.io/pv-protection"
PROTECTION_AT_MOST = 0.05
BOUND_WITHIN = 5.0
BINDER_PHASES = frozenset({"Bound", "Released", "Failed"})
"""Phases that only the binder writes on a volume that names a claim."""

RESYNC_PERIOD = 15.0
"""How often the binder resyncs all claims: --pvclaimbinder-sync-period of
kube-controller-manager, which hardly anybody changes.
"""

MARGIN_BEFORE, MARGIN_AFTER = 0.2, 0.5
RESYNC_KNOWN_FOR = 600.0


class ClaimGuard:
    """Waits for the volume binder (the PersistentVolume controller), the only writer of phases."""

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
        self._resync_at = float("-inf")

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
                    return await self._until_unprotected(entry, volume_watch, seen), True
                if _names_other_claim(seen) and _is_newer(seen, detached):
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
                    return pv, True

    def _saw_resync(self) -> None:
        """The binder restored a claimRef or set a claim to Lost. It does so during a resync;
        the next one follows after its period.
        """
        self._resync_at = asyncio.get_running_loop().time()

    async def avoid_resync(self) -> bool:
        """Return when no resync of the binder is expected. Returns whether it had to wait.

        The claim of a volume that is absent during a resync becomes Lost. The time of the next one
        is derived from the last one seen, and forgotten after a while, because clocks drift.
        """
        clock = asyncio.get_running_loop().time
        if clock() - self._resync_at > RESYNC_KNOWN_FOR:
            return False
        since_resync = (clock() - self._resync_at) % RESYNC_PERIOD
        if since_resync < MARGIN_AFTER:
            await asyncio.sleep(MARGIN_AFTER - since_resync)
            return True
        if since_resync > RESYNC_PERIOD - MARGIN_BEFORE:
            await asyncio.sleep(RESYNC_PERIOD - since_resync + MARGIN_AFTER)
            return True
        return False

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

    async def verify_bound(
        self,
        entry: JournalEntry,
        before: Manifest | None,
        made: Manifest,
        volume_watch: VolumeWatch,
    ) -> bool:
        """Verify that the claim is bound to its volume. Reports a Lost claim and returns False.

        `before` is the claim as it was when the old volume was removed, `made` the new volume. Once
        the binder has written that the new volume is Bound, it no longer sets the claim to Lost
        because of the old one; what it wrote before that shows in the claim.
        """
        if entry.user is None:
            return True
        await self._until_phase_written(made, volume_watch)
        delays, lost = self._delays(), False
        deadline = asyncio.get_running_loop().time() + BOUND_WITHIN
        while True:
            claim = await self._volumes.read_claim(entry.user)
            if claim is None or uid_of(claim) != entry.user.uid:
                return not lost
            bound = phase_of(claim) == "Bound"
            if not lost and (phase_of(claim) == "Lost" or (bound and _was_lost(before, claim))):
                lost = True
                self._saw_resync()
                self._telemetry.claim_lost()
                log.warning(
                    "claim was Lost for a moment while its volume was replaced, and is "
                    "Bound again. Nothing is missing, and no data is affected; there is "
                    "nothing to do"
                    if bound
                    else (
                        "claim is Lost, although its volume is recreated: the PersistentVolume "
                        "controller (kube-controller-manager) binds it again within 15 s. New "
                        "pods wait until then; no data is affected"
                    ),
                    extra=facts(pv=entry.pv, claim=entry.user),
                )
            if bound:
                return not lost
            if asyncio.get_running_loop().time() > deadline:
                log.error(
                    "claim is not bound to the recreated volume yet, after 5 s. The volume "
                    "exists, and no data is affected; this service does nothing more. "
                    "Check the PersistentVolume controller (kube-controller-manager)",
                    extra=facts(pv=entry.pv, claim=entry.user, claim_phase=phase_of(claim)),
                )
                return False
            await asyncio.sleep(delays.next())

    async def _until_phase_written(self, made: Manifest, volume_watch: VolumeWatch) -> None:
        """Wait until the new volume's phase is written, unless the binder writes no phase of any
        volume for the guard's timeout.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            seen = volume_watch.latest
            if (
                seen is not None
                and uid_of(seen) == uid_of(made)
                and phase_of(seen) in BINDER_PHASES
            ):
                return
            last_sign = max(begun, self._volumes.last_phase_change())
            deadline = min(last_sign + self._timeout, begun + RESYNC_PERIOD)
            if clock() >= deadline:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await volume_watch.event()


def _was_lost(before: Manifest | None, claim: Manifest) -> bool:
    """Whether the binder has written the claim's phase since, which it does only to change it."""
    if before is None or version_of(before) == version_of(claim):
        return False
    return _phase_written(before) != _phase_written(claim)


def _phase_written(claim: Manifest) -> str | None:
    """When the owner of the claim's phase field has last written its status."""
    for entry in claim["metadata"].get("managedFields") or ():
        status = (entry.get("fieldsV1") or {}).get("f:status") or {}
        if "f:phase" in status:
            return str(entry.get("time"))
    return None


def _names_other_claim(pv: Manifest) -> bool:
    named = claim_of(pv)
    return named is not None and named.name != tombstone_name(pv)


def _is_released(pv: Manifest) -> bool:
    return not _names_other_claim(pv) and phase_of(pv) != "Bound"


def _is_newer(seen: Manifest, than: Manifest) -> bool:
    """Whether a resourceVersion is later. They are increasing numbers: Kubernetes guarantees it
    from 1.35 on, and it was so before. If they are not numbers, only uncached reads show it.
    """
    new, old = version_of(seen), version_of(than)
    return new.isdigit() and old.isdigit() and int(new) > int(old)
