"""What a rule does to a request instead of letting it through."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.testbed.proxy.record import Asked

CallBack = Callable[[Asked], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Instead:
    """Call back, and break the connection. The peer never hears of the request."""

    call: CallBack


@dataclass(frozen=True, slots=True)
class Before:
    """Call back, and forward it once that has returned; the response goes its usual way."""

    call: CallBack


@dataclass(frozen=True, slots=True)
class After:
    """Forward it, call back once the response is had whole (of a stream, once it has begun), and
    break the connection: not a byte of the response reaches the service.
    """

    call: CallBack


@dataclass(frozen=True, slots=True)
class Respond:
    """Respond without asking the peer."""

    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Keep the request for some seconds, the response for some, or both."""

    request: float = 0.0
    response: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Say nothing until the service hangs up; whether the peer heard of it is to be chosen."""

    forwarded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Break the connection with a RST; whether the peer heard of it is to be chosen."""

    forwarded: bool


@dataclass(frozen=True, slots=True)
class CutBody:
    """Forward it, and break the connection after so many bytes of the response's body."""

    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """Forward the request after some seconds, whatever its sender does meanwhile.

    The sender's connection is broken at once if it is to be `reset`, else nothing is said on it
    until the sender gives up. What the peer responds at last is heard by nobody.
    """

    seconds: float
    reset: bool = True


Action = Instead | Before | After | Respond | Delay | Hang | Reset | CutBody | Late
