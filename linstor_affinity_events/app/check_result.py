"""The result of one check of the `check` command."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The outcome of a check. The values are stable, for scripts."""

    OK = "ok"
    WARN = "warn"
    """The service works, but not completely or not as well as it could."""
    FAIL = "fail"
    """The service cannot work."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check. The name in `check` is stable, for scripts; the other texts are for users."""

    check: str
    status: Status
    detail: str
    remedy: str = ""
    """How to fix the problem; empty if there is nothing to fix."""


def ok(check: str, detail: str) -> CheckResult:
    return CheckResult(check, Status.OK, detail)


def warn(check: str, detail: str, remedy: str) -> CheckResult:
    return CheckResult(check, Status.WARN, detail, remedy)


def fail(check: str, detail: str, remedy: str) -> CheckResult:
    return CheckResult(check, Status.FAIL, detail, remedy)
