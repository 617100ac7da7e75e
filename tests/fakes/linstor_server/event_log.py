"""The controller's events for listeners, and a log of them."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

PROMOTION = "drbd/promotion"
NODES = "nodes"


class Event(NamedTuple):
    """One frame of one stream."""

    at: float
    """`time.monotonic()` when it went to the listeners."""
    stream: str
    name: str
    payload: Mapping[str, Any]


Listener = Callable[[Sequence[Event]], None]
"""Gets events that happened together in one call, and must not wait."""


class EventLog:
    def __init__(self, *, remembered: int = 100_000) -> None:
        self.emitted: deque[Event] = deque(maxlen=remembered)
        """The latest events, oldest first, whether or not anyone listened."""
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Hand every event to the listener from now on; call what it returns to end that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, stream: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Spread events that belong together; none is fine."""
        at = time.monotonic()
        batch = [Event(at, stream, name, payload) for name, payload in events]
        if not batch:
            return
        self.emitted.extend(batch)
        for listener in tuple(self._listeners):
            listener(batch)
