"""Finds claims that became Lost while their volume was replaced."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.phase_writer import PhaseWriter
from linstor_affinity_events.engine.ports import Telemetry, Volumes, VolumeWatch
from linstor_affinity_events.engine.resync_prediction import RESYNC_PERIOD
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import Manifest, phase_of, uid_of, version_of
from linstor_affinity_events.model.markers import owned_fields
from linstor_affinity_events.model.names import ClaimName, PvName
from linstor_affinity_events.model.ownership import claim_is_leaving

log = logging.getLogger(__name__)

BOUND_WITHIN = 5.0
BINDER_PHASES = frozenset({"Bound", "Released", "Failed"})
"""Phases that only the binder writes on a volume that names a claim, unless it is behind."""

CHECKED_LATER_AFTER = 3.0
"""When a binder that is behind has surely seen the recreated volume."""


@dataclass(frozen=True, slots=True)
class _Check:
    """A claim to check again."""

    due: float
    pv: PvName
    claim: ClaimName
    before: Manifest


class LostClaims:
    """Waits for the binder's last write for a recreated volume, or does it for a binder that is
    behind, and reports a claim that was Lost in between.
    """

    def __init__(
        self,
        volumes: Volumes,
        telemetry: Telemetry,
        guard: ClaimGuard,
        delays: Callable[[], Backoff],
        *,
        timeout: float,
    ) -> None:
        self._volumes, self._telemetry, self._guard = volumes, telemetry, guard
        self._delays, self._timeout = delays, timeout
        self._phase_writer = PhaseWriter(volumes)
        self._later = asyncio.Queue[_Check]()

    async def verify_bound(
        self,
        entry: JournalEntry,
        before: Manifest | None,
        made: Manifest,
        volume_watch: VolumeWatch,
    ) -> None:
        """Verify that the claim is bound to its volume. Reports a Lost claim.

        `before` is the claim as it was when the old volume was removed, `made` the new volume. Once
        the binder has written that the new volume is Bound, it no longer sets the claim to Lost
        because of the old one; what it wrote before that shows in the claim. A binder that is
        behind is spared that write. Then nothing tells when it knows the new volume, so the claim
        is checked in the background, some time later.
        """
        if entry.user is None:
            return
        if (
            before is not None
            and self._guard.is_binder_behind
            and phase_of(before) == "Bound"
            and not claim_is_leaving(entry, before)
            and await self._phase_writer.set_bound(made)
        ):
            due = asyncio.get_running_loop().time() + CHECKED_LATER_AFTER
            self._later.put_nowait(_Check(due, entry.pv, entry.user, before))
            return
        await self._until_phase_written(made, volume_watch)
        await self._verify(entry, entry.user, before)

    async def run(self) -> None:
        """Check claims later, forever."""
        while True:
            check = await self._later.get()
            await asyncio.sleep(check.due - asyncio.get_running_loop().time())
            with suppress(Again, Refused):
                claim = await self._volumes.read_claim(check.claim)
                if (
                    claim is not None
                    and uid_of(claim) == check.claim.uid
                    and _is_or_was_lost(check.before, claim)
                ):
                    self._report_lost(check.pv, check.claim, claim)

    async def _verify(self, entry: JournalEntry, name: ClaimName, before: Manifest | None) -> None:
        delays, lost = self._delays(), False
        deadline = asyncio.get_running_loop().time() + BOUND_WITHIN
        while True:
            claim = await self._volumes.read_claim(name)
            if claim is None or uid_of(claim) != name.uid:
                return
            if not lost and _is_or_was_lost(before, claim):
                lost = True
                self._report_lost(entry.pv, name, claim)
            if phase_of(claim) == "Bound":
                return
            if asyncio.get_running_loop().time() > deadline:
                log.error(
                    "claim is not bound to the recreated volume yet, after 5 s. The volume "
                    "exists, and no data is affected; this service does nothing more. "
                    "Check the PersistentVolume controller (kube-controller-manager)",
                    extra=facts(pv=entry.pv, claim=name, claim_phase=phase_of(claim)),
                )
                return
            await asyncio.sleep(delays.next())

    def _report_lost(self, pv: PvName, name: ClaimName, claim: Manifest) -> None:
        self._guard.found_lost()
        self._telemetry.claim_lost()
        log.warning(
            "claim was Lost for a moment while its volume was replaced, and is "
            "Bound again. Nothing is missing, and no data is affected; there is "
            "nothing to do"
            if phase_of(claim) == "Bound"
            else (
                "claim is Lost, although its volume is recreated: the PersistentVolume "
                "controller (kube-controller-manager) binds it again within 15 s. New "
                "pods wait until then; no data is affected"
            ),
            extra=facts(pv=pv, claim=name),
        )

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


def _is_or_was_lost(before: Manifest | None, claim: Manifest) -> bool:
    phase = phase_of(claim)
    return phase == "Lost" or (phase == "Bound" and _was_lost(before, claim))


def _was_lost(before: Manifest | None, claim: Manifest) -> bool:
    """Whether the binder has written the claim's phase since, which it does only to change it."""
    if before is None or version_of(before) == version_of(claim):
        return False
    return _phase_written(before) != _phase_written(claim)


def _phase_written(claim: Manifest) -> str | None:
    """When the owner of the claim's phase field has last written its status."""
    for entry in claim["metadata"].get("managedFields") or ():
        if "f:phase" in owned_fields(entry, "f:status"):
            return str(entry.get("time"))
    return None
