"""Which replacements are unfinished, which volumes are absent, and which can't come back."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from linstor_affinity_events.engine.ports import Notices, Telemetry
from linstor_affinity_events.engine.teller import DEFERRED_FOR, REMIND_AFTER
from linstor_affinity_events.errors import Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.demands import Original, original_of
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest, claim_of, name_of
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.note import Note
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

UNFINISHED = (
    "The replacement of this volume has been unfinished for more than 3 minutes. Its data is safe. "
    "It is retried until it ends; see the service's log for what stands against it"
)


class Unfinished:
    """What this instance knows of business that is not at its end, and tells of it."""

    def __init__(
        self,
        notices: Notices,
        telemetry: Telemetry,
        describe: Callable[[Manifest], Volume | None],
    ) -> None:
        self._notices, self._telemetry, self._describe = notices, telemetry, describe
        self._absent: set[PvName] = set()
        self._since: dict[PvName, float] = {}
        """Since when each is known to be unfinished, by the loop's clock."""
        self._lasting: set[PvName] = set()
        self._warned: dict[PvName, tuple[float, int]] = {}
        self.pending: dict[PvName, VolumeKey] = {}
        """The volumes with a note, and the LINSTOR volume that each stands for."""
        self.stuck: dict[PvName, str] = {}
        """The volumes that can't be created again, and what the API server says to it."""
        self._originals: dict[PvName, Original] = {}
        """What this instance has seen of the volumes that are replaced."""
        self._left_alone: dict[PvName, tuple[PvName, ...]] = {}
        self.blocking: set[PvName] = set()
        """Those of them that keep every other replacement from beginning."""

    def of(self, resource: ResourceName) -> list[PvName]:
        """The volumes of one resource that have a note."""
        return [name for name, key in self.pending.items() if key.resource == resource]

    def noted(self, note: Note) -> None:
        self.pending[note.pv] = note.key

    def know(self, noted: Mapping[PvName, VolumeKey], *, before: Iterable[PvName]) -> None:
        """Take over a list of all that have a note; `before` were known when it was asked for, so
        that those begun meanwhile stay.
        """
        old = set(before)
        begun = {name: key for name, key in self.pending.items() if name not in old}
        self.pending = {**noted, **begun}
        for kept in (self._originals, self._left_alone):
            for name in kept.keys() - self.pending.keys():
                del kept[name]
        self._let_go((self.stuck.keys() | self._absent) - self.pending.keys())

    def review(self, volume_of: Callable[[PvName], Volume | None]) -> None:
        """Take stock, as a full reconcile does: which volumes are absent, whatever the reason, and
        which replacements have been unfinished for minutes. Those are reported, once each.
        """
        now = asyncio.get_running_loop().time()
        self._since = {name: self._since.get(name, now) for name in self.pending}
        for name in self.pending:
            if volume_of(name) is None and name not in self._absent:
                self.gone(name)
        lasting = {name for name, since in self._since.items() if now - since >= DEFERRED_FOR}
        for name in sorted(lasting - self._lasting):
            volume = volume_of(name)
            log.error(
                "replacement has been unfinished for minutes; it is retried until it ends, and the "
                "journal entry must not be deleted; see docs/alerts.md",
                extra=facts(pv=name, rd=self.pending[name], absent=volume is None),
            )
            if volume is not None:
                self._notices.warn(volume, "VolumeReplacementUnfinished", UNFINISHED)
        self._lasting = lasting
        self._telemetry.unfinished(len(lasting))

    def stand_back(self) -> None:
        """Another instance leads: what is absent or stuck is theirs to tell."""
        self._let_go(self.stuck.keys() | self._absent)
        self._since, self._lasting = {}, set()
        self._telemetry.unfinished(0)

    def _let_go(self, names: Iterable[PvName]) -> None:
        for name in tuple(names):
            self.present(name)

    def saw(self, original: Manifest) -> None:
        """Remember of a volume whose claim may have its like, and what that may ask for."""
        self._originals[name_of(original)] = original_of(original)

    def original(self, note: Note) -> Original | None:
        """The volume that a note is for, as it was seen last; None where it was not."""
        seen = self._originals.get(note.pv)
        return seen if seen is not None and seen.uid == note.uid else None

    def has_seen_any(self, names: Iterable[PvName]) -> bool:
        """Whether this instance has seen one of these volumes before it was removed."""
        return not self._originals.keys().isdisjoint(names)

    def seen_with(self, key: VolumeKey, *, but: PvName) -> tuple[PvName, ...]:
        """The volumes on their way that stand for this LINSTOR volume and were seen to be a
        claim's, all but one.
        """
        return tuple(
            name
            for name, seen in self._originals.items()
            if name != but and seen.claim and self.pending.get(name) == key
        )

    def left_alone(self, name: PvName, others: tuple[PvName, ...]) -> None:
        """Report, once for the same others, that an absent volume is not created beside them."""
        if self._left_alone.get(name) == others:
            return
        self._left_alone[name] = others
        log.error(
            "unfinished replacement left alone: claims use other volumes for the same LINSTOR "
            "volume, and nothing confirms that it belonged to the claim in its journal entry; "
            "create the volume yourself, or delete the entry. See docs/reliability.md",
            extra=facts(pv=name, rd=self.pending.get(name), other=", ".join(others)),
        )

    def ended(self, name: PvName) -> None:
        self.pending.pop(name, None)
        self._originals.pop(name, None)
        self._left_alone.pop(name, None)
        self.present(name)

    def gone(self, name: PvName) -> None:
        """We let go of the volume; it is to come back."""
        self._absent.add(name)
        self._telemetry.absent(len(self._absent))

    def present(self, name: PvName) -> None:
        """The volume is there again, or not ours to care for any more."""
        self._absent.discard(name)
        self.blocking.discard(name)
        self._telemetry.absent(len(self._absent))
        self._warned.pop(name, None)
        if self.stuck.pop(name, None) is not None:
            log.info("volume is stuck no more", extra=facts(pv=name))
            self._telemetry.stuck(len(self.stuck))

    def stick(self, note: Note, error: Refused, *, blocking: bool) -> None:
        """Kubernetes refuses to let it come back; told once for each thing it says, and again as
        long as it lasts.
        """
        if blocking:
            self.blocking.add(note.pv)
        now = asyncio.get_running_loop().time()
        warned, times = self._warned.get(note.pv, (float("-inf"), 0))
        if self.stuck.get(note.pv) != str(error) or now - warned >= REMIND_AFTER:
            self._warned[note.pv] = (now, times + 1)
            log.error(
                "volume is deleted and can't be created again",
                extra=facts(pv=note.pv, rd=note.key, claim=note.claim, why=error),
            )
            self._tell(
                note.wanted,
                "VolumeRecreationFailing",
                f"PersistentVolume {note.pv} was deleted to change its node affinity and can't be "
                f"created again: {error}. Its data is safe. It is tried again until it succeeds.",
                reminder=times,
            )
        self.stuck[note.pv] = str(error)
        self._telemetry.stuck(len(self.stuck))

    def kept(self, pv: Manifest) -> None:
        """The volume says Retain now, since nobody may take its data for garbage."""
        claim = claim_of(pv)
        log.error(
            "volume has policy Retain now: its claim had gone or moved on, or it asks for more "
            "than its StorageClass gives; see docs/reliability.md before you bind it again",
            extra=facts(pv=name_of(pv), claim=claim),
        )
        self._tell(
            pv,
            "VolumeRetained",
            f"A replacement of this volume was interrupted, and its claim {claim} is gone or does "
            "not name it, or the volume asks for mount options, Secrets or an owner that nothing "
            "confirms. So that nobody loses its data it has reclaim policy Retain now. Its own "
            "policy, and the claim if it was detached from one, are in annotations of this "
            "service; see the runbook before you delete it or bind it again.",
        )

    def warn(self, pv: Manifest, reason: str, why: str) -> None:
        """Warn of a volume that may not be there, on its claim as well."""
        self._tell(pv, reason, why)

    def _tell(self, pv: Manifest, reason: str, why: str, *, reminder: int = 0) -> None:
        volume = self._describe(pv)
        if volume is not None:
            self._notices.warn(volume, reason, why, reminder=reminder)
