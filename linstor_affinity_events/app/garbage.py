"""Schedules full garbage collections for the times when they disturb least."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from linstor_affinity_events.logs import facts

log = logging.getLogger(__name__)

NEVER = 2**31 - 1
"""The highest threshold that gc accepts."""

CHECK_EVERY = 150.0
"""How often to check that a collection took place. Where no full reconcile completes, as without
LINSTOR and in instances that do not lead, reference cycles wait up to twice this time.
"""

SLOW = 0.02
"""Seconds of CPU time: a few times what collecting the short-lived objects takes."""


class Garbage:
    """Collects once after each full reconcile, and traverses long-lived objects only once.

    Young generations are collected as usual: that is fast, and failures in quick succession
    create reference cycles. But a full collection traverses everything, 200 ms at 50,000 volumes,
    and finds nothing. So the objects of the imports and of the first list are frozen, which
    excludes them from later collections. A frozen object is still freed when its last reference
    goes; only a cycle that becomes unreachable after it was frozen is never freed. So objects are
    frozen only when there are as many as a list has.
    """

    def __init__(self, cpu: Callable[[], float] = time.thread_time) -> None:
        self._cpu = cpu
        self._held_back = False
        self._collections = 0

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Disable automatic full collections within the block. Enter it after construction."""
        thresholds = gc.get_threshold()
        gc.set_threshold(*thresholds[:2], NEVER)
        gc.freeze()
        self._held_back = True
        try:
            yield
        finally:
            self._held_back = False
            gc.set_threshold(*thresholds)
            gc.unfreeze()

    def collect(self) -> None:
        """Collect everything. Freeze the remaining objects the first time, and whenever collecting
        took long, as it does after a new list. Does nothing outside of `held_back`.
        """
        if not self._held_back:
            return
        started = self._cpu()
        found = gc.collect()
        took = self._cpu() - started
        if self._collections == 0 or took > SLOW:
            gc.freeze()
        self._collections += 1
        log.debug("garbage collected", extra=facts(found=found, took_s=round(took, 4)))

    async def run(self) -> None:
        """Collect periodically, until cancelled, when no full reconcile has done so."""
        while True:
            before = self._collections
            await asyncio.sleep(CHECK_EVERY)
            if self._collections == before:
                self.collect()
