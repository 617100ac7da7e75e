"""Lets work in progress finish when the service stops."""

import asyncio
import logging
from collections.abc import Collection

from linstor_affinity_events.engine.keyed_queue import KeyedQueue
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import ResourceName

log = logging.getLogger(__name__)


class Drain:
    """Closes the queue at the first wait, and gives workers `grace` seconds from then.

    A background task that fails meanwhile interrupts the first wait. The next wait continues with
    the remaining time, so that a replacement in progress can finish whatever else fails.
    """

    def __init__(self, queue: KeyedQueue[ResourceName], *, grace: float) -> None:
        self._queue, self._grace = queue, grace
        self._until: float | None = None

    async def wait(self, workers: Collection[asyncio.Task[None]]) -> None:
        """Wait for the workers; cancel those that exceed the grace period."""
        clock = asyncio.get_running_loop().time
        if self._until is None:
            busy, waiting = self._queue.processing, len(self._queue)
            log.info(
                "stopping: completing the work in progress for at most --shutdown-grace. "
                "Resources that wait, or are not completed by then, are left to the next "
                "leader",
                extra=facts(
                    resources_in_progress=busy, resources_waiting=waiting, at_most_s=self._grace
                ),
            )
            self._queue.close()
            self._until = clock() + self._grace
        _, late = await asyncio.wait(workers, timeout=max(0.0, self._until - clock()))
        for task in late:
            log.warning(
                "--shutdown-grace is over: stopped a worker that was still busy. If it was "
                "replacing a volume, that volume may be missing until the next leader "
                "completes the replacement; its data is safe",
                extra=facts(worker=task.get_name()),
            )
            task.cancel()
