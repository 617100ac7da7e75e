"""When a resource is looked at again though nobody told anything more of it."""

from collections.abc import Collection
from dataclasses import dataclass

from linstor_affinity_events.engine.keyed_queue import KeyedQueue, WorkItem
from linstor_affinity_events.engine.triggers import DATABASE_SOURCES
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.placement import Placement

RECHECK_AFTER = 2.0
DATABASE_FIRST, DATABASE_MOST = 0.1, 1.6
MOTION_FIRST, MOTION_MOST = 1.0, 30.0


@dataclass(slots=True)
class _Motion:
    """A placement that LINSTOR is still at work on."""

    placement: Placement
    delay: float = MOTION_FIRST


class Rechecks:
    """Events run ahead of the truth, and LINSTOR tells nothing once a replica is at rest."""

    def __init__(self, queue: KeyedQueue[ResourceName]) -> None:
        self._queue = queue
        self._moving: dict[ResourceName, _Motion] = {}
        self._expected: dict[ResourceName, float] = {}

    def __len__(self) -> int:
        """How many resources something is remembered of."""
        return len(self._moving.keys() | self._expected.keys())

    def forget(self, resource: ResourceName) -> None:
        """No volume of ours stands for it."""
        self._moving.pop(resource, None)

    def keep(self, known: Collection[ResourceName]) -> None:
        """Forget all but these."""
        for remembered in (self._moving, self._expected):
            for resource in [name for name in remembered if name not in known]:
                del remembered[resource]

    def plan(
        self, item: WorkItem[ResourceName], placement: Placement | None, *, in_sync: bool
    ) -> None:
        """Ask for the next look, if one is due without news.

        A placement in motion is looked at until it rests, or until the delay is as long as the
        full pass is far apart: a deletion on a node that never comes back moves for ever.
        """
        if placement is None or not placement.in_motion:
            self._moving.pop(item.key, None)
            self._recheck_unchanged(item, in_sync=in_sync)
            return
        motion = self._moving.get(item.key)
        if motion is None or motion.placement != placement:
            motion = self._moving[item.key] = _Motion(placement)
        if motion.delay <= MOTION_MOST:
            self._queue.add(item.key, after=min(motion.delay, MOTION_MOST))
            motion.delay *= 2

    def _recheck_unchanged(self, item: WorkItem[ResourceName], *, in_sync: bool) -> None:
        """Look again after news that led to nothing: once, or thrice within seconds where a row of
        LINSTOR's database was the news, since nothing is written without a reason.
        """
        if not in_sync:
            self._expected.pop(item.key, None)
            return
        if item.source in DATABASE_SOURCES:
            self._expected[item.key] = DATABASE_FIRST
        delay = self._expected.pop(item.key, None)
        if delay is not None:
            self._queue.add(item.key, after=delay)
            if delay < DATABASE_MOST:
                self._expected[item.key] = delay * 4
        elif item.trigger:
            self._queue.add(item.key, after=RECHECK_AFTER)
