"""When a measurement counts as a failure."""

from pathlib import Path

import pytest

from benchmarks.__main__ import exit_code, summary
from benchmarks.guard import at_best
from benchmarks.report import Goal, Report

MISSED = Goal(what="speed", found=3, most=2)
MET = Goal(what="speed", found=1, most=2)
FAULT = Goal(what="claims", found=1, most=0, must=True)


def report(*goals: Goal) -> Report:
    return Report(name="one", title="One", rows=[{"a": 1}], goals=goals)


class Measured:
    """Finds one report after another."""

    def __init__(self, *reports: Report) -> None:
        self.rest = list(reports)

    async def __call__(self, logs: Path) -> Report:
        return self.rest.pop(0)


@pytest.mark.parametrize(
    ("goals", "strict", "code"),
    [
        pytest.param([MET], True, 0, id="all met"),
        pytest.param([MET, MISSED], False, 0, id="one missed"),
        pytest.param([MET, MISSED], True, 1, id="one missed, strict"),
        pytest.param([MET, FAULT], False, 1, id="a fault"),
    ],
)
def test_a_missed_goal_is_a_failure_only_if_it_is_required(
    goals: list[Goal], strict: bool, code: int
) -> None:
    assert exit_code([report(*goals)], strict=strict) == code


def test_the_summary_lists_what_was_missed() -> None:
    assert summary([report(MET, MISSED)]) == [
        "1 of 2 goals met",
        "  one: speed: 3, goal at most 2: NOT MET",
    ]


async def test_the_guard_measures_once_if_all_limits_hold(tmp_path: Path) -> None:
    measure = Measured(report(MET), report(MISSED))

    found = await at_best(measure, tmp_path)

    assert [each.goals for each in found] == [(MET,)]


async def test_the_guard_compares_each_limit_with_the_better_of_two_runs(tmp_path: Path) -> None:
    slow, fast = Goal(what="rate", found=0.1, least=0.5), Goal(what="rate", found=0.9, least=0.5)
    measure = Measured(report(MISSED, fast), report(MET, slow))

    found = await at_best(measure, tmp_path)

    assert [goal for each in found for goal in each.goals] == [MET, fast]


async def test_the_guard_reports_limits_that_failed_twice(tmp_path: Path) -> None:
    worse = Goal(what="speed", found=5, most=2)

    found = await at_best(Measured(report(worse), report(MISSED)), tmp_path)

    assert [goal for each in found for goal in each.goals] == [MISSED]


async def test_the_guard_measures_again_if_the_baseline_failed(tmp_path: Path) -> None:
    rest = Measured(report(MET))
    falls = iter([ExceptionGroup("baseline", [AssertionError("the baseline failed")])])

    async def measure(logs: Path) -> Report:
        for fall in falls:
            raise fall
        return await rest(logs)

    found = await at_best(measure, tmp_path)

    assert [each.goals for each in found] == [(MET,)]
