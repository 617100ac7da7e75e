"""The workers that wait until there is something to do."""

import asyncio
from collections import deque


class IdleWorkers:
    """Wakes one worker at a time, in the order in which they began to wait."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wake(self) -> None:
        """Let one worker look for work."""
        while self._waiting:
            woken = self._waiting.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    def wake_all(self) -> None:
        """Let all of them look for work."""
        while self._waiting:
            self.wake()

    async def wait(self) -> None:
        """Wait to be woken."""
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)
        try:
            await woken
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                # Pass the wakeup on to a worker that is not cancelled.
                self.wake()
            raise
