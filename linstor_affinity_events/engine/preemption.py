"""Lets the change of a single volume go ahead of the many in progress."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from linstor_affinity_events.model.names import PvName

AT_MOST = 0.25
"""For how many seconds the others give way: several times what one change takes alone."""


class Preemption:
    """Concurrent changes share the API server, so each takes longer by what the others do. A change
    that gives way waits between two of its steps until the one ahead has ended.

    One goes ahead at a time, and after it none for as long as it took: what the others lose is at
    most half of the time. Times are the running loop's.
    """

    def __init__(self) -> None:
        self._ahead: PvName | None = None
        self._not_before = float("-inf")
        """When the next one may go ahead; never until the last one has ended."""
        self._ended = asyncio.Event()

    @property
    def is_free(self) -> bool:
        """Whether a change may go ahead now."""
        return asyncio.get_running_loop().time() >= self._not_before

    @contextmanager
    def ahead(self, pv: PvName) -> Iterator[None]:
        """Let the others give way to this volume's change during the block, for AT_MOST. Without
        effect if that is not free.
        """
        if not self.is_free:
            yield
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._ahead, self._not_before = pv, float("inf")
        self._ended.clear()
        timer = loop.call_at(began + AT_MOST, self._continue)
        try:
            yield
        finally:
            timer.cancel()
            self._continue()
            self._not_before = 2 * loop.time() - began

    async def give_way(self, pv: PvName) -> None:
        """Wait while the change of another volume goes ahead."""
        while self._ahead not in {None, pv}:
            await self._ended.wait()

    def _continue(self) -> None:
        self._ahead = None
        self._ended.set()
