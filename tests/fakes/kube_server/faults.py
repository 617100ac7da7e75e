"""Bad days on demand, and a record of what clients asked for."""

import re
from collections import Counter, deque
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Fault:
    """What applies to the next matching requests; the parts may be combined."""

    method: str | None
    path: re.Pattern[str]
    status: int | None
    retry_after: int | None
    delay: float
    delay_after: float
    drop_before: bool
    drop_after: bool
    times: int
    hits: int = 0
    """How often it struck so far."""


class Faults:
    """Each added fault strikes `times` times, the oldest first; a request meets one at most."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(
        self,
        *,
        method: str | None = None,
        path_regex: str = "",
        status: int | None = None,
        retry_after: int | None = None,
        delay: float = 0.0,
        delay_after: float = 0.0,
        drop_before: bool = False,
        drop_after: bool = False,
        times: int = 1,
    ) -> Fault:
        """Break requests of this method whose path and query contain the expression.

        `status` responds with that instead of doing the work, `delay` waits first, `drop_before`
        cuts the connection without doing the work, `drop_after` does it and then cuts without an
        answer, `delay_after` does it and then keeps the client waiting.
        """
        fault = Fault(
            method=method,
            path=re.compile(path_regex),
            status=status,
            retry_after=retry_after,
            delay=delay,
            delay_after=delay_after,
            drop_before=drop_before,
            drop_after=drop_after,
            times=times,
        )
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets; counts as one of its times."""
        for fault in self._faults:
            if fault.method in (None, method) and fault.path.search(path):
                fault.hits += 1
                if fault.hits >= fault.times:
                    self._faults.remove(fault)
                return fault
        return None


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server saw it."""

    at: float
    """By the monotonic clock, when it had a response; a watch when it began."""
    method: str
    path: str
    query: str
    status: int
    """0 if the connection was cut instead of a response."""


@dataclass(slots=True)
class RequestLog:
    """The latest requests, and how many there ever were of each method and status."""

    latest: deque[Request] = field(default_factory=lambda: deque(maxlen=100_000))
    by_method: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)

    def add(self, request: Request) -> None:
        self.latest.append(request)
        self.by_method[request.method] += 1
        self.by_status[request.status] += 1

    def matching(self, method: str | None = None, path_regex: str = "") -> list[Request]:
        """Those whose path and query contain the expression, oldest first."""
        return [
            each
            for each in self.latest
            if method in (None, each.method)
            and re.search(path_regex, f"{each.path}?{each.query}" if each.query else each.path)
        ]

    def clear(self) -> None:
        self.latest.clear()
        self.by_method.clear()
        self.by_status.clear()
