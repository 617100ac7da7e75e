"""Reports decisions to users: each change once, each refusal once per change of its reason."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from linstor_affinity_events.engine.event_reasons import EventReason
from linstor_affinity_events.engine.ports import NO_TRIGGER, Index, Notices, Telemetry
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.decision import (
    Change,
    Decision,
    Deferred,
    InSync,
    Reason,
    Refusal,
    Resume,
    Skipped,
)
from linstor_affinity_events.model.names import PvName, Uid, few
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.printable import shortened

log = logging.getLogger(__name__)

DEFERRED_FOR = 180.0
"""How many seconds a volume may wait before it is reported."""

DEFERRED_FOR_TEXT = f"{DEFERRED_FOR / 60:.0f} minutes"

CHANGED_AFTER = 300.0
"""Minimum time between reports if only the text changes: a webhook may put a number into it."""

REMIND_AFTER = 45 * 60.0
"""The API server drops Events after an hour, unless --event-ttl says otherwise."""

MOST_CHANGES = 100


@dataclass(frozen=True, slots=True)
class OutOfSync:
    """Why a volume is out of sync."""

    kind: str
    reason: str
    why: str
    uid: Uid
    since: float = field(default=0.0, compare=False)
    """Seconds since the epoch."""

    warned: tuple[float, ...] = field(default=(), compare=False)
    """When Warning Events were sent."""

    @classmethod
    def of(cls, volume: Volume, decision: Decision) -> "OutOfSync":
        return cls(kind_of(decision), reason_of(decision), why_of(decision), volume.uid)

    reported: str = field(default="", compare=False)
    """The text of the last warning."""

    def continuing(self, before: "OutOfSync | None", now: float) -> "OutOfSync":
        """The same, with the state carried over from before."""
        if before is None or (before.kind, before.reason) != (self.kind, self.reason):
            return replace(self, since=now)
        return replace(self, since=before.since, warned=before.warned, reported=before.reported)

    def should_warn(self, now: float) -> bool:
        """Whether to send a Warning Event now, the first or a reminder."""
        if self.warned:
            quiet = now - self.warned[-1]
            return quiet >= REMIND_AFTER or (self.why != self.reported and quiet >= CHANGED_AFTER)
        return self.kind == "refused" or (
            self.kind == "deferred"
            and self.reason != Reason.NOT_LEADING
            and now - self.since >= DEFERRED_FOR
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One change that was made, as shortened texts: the volume as it was before may be large."""

    at: float
    """Seconds since the epoch."""

    pv: PvName
    claim: str | None
    resource: str | None
    was: str
    now: str
    how: str
    took: float
    """Seconds since the trigger."""


def kind_of(decision: Decision) -> str:
    """The decision's name in metrics and on the status page."""
    match decision:
        case InSync():
            return "in_sync"
        case Refusal():
            return "refused"
        case _:
            return type(decision).__name__.lower()


def reason_of(decision: Decision) -> str:
    match decision:
        case Skipped(reason) | Refusal(reason) | Deferred(reason):
            return str(reason)
        case InSync() | Resume() | Change():
            return ""


def why_of(decision: Decision) -> str:
    return "" if isinstance(decision, InSync | Resume | Change) else decision.why


_PATCHED = "volume affinity updated: the PersistentVolume was patched, and is correct now"
_REPLACED = (
    "volume affinity updated: the PersistentVolume was deleted and recreated, and is correct now"
)
_REFUSED = (
    "volume not updated: its node affinity cannot be determined, or must not be changed, for this "
    "reason. It stays as it is, and is checked again at each event and each full reconcile"
)
_WAITING = (
    f"volume has been waiting for more than {DEFERRED_FOR_TEXT}, so its node affinity may be "
    "wrong. It stays as it is, and is retried automatically"
)


def _is_expected(kind: str, reason: str) -> bool:
    """Whether it needs no line at INFO: a volume that is excluded, or new."""
    return kind == "skipped" or reason == Reason.YOUNG


