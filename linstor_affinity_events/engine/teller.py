"""Tells people what is decided: each change once, each refusal once per change of its reason."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from linstor_affinity_events.engine.ports import Notices, Telemetry
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import PvName, Uid
from linstor_affinity_events.model.verdict import (
    Change,
    Later,
    Reason,
    Refusal,
    Resume,
    Settled,
    Skipped,
    Verdict,
)
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

EVENT_REASON = "VolumeAffinityNotUpdated"
KEPT_CHANGES = 100


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Why a volume is not as it should be."""

    kind: str
    reason: str
    why: str
    uid: Uid
    since: float = field(default=0.0, compare=False)
    """Seconds since the epoch."""

    @classmethod
    def of(cls, volume: Volume, verdict: Verdict, since: float = 0.0) -> "Unsettled":
        return cls(kind_of(verdict), reason_of(verdict), why_of(verdict), volume.uid, since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One change that was made."""

    at: float
    """Seconds since the epoch."""

    volume: Volume
    """As it was before."""

    was: str
    now: str
    how: str
    took: float
    """Seconds since the hint."""


def kind_of(verdict: Verdict) -> str:
    return type(verdict).__name__.lower()


def reason_of(verdict: Verdict) -> str:
    match verdict:
        case Skipped(reason) | Refusal(reason) | Later(reason):
            return str(reason)
        case Settled() | Resume() | Change():
            return ""


def why_of(verdict: Verdict) -> str:
    return "" if isinstance(verdict, Settled | Resume | Change) else verdict.why


class Teller:
    """Remembers what was told of which volume; of volumes as they should be it keeps nothing."""

    def __init__(self, notices: Notices, telemetry: Telemetry, now: Callable[[], float]) -> None:
        self._notices, self._telemetry, self._now = notices, telemetry, now
        self.unsettled: dict[PvName, Unsettled] = {}
        self.latest: deque[Changed] = deque(maxlen=KEPT_CHANGES)
        """The last changes, the newest last."""

    def told(self, volume: Volume, verdict: Verdict) -> bool:
        """Whether this very verdict on this incarnation was told already."""
        return self.unsettled.get(volume.name) == Unsettled.of(volume, verdict)

    def tell(self, volume: Volume, verdict: Verdict) -> None:
        """Take note of a verdict; refusals go out as a Warning Event, a metric and a log line."""
        self._telemetry.verdict(kind_of(verdict), reason_of(verdict))
        if isinstance(verdict, Settled):
            if self.unsettled.pop(volume.name, None) is not None:
                log.info("volume is as it should be again", extra=facts(pv=volume.name))
            return
        if isinstance(verdict, Change | Resume) or self.told(volume, verdict):
            return
        self.unsettled[volume.name] = Unsettled.of(volume, verdict, self._now())
        match verdict:
            case Refusal(reason, why):
                self._warn(volume, reason, why)
            case Skipped(reason, why) | Later(reason, why):
                usual = isinstance(verdict, Skipped) or reason is Reason.YOUNG
                log.log(
                    logging.DEBUG if usual else logging.INFO,
                    "volume left alone for now",
                    extra=facts(pv=volume.name, rd=volume.key, reason=reason, why=why),
                )

    def forget(self, name: PvName) -> None:
        """The volume is gone."""
        self.unsettled.pop(name, None)

    def changed(
        self, volume: Volume, now_there: Volume, change: Change, *, how: str, took: float
    ) -> None:
        """An affinity was set right; `took` is counted from the hint.

        The Event goes to the volume that is there now, so that people find it there.
        """
        self.unsettled.pop(volume.name, None)
        was, now = str(volume.affinity), str(change.wanted)
        self.latest.append(
            Changed(at=self._now(), volume=volume, was=was, now=now, how=how, took=took)
        )
        log.info(
            "volume affinity updated",
            extra=facts(
                pv=volume.name,
                rd=volume.key,
                claim=volume.claim,
                was=was,
                now=now,
                how=how,
                policy=change.policy,
                latency_ms=round(took * 1000, 1),
            ),
        )
        self._notices.updated(now_there, was, now)

    def _warn(self, volume: Volume, reason: Reason, why: str) -> None:
        log.warning(
            "volume left as it is",
            extra=facts(pv=volume.name, rd=volume.key, claim=volume.claim, reason=reason, why=why),
        )
        self._notices.warn(volume, EVENT_REASON, why)
