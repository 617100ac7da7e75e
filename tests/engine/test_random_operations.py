"""Instances, users, LINSTOR, sidecars and faults in random order.

The plans are the same in every run, so that they test the change and not luck;
RANDOM_OPERATIONS_SEED=... selects others. A failure names its plan, which can be run again with
`run_virtually(Scenario(plan).run())`.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings

from tests.engine.random_operations.plan import PLANS, Operation, Plan, What
from tests.engine.random_operations.scenario import Scenario
from tests.fakes.clock import run_virtually
from tests.figures import Figures

EXAMPLES, MANY = 400, 15_000
PARTS = 4
"""So that several processes can share the work."""

SURVIVED = "random plans survived"
SEED = int(os.environ.get("RANDOM_OPERATIONS_SEED") or 1)

random_plans = settings(
    deadline=None,
    # Failures are reproduced by their seed, on any machine; nothing is stored between runs.
    database=None,
    phases=[Phase.generate, Phase.shrink],
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def calls_of_one_replacement() -> int:
    scenario = Scenario(Plan((Operation(99, What.ATTACH),)))
    run_virtually(scenario.run())
    return scenario.calls


CALLS = calls_of_one_replacement()
"""Calls to be killed at; reads are among them."""


KNOWN_FAILURES = {
    "deleted by a user after a crash had left an entry for it": Plan(
        (
            Operation(3, What.EDIT, after=True),
            Operation(5, What.CRASH),
            Operation(0, What.DELETE_VOLUME),
        ),
        fresh_end=False,
    ),
    "reclaimed as its policy said before a user made it again": Plan(
        (
            *(Operation(0, What.MOVE), Operation(0, What.RECLAIM), Operation(0, What.DELETE_CLAIM)),
            Operation(3, What.RECREATE_VOLUME),
        ),
        policy="Retain",
        fresh_end=False,
    ),
    "unmarked by another instance while its deletion was in flight": Plan(
        (
            Operation(0, What.CRASH),
            Operation(8, What.MOVE),
            Operation(1, What.SECOND, after=True),
            Operation(0, What.MOVE),
            Operation(0, What.MOVE, after=True),
            Operation(0, What.CONFLICT),
        ),
        fresh_end=False,
    ),
    "policy Delete set on a volume that has its claimRef detached": Plan(
        (Operation(5, What.MOVE), Operation(5, What.RECLAIM)), sidecar_lag=1
    ),
    "reclaimed while its markers were removed": Plan(
        (
            Operation(6, What.DELETE_CLAIM, after=True),
            Operation(0, What.EDIT),
            Operation(6, What.LATE),
        )
    ),
    "deleted by a user while a replacement was resumed": Plan(
        (Operation(6, What.LATE), Operation(2, What.DELETE_VOLUME))
    ),
    "deleted by a user while another instance detaches the claimRef": Plan(
        (
            Operation(1, What.SECOND),
            Operation(8, What.MOVE),
            Operation(0, What.EDIT),
            Operation(0, What.DELETE_VOLUME),
        )
    ),
    "deleted by a user while our own deletion was in flight, and the service was killed": Plan(
        (
            Operation(6, What.MOVE),
            Operation(2, What.SLOW, much=3),
            Operation(0, What.DELETE_VOLUME),
        ),
        resync=True,
        fresh_end=True,
    ),
    "the new volume reclaimed before its entry was deleted": Plan(
        (
            *(Operation(6, What.MOVE), Operation(5, What.DELETE_CLAIM), Operation(2, What.LOST)),
            Operation(0, What.RECLAIM),
        ),
        "Retain",
    ),
    "deleted by a user before the mark, and the response to the entry is lost": Plan(
        (Operation(6, What.DELETE_VOLUME), Operation(0, What.LOST, after=True)), fresh_end=False
    ),
    "the same, a moment before": Plan(
        (
            Operation(4, What.DELETE_VOLUME, after=True),
            Operation(2, What.LOST, after=True),
        ),
        fresh_end=False,
    ),
    "deleted by a user before a second instance has written its name on the volume": Plan(
        (
            Operation(8, What.EDIT),
            Operation(10, What.MOVE, much=1),
            Operation(8, What.CRASH, after=True),
            Operation(2, What.DELETE_VOLUME, after=True),
        ),
        watch_lag=2,
        fresh_end=False,
    ),
}


@pytest.mark.parametrize(
    "plan", [pytest.param(plan, id=name) for name, plan in KNOWN_FAILURES.items()]
)
def test_known_failing_plans_pass(plan: Plan) -> None:
    run_virtually(Scenario(plan).run())


def run_many(examples: int, part: int, figures: Figures) -> None:
    """Run this many random plans, other ones than in the other parts."""

    @seed(PARTS * SEED + part)
    @settings(random_plans, max_examples=examples // PARTS)
    @given(plan=PLANS)
    def scenario(plan: Plan) -> None:
        note(f"RANDOM_OPERATIONS_SEED={SEED}")
        run_virtually(Scenario(plan).run())
        figures.count(SURVIVED)

    scenario()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_operations_end_with_a_correct_volume(part: int, figures: Figures) -> None:
    run_many(EXAMPLES, part, figures)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_random_operations_end_with_a_correct_volume_many_times(
    part: int, figures: Figures
) -> None:
    run_many(MANY, part, figures)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", range(CALLS))
@pytest.mark.parametrize("policy", ["Delete", "Retain"])
def test_killed_at_any_call_and_down_for_a_minute_nothing_is_lost(
    call: int, after: bool, policy: str, figures: Figures
) -> None:
    killed = (Operation(call, What.CRASH, after, much=3),)

    for attached in (False, True):
        for lag in range(4):
            for resync in (False, True):
                run_virtually(Scenario(Plan(killed, policy, attached, 0, lag, resync)).run())
    figures.count("crash points survived, in memory, with sidecars")


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("call", range(CALLS))
def test_a_stalled_write_that_arrives_late_changes_nothing(call: int, after: int) -> None:
    late = (Operation(call, What.LATE, much=after), Operation(3, What.MOVE, much=2))

    for watch_lag in range(4):
        run_virtually(Scenario(Plan(late, watch_lag=watch_lag)).run())
