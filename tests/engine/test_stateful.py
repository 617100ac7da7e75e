"""Anything at any moment: instances, users, LINSTOR, sidecars and faults in random order.

The plans are the same in every run, so that a change is judged and not luck; DISORDER_SEED=...
plays others. A failure names its plan, which can be played again with
`run_virtually(Play(plan).run())`.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings

from tests.engine.disorder.play import Play
from tests.engine.disorder.schedule import PLANS, Plan, Turn, What
from tests.fakes.clock import run_virtually
from tests.figures import Figures

EXAMPLES, MANY = 2_000, 15_000
PARTS = 4
"""So that several processes can share the work."""

SURVIVED = "random plans survived"
SEED = int(os.environ.get("DISORDER_SEED") or 1)

random_plans = settings(
    deadline=None,
    # What failed is found by its seed, on any machine; nothing is kept from one run to the next.
    database=None,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def calls_of_one_replacement() -> int:
    play = Play(Plan((Turn(99, What.ATTACH),)))
    run_virtually(play.run())
    return play.calls


CALLS = calls_of_one_replacement()
"""Places to be killed at; reads are among them."""


FOUND = {
    "policy Delete set on a volume that points away": Plan(
        (Turn(5, What.MOVE), Turn(5, What.RECLAIM)), sidecar_lag=1
    ),
    "reclaimed while its marks were taken back": Plan(
        (Turn(6, What.DELETE_CLAIM, after=True), Turn(0, What.EDIT), Turn(6, What.LATE))
    ),
    "deleted by a user while a replacement was gone on with": Plan(
        (Turn(6, What.LATE), Turn(2, What.DELETE_VOLUME))
    ),
    "deleted by a user while our own deletion was on its way, and we were killed": Plan(
        (Turn(6, What.MOVE), Turn(2, What.SLOW, much=3), Turn(0, What.DELETE_VOLUME)),
        resync=True,
        fresh_end=True,
    ),
    "the new volume reclaimed before its note was dropped": Plan(
        (
            *(Turn(6, What.MOVE), Turn(5, What.DELETE_CLAIM), Turn(2, What.LOST)),
            Turn(0, What.RECLAIM),
        ),
        "Retain",
    ),
}


@pytest.mark.parametrize("plan", [pytest.param(plan, id=name) for name, plan in FOUND.items()])
def test_known_failing_plans_pass(plan: Plan) -> None:
    run_virtually(Play(plan).run())


def play_many(examples: int, part: int, figures: Figures) -> None:
    """Play so many random plans, others than in the other parts."""

    @seed(PARTS * SEED + part)
    @settings(random_plans, max_examples=examples // PARTS)
    @given(plan=PLANS)
    def play(plan: Plan) -> None:
        note(f"DISORDER_SEED={SEED}")
        run_virtually(Play(plan).run())
        figures.count(SURVIVED)

    play()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_operations_end_with_a_correct_volume(part: int, figures: Figures) -> None:
    play_many(EXAMPLES, part, figures)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_operations_end_with_a_correct_volume_many_times(
    part: int, figures: Figures
) -> None:
    play_many(MANY, part, figures)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", range(CALLS))
@pytest.mark.parametrize("policy", ["Delete", "Retain"])
def test_killed_at_any_call_and_down_for_a_minute_nothing_is_lost(
    call: int, after: bool, policy: str, figures: Figures
) -> None:
    killed = (Turn(call, What.CRASH, after, much=3),)

    for attached in (False, True):
        for lag in range(4):
            for resync in (False, True):
                run_virtually(Play(Plan(killed, policy, attached, 0, lag, resync)).run())
    figures.count("crash points survived, in memory, with sidecars")


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("call", range(CALLS))
def test_a_stalled_write_that_arrives_late_changes_nothing(call: int, after: int) -> None:
    late = (Turn(call, What.LATE, much=after), Turn(3, What.MOVE, much=2))

    for watch_lag in range(4):
        run_virtually(Play(Plan(late, watch_lag=watch_lag)).run())
