"""Which volumes are absent or can't be recreated; reports them, and those that keep Retain."""

import asyncio
import logging
from collections.abc import Callable, Collection

from linstor_affinity_events.engine.event_reasons import EventReason
from linstor_affinity_events.engine.ports import Notices, Telemetry
from linstor_affinity_events.engine.reporter import REMIND_AFTER
from linstor_affinity_events.errors import Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import Manifest, claim_of, name_of
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)


class AbsentVolumes:
    """Counts and reports the volumes that were removed and are not recreated yet."""

    def __init__(
        self,
        notices: Notices,
        telemetry: Telemetry,
        describe: Callable[[Manifest], Volume | None],
    ) -> None:
        self._notices, self._telemetry, self._describe = notices, telemetry, describe
        self._absent: set[PvName] = set()
        self._warned: dict[PvName, tuple[float, int]] = {}
        self.stuck: dict[PvName, str] = {}
        """The volumes that can't be recreated, and the error of the API server."""
        self.blocking: set[PvName] = set()
        """The stuck volumes that block all other replacements."""

    def __contains__(self, name: PvName) -> bool:
        return name in self._absent

    def clear(self, but: Collection[PvName] = ()) -> None:
        """None of these is our responsibility any more, except the ones given."""
        self.forget(*(name for name in self.stuck.keys() | self._absent if name not in but))

    def gone(self, *names: PvName) -> None:
        """The volumes are released and must be recreated."""
        self._absent.update(names)
        self._telemetry.absent(len(self._absent))

    def present(self, name: PvName) -> None:
        """The volume exists again."""
        if name in self.stuck:
            log.info(
                "missing PersistentVolume is recreated: Kubernetes accepts it now",
                extra=facts(pv=name),
            )
        self.forget(name)

    def forget(self, *names: PvName) -> None:
        """The volumes exist again, or are no longer our responsibility."""
        self._absent.difference_update(names)
        self.blocking.difference_update(names)
        for name in names:
            self._warned.pop(name, None)
            self.stuck.pop(name, None)
        self._telemetry.absent(len(self._absent))
        self._telemetry.stuck(len(self.stuck))

    def mark_stuck(self, entry: JournalEntry, error: Refused, *, blocking: bool) -> None:
        """Kubernetes rejects its creation. Reported once per error, and again while it lasts."""
        if blocking:
            self.blocking.add(entry.pv)
        now = asyncio.get_running_loop().time()
        warned, times = self._warned.get(entry.pv, (float("-inf"), 0))
        if self.stuck.get(entry.pv) != str(error) or now - warned >= REMIND_AFTER:
            self._warned[entry.pv] = (now, times + 1)
            log.error(
                "PersistentVolume is missing: it was deleted to change its node affinity, "
                "and Kubernetes rejects the new one. It is retried until it succeeds. Data "
                "and running pods are safe; new pods cannot start. Fix what the error names",
                extra=facts(
                    pv=entry.pv,
                    resource=entry.key,
                    claim=entry.claim,
                    error=error,
                    blocks_other_replacements=blocking,
                ),
            )
            self.warn(
                entry.wanted,
                EventReason.RECREATION_FAILING,
                f"PersistentVolume {entry.pv} is missing: it was deleted to change its node "
                f"affinity, and Kubernetes rejects the new one: {error}. The service "
                "retries until it succeeds. The data in LINSTOR is safe and running pods "
                "continue, but new ones cannot start. Fix the policy or webhook that the "
                "error names.",
                reminder=times,
            )
        self.stuck[entry.pv] = str(error)
        self._telemetry.stuck(len(self.stuck))

    def report_retained(self, pv: Manifest) -> None:
        """Report a volume that keeps policy Retain, so that its data is not deleted."""
        claim = claim_of(pv)
        log.error(
            "volume has reclaim policy Retain now, to keep its data: its replacement was "
            "interrupted, and its claim, options or journal entry could not be confirmed. "
            "Read docs/reliability.md before you delete or bind it",
            extra=facts(pv=name_of(pv), claim=claim),
        )
        self.warn(
            pv,
            EventReason.RETAINED,
            f"The replacement of this volume was interrupted. Its claim {claim} is gone or "
            "does not refer to it any more, or its journal entry is gone, or the volume "
            "has mount options, Secrets, an owner or other fields that nothing confirms. So it has "
            "reclaim policy Retain now, which keeps its data. The service does not restore "
            "the original policy. It is in the annotations of the volume, as is the claim "
            "if the volume was detached from one; see docs/reliability.md before you "
            "delete the volume or bind it again.",
        )

    def warn(self, pv: Manifest, reason: EventReason, why: str, *, reminder: int = 0) -> None:
        """Warn about a volume that may be absent, on its claim as well."""
        volume = self._describe(pv)
        if volume is not None:
            self._notices.warn(volume, reason, why, reminder=reminder)
