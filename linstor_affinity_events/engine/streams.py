"""Which event streams are open: kept here for all who go by it, and for metrics to read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class StreamState:
    """One event stream; times are in seconds since the epoch, 0 for never."""

    up: bool = False
    since: float = 0.0
    """When it was last opened or cut."""

    last_event: float = 0.0
    connects: int = 0
    events: int = 0


class Streams:
    """States by the names of their streams; of one that never told anything, that it is down."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` tells the seconds since the epoch."""
        self._now = now
        self._known: dict[str, StreamState] = {}

    @property
    def known(self) -> Mapping[str, StreamState]:
        """Those that were opened, or tried, so far."""
        return self._known

    def state(self, name: str) -> StreamState:
        """The state of one stream."""
        return self._known.get(name, StreamState())

    def all_up(self, names: Iterable[str]) -> bool:
        """Whether all of these are open."""
        return all(self.state(name).up for name in names)

    def any_up(self, names: Iterable[str]) -> bool:
        """Whether one of these is open."""
        return any(self.state(name).up for name in names)

    def opened(self, name: str) -> None:
        state = self._known.setdefault(name, StreamState())
        state.up, state.since = True, self._now()
        state.connects += 1

    def closed(self, name: str) -> None:
        state = self._known.setdefault(name, StreamState())
        state.up, state.since = False, self._now()

    def event(self, name: str) -> None:
        state = self._known.setdefault(name, StreamState())
        state.events += 1
        state.last_event = self._now()
