"""Decides when a resource is rechecked without a further event."""

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
    """A placement that LINSTOR is still changing."""

    placement: int
    """Its hash: a placement may be large, and is only compared."""

    delay: float = MOTION_FIRST


class Rechecks:
    """Events precede the change, and LINSTOR sends none when a replica has reached its state."""

    def __init__(self, queue: KeyedQueue[ResourceName]) -> None:
        self._queue = queue
        self._moving: dict[ResourceName, _Motion] = {}
        self._expected: dict[ResourceName, float] = {}

    def __len__(self) -> int:
        """Number of resources with state."""
        return len(self._moving.keys() | self._expected.keys())

    def forget(self, resource: ResourceName) -> None:
        """Drop the state: no volume refers to the resource."""
        self._moving.pop(resource, None)

    def keep(self, known: Collection[ResourceName]) -> None:
        """Drop the state of all other resources."""
        for remembered in (self._moving, self._expected):
            for resource in [name for name in remembered if name not in known]:
                del remembered[resource]

    def plan(
        self, item: WorkItem[ResourceName], placement: Placement | None, *, in_sync: bool
    ) -> None:
        """Queue the next recheck, if one is needed without an event.

        A changing placement is rechecked until it is stable, or until the delay is as long as the
        interval of full reconciles: a deletion on a node that never returns never ends.
        """
        if placement is None or not placement.in_motion:
            self._moving.pop(item.key, None)
            self._recheck_unchanged(item, in_sync=in_sync)
            return
        motion, known = self._moving.get(item.key), hash(placement)
        if motion is None or motion.placement != known:
            motion = self._moving[item.key] = _Motion(known)
        if motion.delay <= MOTION_MOST:
            self._queue.add(item.key, after=min(motion.delay, MOTION_MOST))
            motion.delay *= 2

    def _recheck_unchanged(self, item: WorkItem[ResourceName], *, in_sync: bool) -> None:
        """Recheck after an event that led to no change: once, or three times within seconds after a
        write to LINSTOR's database, because every write has a reason.
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