class Reporter:
    """Remembers what was reported for which volume; keeps nothing for volumes in sync."""

    def __init__(self, notices: Notices, telemetry: Telemetry, now: Callable[[], float]) -> None:
        self._notices, self._telemetry, self._now = notices, telemetry, now
        self.out_of_sync: dict[PvName, OutOfSync] = {}
        self._advised: dict[PvName, dict[EventReason, str]] = {}
        """The texts of warnings about what is not retried, by volume and reason."""
        self.latest: deque[Changed] = deque(maxlen=MOST_CHANGES)
        """The last changes, the newest last."""

    def is_reported(self, volume: Volume, decision: Decision) -> bool:
        """Whether the same decision on this incarnation was already reported."""
        return self.out_of_sync.get(volume.name) == OutOfSync.of(volume, decision)

    def report(self, volume: Volume, decision: Decision) -> None:
        """Record a decision. A refusal is reported at once as a Warning Event, a metric and a log
        line, a deferred change when it lasts for minutes; both again while they last.
        """
        self._telemetry.decision(kind_of(decision), reason_of(decision))
        if isinstance(decision, InSync):
            if (before := self.out_of_sync.pop(volume.name, None)) is not None:
                log.log(
                    logging.DEBUG if _is_expected(before.kind, before.reason) else logging.INFO,
                    "node affinity of the volume is correct now; the reason reported "
                    "before no longer applies",
                    extra=facts(pv=volume.name, resource=volume.key, former_reason=before.reason),
                )
            return
        if isinstance(decision, Change | Resume):
            return
        now, known = self._now(), self.out_of_sync.get(volume.name)
        found = OutOfSync.of(volume, decision)
        new, found = found != known, found.continuing(known, now)
        if found.should_warn(now):
            self._warn(volume, found)
            found = replace(found, warned=(*found.warned, now), reported=found.why)
        elif new:
            log.log(
                logging.DEBUG if _is_expected(found.kind, found.reason) else logging.INFO,
                "volume stays as it is for now, for this reason; it is checked again automatically",
                extra=facts(
                    pv=volume.name, resource=volume.key, reason=found.reason, message=found.why
                ),
            )
        self.out_of_sync[volume.name] = found

    def report_lasting(self, volume: Volume, decision: Deferred, *, since_age: float) -> None:
        """Record a deferral that has already lasted for so many seconds."""
        known = self.out_of_sync.get(volume.name)
        if known is None or known.reason != reason_of(decision):
            found = OutOfSync.of(volume, decision)
            self.out_of_sync[volume.name] = replace(found, since=self._now() - since_age)
        self.report(volume, decision)

    def deferred(self) -> Counter[str]:
        """How many volumes have been waiting for minutes, by reason."""
        now = self._now()
        return Counter(
            each.reason
            for each in self.out_of_sync.values()
            if each.kind == "deferred" and now - each.since >= DEFERRED_FOR
        )

    def duplicates(self, volume: Volume, others: Collection[PvName]) -> None:
        """Report volumes in use that refer to one LINSTOR volume; each is kept in sync."""
        if not others or not volume.in_use:
            self._advised.get(volume.name, {}).pop(EventReason.DUPLICATE, None)
            return
        self._advise(
            volume,
            EventReason.DUPLICATE,
            f"PersistentVolume {few(sorted(others))} refers to the same LINSTOR "
            f"volume {volume.key} as this one, and both are in use. This service keeps the "
            "node affinity of both correct, but deleting the claim of one may delete the "
            "data of both: keep one, or set reclaim policy Retain on both",
        )

    def created_different(self, volume: Volume, parts: Collection[str]) -> None:
        """Report what an admission policy changed in a volume that was created."""
        if parts:
            self._advise(
                volume,
                EventReason.CREATED_DIFFERENT,
                f"{few(tuple(parts))} of this PersistentVolume differs from what this "
                "service requested when it recreated it: an admission policy changed it. "
                "The node affinity is correct. Nothing is retried; check whether the "
                "change is intended",
            )

    def _advise(self, volume: Volume, reason: EventReason, why: str) -> None:
        """Warn once about something that is not retried."""
        advised = self._advised.setdefault(volume.name, {})
        if advised.get(reason) == why:
            return
        advised[reason] = why
        log.warning(why, extra=facts(pv=volume.name, resource=volume.key, claim=volume.claim))
        self._notices.warn(volume, reason, why)

    def forget_gone(self, index: Index) -> None:
        """Drop what was reported about volumes that no longer exist."""
        for name in self.out_of_sync.keys() | self._advised.keys():
            if index.get(name) is None:
                self.out_of_sync.pop(name, None)
                self._advised.pop(name, None)

    def changed(
        self,
        volume: Volume,
        now_there: Volume,
        change: Change,
        *,
        how: str,
        took: float,
        trigger: str = NO_TRIGGER,
    ) -> None:
        """Record an updated affinity; `took` counts from the trigger.

        The Event goes to the volume that exists now, so that users find it there.
        """
        self.out_of_sync.pop(volume.name, None)
        was, now = str(volume.affinity), str(change.wanted)
        self.latest.append(
            Changed(
                at=self._now(),
                pv=volume.name,
                claim=None if volume.claim is None else shortened(str(volume.claim)),
                resource=None if volume.key is None else shortened(str(volume.key)),
                was=shortened(was),
                now=shortened(now),
                how=how,
                took=took,
            )
        )
        log.info(
            _PATCHED if how == "patch" else _REPLACED,
            extra=facts(
                pv=volume.name,
                resource=volume.key,
                claim=volume.claim,
                affinity_before=was,
                affinity_after=now,
                method=how,
                remote_access_policy=change.policy,
                trigger=trigger,
                ms_since_trigger=round(took * 1000, 1),
            ),
        )
        self._notices.inform(
            now_there, EventReason.UPDATED, f"Node affinity changed from {was} to {now}"
        )

    def _warn(self, volume: Volume, found: OutOfSync) -> None:
        if found.kind == "refused":
            text, why = _REFUSED, found.why
            note = (
                f"Node affinity not updated: {why}. The PersistentVolume stays as it is, and is "
                "checked again automatically"
            )
        else:
            text = _WAITING
            why = note = (
                "Its node affinity may be wrong, and could not be updated for more than "
                f"{DEFERRED_FOR_TEXT}: {found.why}. It is retried automatically"
            )
        log.warning(
            text,
            extra=facts(
                pv=volume.name,
                resource=volume.key,
                claim=volume.claim,
                reason=found.reason,
                message=why,
            ),
        )
        self._notices.warn(volume, EventReason.NOT_UPDATED, note, reminder=len(found.warned))
