"""Reports replacements that have been unfinished for minutes."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from linstor_affinity_events.engine.event_reasons import EventReason
from linstor_affinity_events.engine.ports import Notices, Telemetry
from linstor_affinity_events.engine.reporter import DEFERRED_FOR, DEFERRED_FOR_TEXT
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

UNFINISHED = (
    f"The replacement of this volume has been unfinished for more than {DEFERRED_FOR_TEXT}. The "
    "volume exists, its data is safe, and the replacement is retried until it completes; "
    "see the service's log for the cause. Do not delete its journal entry"
)

REPORTED_AT_ONCE = 100
"""By one full reconcile; others may have written thousands of entries."""


class LongUnfinished:
    """Since when each replacement is known to be unfinished, and which were reported."""

    def __init__(self, notices: Notices, telemetry: Telemetry) -> None:
        self._notices, self._telemetry = notices, telemetry
        self._since: dict[PvName, float] = {}
        """By the loop's clock."""
        self._reported: set[PvName] = set()

    def review(
        self,
        pending: Mapping[PvName, VolumeKey],
        volume_of: Callable[[PvName], Volume | None],
    ) -> None:
        """Report those that are unfinished for minutes, once each, so many at a time."""
        now = asyncio.get_running_loop().time()
        self._since = {name: self._since.get(name, now) for name in pending}
        lasting = {name for name, since in self._since.items() if now - since >= DEFERRED_FOR}
        reported = sorted(lasting - self._reported)[:REPORTED_AT_ONCE]
        for name in reported:
            volume = volume_of(name)
            log.error(
                "replacement has been unfinished for minutes (more than 3), and is retried "
                "until it completes. Its data is safe; new pods cannot start while the "
                "volume is absent. Do not delete its journal entry; see docs/alerts.md",
                extra=facts(pv=name, resource=pending[name], absent=volume is None),
            )
            if volume is not None:
                self._notices.warn(volume, EventReason.UNFINISHED, UNFINISHED)
        self._reported = (self._reported & lasting).union(reported)
        self._telemetry.unfinished(len(lasting))

    def clear(self) -> None:
        """Another instance leads, and reports them."""
        self._since, self._reported = {}, set()
        self._telemetry.unfinished(0)
