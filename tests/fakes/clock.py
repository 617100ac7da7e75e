"""Loops on clocks of their own, on which long waits take little time."""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it lets the clock jump to where the wait would have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits for something that can never come")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time passes only while all tasks wait: hours take milliseconds. For work that has no
    sockets, threads or processes.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end on a loop of its own, whose clock begins at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class _FastSelector(selectors.DefaultSelector):
    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed
        self.waited = 0.0
        """Seconds, without those for which others had the processor."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        most = None if timeout is None else max(0.0, timeout / self._speed)
        begun = time.monotonic()
        ready = super().select(most)
        took = time.monotonic() - begun
        self.waited += took if most is None else min(took, most)
        return ready


class FastLoop(asyncio.SelectorEventLoop):
    """Its time passes `speed` times as fast as usual, by what this thread does, so that it does not
    run while others have the processor. For work that has sockets, and long waits.
    """

    def __init__(self, speed: float) -> None:
        self._speed, self._waits = speed, _FastSelector(speed)
        super().__init__(self._waits)

    def time(self) -> float:
        return (time.thread_time() + self._waits.waited) * self._speed


def loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop for an async test: as its marker says, or the usual one."""
    if item.get_closest_marker("virtual_clock"):
        return {"virtual": VirtualLoop}
    if fast := item.get_closest_marker("fast_clock"):
        return {"fast": partial(FastLoop, *fast.args)}
    return {"asyncio": asyncio.new_event_loop}
