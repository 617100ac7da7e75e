"""Full garbage collections when they disturb least, in place of at any moment."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from linstor_affinity_events.logs import facts

log = logging.getLogger(__name__)

NEVER = 2**31 - 1
"""The highest threshold there is."""

PATIENCE = 150.0
"""How often it is seen whether anything was collected since: where no pass ends, as without LINSTOR
and in those who do not lead, cycles wait up to twice that.
"""

SLOW = 0.02
"""Seconds of CPU, a few times as much as what comes and goes takes."""


class Garbage:
    """Collects once after each full pass, and walks what is there to stay but once.

    Young objects are collected as ever: that is quick, and failures that follow each other fast
    make cycles. But a full collection walks everything, 200 ms at 50,000 volumes, and finds
    nothing. So what the imports left and what the first list brought is frozen, which means never
    walked again. It is freed like anything else when nothing refers to it any more; only what
    dies in a cycle after it was frozen stays for good. So freezing is for what is as large as a
    list, and else not done.
    """

    def __init__(self, cpu: Callable[[], float] = time.thread_time) -> None:
        self._cpu = cpu
        self._held_back = False
        self._collections = 0

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Have no full collection come by itself within the block. Enter it when all is built."""
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
        """Collect everything; freeze what is left the first time, and whenever it took long, as
        it does after a new list. Do nothing outside of `held_back`.
        """
        if not self._held_back:
            return
        begun = self._cpu()
        found = gc.collect()
        took = self._cpu() - begun
        if self._collections == 0 or took > SLOW:
            gc.freeze()
        self._collections += 1
        log.debug("garbage collected", extra=facts(found=found, took_s=round(took, 4)))

    async def run(self) -> None:
        """Collect, for ever, where nobody else does."""
        while True:
            before = self._collections
            await asyncio.sleep(PATIENCE)
            if self._collections == before:
                self.collect()
