"""What can be wrong with the controller; any of it may be changed at any time."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(slots=True, kw_only=True)
class Injected:
    """A response given in place of the true one, a number of times."""

    path_prefix: str
    status: int
    body: bytes
    headers: Mapping[str, str]
    times: int


@dataclass(kw_only=True, eq=False)
class Faults:
    hung_satellites: set[str] = field(default_factory=set)
    """Nodes that are online yet never respond: view/resources and property writes suffer."""

    login: tuple[str, str] | None = None
    """User and password to be asked for, by Basic authentication."""

    bearer: str | None = None
    """Token to be asked for; where a login is set too, either will do."""

    standby: bool = False
    """Connections are taken and cut off unanswered, as by a proxy with nothing behind it."""

    rest_hang: bool = False
    """Requests are accepted and get no response; streams continue."""

    longest_property: int = 4096
    """Characters the database takes in one value."""

    _injected: deque[Injected] = field(default_factory=deque, init=False)

    def fail_next(
        self,
        path_prefix: str,
        status: int,
        body: object = b"",
        *,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Respond to the next requests below a path with this; bytes go out as they are, else as
        JSON.

        A redirect is a status with a `Location` among the headers.
        """
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        self._injected.append(
            Injected(
                path_prefix=path_prefix,
                status=status,
                body=raw,
                headers=headers or {"Content-Type": "application/json"},
                times=times,
            )
        )

    def take_injected(self, path: str) -> Injected | None:
        """The failure that waits for this path, now one time fewer."""
        for fault in self._injected:
            if path.startswith(fault.path_prefix):
                fault.times -= 1
                if fault.times <= 0:
                    self._injected.remove(fault)
                return fault
        return None
