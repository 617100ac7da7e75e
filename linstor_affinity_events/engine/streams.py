"""Which event streams are open, for decisions and for metrics."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class StreamState:
    """One event stream; times are in seconds since the epoch, 0 for never."""

    up: bool = False
    since: float = 0.0
    """When it was last opened or closed."""

    last_event: float = 0.0
    connects: int = 0
    events: int = 0


class Streams:
    """The state of each stream by its name; an unknown stream is down."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` returns the seconds since the epoch."""
        self._now = now
        self._known: dict[str, StreamState] = {}

    @property
    def known(self) -> Mapping[str, StreamState]:
        """The streams that were opened or tried so far."""
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
