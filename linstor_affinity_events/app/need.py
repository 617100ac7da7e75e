"""One thing that the service needs, and how it was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Stable, for scripts."""

    OK = "ok"
    WARN = "warn"
    """It works, but not all of it, or not as well as it could."""
    FAIL = "fail"
    """The service can't do its work."""


@dataclass(frozen=True, slots=True)
class Need:
    """`need` is stable, for scripts; the other texts are for people."""

    need: str
    status: Status
    found: str
    mend: str = ""
    """What to do about it; empty where nothing has to be done."""


def ok(need: str, found: str) -> Need:
    return Need(need, Status.OK, found)


def warn(need: str, found: str, mend: str) -> Need:
    return Need(need, Status.WARN, found, mend)


def fail(need: str, found: str, mend: str) -> Need:
    return Need(need, Status.FAIL, found, mend)


def few(names: Sequence[str], most: int = 5) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
