"""Killed at any request, the next start brings it to its end: nothing is lost, nothing is left.

Each test runs its scenario once without interruption, takes the points from what the service asked
for, and reports every point that went wrong, not only the first.
"""

from collections.abc import Iterable

import pytest

from tests.crashes.kill_points import Point, When, points_of, write_points_of
from tests.crashes.scenarios import IN_EACH_RUN, ON_ANY, InPlace, Replacement, Scenario
from tests.crashes.trial import Outcome, Trials
from tests.figures import Figures
from tests.testbed.proxied import ProxiedTestbed

REAL = pytest.param("real", marks=pytest.mark.real)
SCENARIOS = [
    pytest.param(each, id=each.name, marks=[] if each in IN_EACH_RUN else [pytest.mark.long])
    for each in ON_ANY
]
LONG_REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.long])

OF_A_FULL_RECONCILE = (
    "list configmaps",
    "linstor get controller/version",
    "linstor get nodes",
    "linstor get resource-definitions",
    "linstor get view/resources",
)
"""What a full reconcile asks for. One goes with the start; how many follow in a second is chance.
"""

AT_MOST = {"create persistentvolumes": 2} | dict.fromkeys(OF_A_FULL_RECONCILE, 1)
"""A creation that comes too early is asked for again, and then again and again."""

VARYING = frozenset(
    {
        "create persistentvolumes",  # requested until the removal has a response
        "get persistentvolumeclaims",  # until it is bound again
        "get persistentvolumes",  # after a conflict with the binder
        "update persistentvolumes",  # the same
    }
)
"""What is asked for again, or not any more, depending on who is quicker: points at all but their
first may be missed, and in a life after a kill any of them.
"""

MISSED_AT_MOST = 0.05
"""The share of all trials of a test in which a point may be missed. Two may be in any test: before
and after a creation that never had to be asked for again.
"""


class Matrix:
    """Runs trials and keeps what went wrong, for one test."""

    def __init__(self, proxied: ProxiedTestbed, scenario: type[Scenario], figures: Figures) -> None:
        self.trials = Trials(proxied, scenario)
        self._figures = figures
        self._kind = "real" if proxied.testbed.cluster.is_real else "fake"
        self._wrong: list[str] = []
        self._trials = self._missed = 0

    async def uninterrupted(self) -> Outcome:
        """The scenario without a kill; it writes what it is known to write."""
        outcome = await self.trials.run()
        assert not outcome.faults, "\n".join(outcome.faults)
        scenario = self.trials.scenario
        asked = [
            each.label
            for each in outcome.lives[0]
            if each.terms.writes and each.terms.resource != "events"
        ]
        assert set(asked) == set(scenario.writes)
        return outcome

    async def points(self) -> list[Point]:
        life = (await self.uninterrupted()).lives[0]
        if self.trials.scenario.from_start:
            return points_of(life, at_most=AT_MOST)
        return points_of((x for x in life if x.label not in OF_A_FULL_RECONCILE), at_most=AT_MOST)

    async def write_points(self) -> list[Point]:
        return write_points_of((await self.uninterrupted()).lives[0], at_most=AT_MOST)

    async def try_all(self, rows: Iterable[tuple[Point, ...]], *, moved_on: bool = False) -> None:
        for kills in rows:
            await self.run(*kills, moved_on=moved_on)

    async def run(self, *kills: Point, moved_on: bool = False) -> Outcome:
        outcome = await self.trials.run(*kills, moved_on=moved_on)
        text = ", then ".join(str(point) for point in kills)
        self._wrong += [f"{text}: {fault}" for fault in outcome.faults]
        self._trials += 1
        self._missed += bool(outcome.unreached)
        for point in outcome.unreached:
            if point.label not in VARYING or (point.number == 1 and len(kills) == 1):
                self._wrong.append(f"{text}: {point} was not reached")
        survived = not outcome.faults and not outcome.unreached
        what = "survived" if survived else "failed" if outcome.faults else "missed"
        many = "crash points" if len(kills) == 1 else "pairs of crash points"
        self._figures.count(f"{many} {what}, {self._kind} Kubernetes")
        return outcome

    def decision(self) -> None:
        if self._missed > max(2, MISSED_AT_MOST * self._trials):
            self._wrong.append(f"{self._missed} of {self._trials} trials missed a point")
        if self._wrong:
            pytest.fail("\n".join(self._wrong), pytrace=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("testbed", ["fake", LONG_REAL], indirect=True)
async def test_killed_before_or_after_any_request(
    proxied: ProxiedTestbed, scenario: type[Scenario], figures: Figures
) -> None:
    matrix = Matrix(proxied, scenario, figures)

    await matrix.try_all((point,) for point in await matrix.points())

    matrix.decision()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutable_testbed", ["fake", LONG_REAL], indirect=True)
async def test_killed_before_or_after_any_request_of_a_change_in_place(
    proxied_mutable: ProxiedTestbed, figures: Figures
) -> None:
    matrix = Matrix(proxied_mutable, InPlace, figures)

    await matrix.try_all((point,) for point in await matrix.points())

    matrix.decision()


@pytest.mark.parametrize("testbed", [REAL], indirect=True)
async def test_killed_after_any_write_of_a_replacement(
    proxied: ProxiedTestbed, figures: Figures
) -> None:
    """The part of the matrix on a real Kubernetes that each run has time for."""
    matrix = Matrix(proxied, Replacement, figures)

    await matrix.try_all((p,) for p in await matrix.write_points() if p.when is When.AFTER)

    matrix.decision()


@pytest.mark.timeout(900)
@pytest.mark.long
@pytest.mark.parametrize("testbed", ["fake", REAL], indirect=True)
async def test_killed_at_a_write_and_again_at_a_write_of_the_resumption(
    proxied: ProxiedTestbed, figures: Figures
) -> None:
    """All pairs on the fake Kubernetes; on the real one each first point with one second."""
    matrix = Matrix(proxied, Replacement, figures)

    for number, first in enumerate(await matrix.write_points()):
        resumed = (await matrix.run(first)).lives[-1]
        seconds = write_points_of(resumed, at_most=AT_MOST)
        if proxied.testbed.cluster.is_real and seconds:
            seconds = [seconds[number % len(seconds)]]
        await matrix.try_all((first, second) for second in seconds)

    matrix.decision()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("testbed", ["fake", LONG_REAL], indirect=True)
async def test_the_data_moves_again_while_the_killed_service_is_down(
    proxied: ProxiedTestbed, figures: Figures
) -> None:
    matrix = Matrix(proxied, Replacement, figures)

    await matrix.try_all(((p,) for p in await matrix.write_points()), moved_on=True)

    matrix.decision()
