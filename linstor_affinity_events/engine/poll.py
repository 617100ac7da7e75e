"""Polls what LINSTOR returns from memory, to find changes without an event.

Such are `node lost`, and new or deleted replicas of storage-only, LUKS and NVMe resources.
"""

import asyncio
import logging
from collections.abc import Callable

from linstor_affinity_events.engine.ports import Leadership, LinstorPoll
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import Again, Missing, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import few
from linstor_affinity_events.model.poll_result import PollResult

log = logging.getLogger(__name__)

CAUSE = "poll"

YIELD_EVERY = 100
"""Nodes between cooperative yields; one may have thousands of labels."""

COUNTED_MOST = 60.0
"""Maximum time that a changing number of resources is left to the events."""


class Poll:
    """Reads two small lists periodically while this instance leads, and requests a full reconcile
    only when they differ from the last ones.

    A failed request is only logged at DEBUG: streams and full reconciles report outages, and the
    next reading shows what changed meanwhile. The number of resources changes with each new volume,
    for which there are events too; while it keeps changing, full reconciles are requested only at
    growing intervals.
    """

    def __init__(
        self,
        *,
        linstor: LinstorPoll,
        leadership: Leadership,
        request: Callable[[str], None],
        paused: Callable[[], bool],
        every: float,
    ) -> None:
        """`paused` returns whether a better source reports all changes."""
        self._linstor, self._leadership = linstor, leadership
        self._request, self._paused, self._every = request, paused, every
        self._last: PollResult | None = None
        self._woken = asyncio.Event()
        self._uncounted = False
        self._count_from, self._count_pause = float("-inf"), every

    def wake(self) -> None:
        """Read at once: the first reading should be as old as the leadership."""
        self._woken.set()

    async def run(self) -> None:
        """Read forever."""
        while True:
            self._woken.clear()
            await self._poll()
            try:
                async with asyncio.timeout(self._every):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _poll(self) -> None:
        if not self._leadership.leading or self._paused():
            # A new leader or a reopened stream begins with a full reconcile.
            self._last, self._uncounted = None, False
            return
        try:
            reading = await self._linstor.poll()
        except (Again, Refused, Missing) as error:
            log.debug("cannot poll LINSTOR for changes; retrying", extra=facts(error=error))
            return
        before, self._last = self._last, reading
        if before is None:
            return
        if reading.resources is None:
            self._last = PollResult(nodes=reading.nodes, resources=before.resources)
        await self._compare(before, reading)

    async def _compare(self, before: PollResult, reading: PollResult) -> None:
        now = asyncio.get_running_loop().time()
        names = yielding(reading.nodes.keys() | before.nodes.keys(), every=YIELD_EVERY)
        if nodes := sorted([name async for name in names if reading.is_changed(name, before)]):
            log.info(
                "LINSTOR's nodes changed (added, removed, or with other flags, labels or "
                "connection): starting a full reconcile",
                extra=facts(changed_nodes=few(nodes)),
            )
            self._uncounted = False
            self._request(CAUSE)
            return
        recounted = reading.recounted(before)
        self._uncounted |= recounted
        if not self._uncounted:
            self._count_pause = self._every
        elif now >= self._count_from:
            log.debug(
                "the number of resources changed, starting a full reconcile",
                extra=facts(resources=reading.resources, before=before.resources),
            )
            self._uncounted = False
            self._count_pause = min(2 * self._count_pause, max(COUNTED_MOST, self._every))
            self._count_from = now + self._count_pause
            self._request(CAUSE)
