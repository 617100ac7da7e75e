"""Figures that tests count while they run, printed at the end.

`figures.count("crash points survived", 212)` adds to a sum; each sum is a line of the summary.
Where several processes run the tests (pytest-xdist), each sends its sums to the first.
"""

from collections import Counter
from typing import Any

import pytest

_SENT = "figures"
_SUMS: pytest.StashKey[Counter[str]] = pytest.StashKey()


class Figures:
    """What a test may count."""

    def __init__(self, sums: Counter[str]) -> None:
        self._sums = sums

    def count(self, what: str, number: int = 1) -> None:
        self._sums[what] += number


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    """Sums that stand in the summary of the run."""
    return Figures(pytestconfig.stash.setdefault(_SUMS, Counter()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send this process' sums, if it works for another."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        sums: Counter[str] = session.config.stash.setdefault(_SUMS, Counter())
        output[_SENT] = dict(sums)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process sent at its end."""
    sums: Counter[str] = node.config.stash.setdefault(_SUMS, Counter())
    sums.update(getattr(node, "workeroutput", {}).get(_SENT, {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for what, number in sorted(config.stash.get(_SUMS, Counter()).items()):
        terminalreporter.write_line(f"{what}: {number}")
