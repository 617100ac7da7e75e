"""How many volumes are changed at a time, beside bottlenecks of several kinds."""

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.engine.concurrency_limit import REMEMBERED, ConcurrencyLimit

MOST = 10
ALONE = 0.1
"""How long a change takes with nobody in its way."""

KIND = "replace"


def simulate(
    concurrency_limit: ConcurrencyLimit,
    changes: int,
    *,
    a_second: float,
    alone: float = ALONE,
    jitter: float = 1.0,
) -> float:
    """Make so many changes, as many at a time as may be, beside somebody who gets through so many
    a second, one after the other. Returns how long it took.
    """
    chance = random.Random(7)
    under_way: list[tuple[float, float]] = []
    now = served = 0.0
    for _ in range(changes):
        while concurrency_limit.free:
            concurrency_limit.acquire()
            served = max(served, now) + 1 / a_second
            ends = max(served, now + alone * chance.uniform(1.0, jitter))
            heapq.heappush(under_way, (ends, now))
        now, begun = heapq.heappop(under_way)
        concurrency_limit.observe(KIND, now - begun)
        concurrency_limit.release()
    for _ in under_way:
        concurrency_limit.release()
    return now


def one_alone(concurrency_limit: ConcurrencyLimit, took: float, kind: str = KIND) -> None:
    concurrency_limit.acquire()
    concurrency_limit.observe(kind, took)
    concurrency_limit.release()


@pytest.mark.parametrize("jitter", [1.0, 2.0])
def test_without_contention_the_limit_rises_to_its_maximum_soon(jitter: float) -> None:
    concurrency_limit = ConcurrencyLimit(MOST)

    simulate(concurrency_limit, 60, a_second=1e6, jitter=jitter)

    assert concurrency_limit.limit == MOST


@pytest.mark.parametrize("changes", [200, 5_000])
@pytest.mark.parametrize("a_second", [6.0, 20.0, 35.0])
def test_with_a_bottleneck_only_a_few_changes_wait_for_it(a_second: float, changes: int) -> None:
    concurrency_limit = ConcurrencyLimit(MOST)

    took = simulate(concurrency_limit, changes, a_second=a_second)

    keeps_it_busy = ALONE * a_second
    assert keeps_it_busy + 1 <= concurrency_limit.limit <= 1.5 * keeps_it_busy + 4
    assert took <= 1.02 * changes / a_second + 5 * ALONE


def test_sequential_changes_do_not_raise_the_limit() -> None:
    concurrency_limit = ConcurrencyLimit(MOST)

    for number in range(100):
        one_alone(concurrency_limit, ALONE * (1 + number % 2))

    assert concurrency_limit.limit <= 2


def test_a_fast_kind_of_change_does_not_make_others_appear_slow() -> None:
    concurrency_limit = ConcurrencyLimit(MOST)
    one_alone(concurrency_limit, ALONE / 100, kind="patch")

    simulate(concurrency_limit, 60, a_second=1e6)

    assert concurrency_limit.limit == MOST


def test_after_a_slowdown_the_limit_recovers_in_steady_state() -> None:
    concurrency_limit = ConcurrencyLimit(MOST)
    simulate(concurrency_limit, 60, a_second=1e6)
    simulate(concurrency_limit, 60, a_second=1e6, alone=10 * ALONE)
    assert concurrency_limit.limit < MOST

    for _ in range(REMEMBERED):
        one_alone(concurrency_limit, 10 * ALONE)
    simulate(concurrency_limit, 60, a_second=1e6, alone=10 * ALONE)

    assert concurrency_limit.limit == MOST


def test_one_very_slow_change_hardly_counts() -> None:
    concurrency_limit = ConcurrencyLimit(MOST)
    simulate(concurrency_limit, 60, a_second=1e6)

    while concurrency_limit.free:
        concurrency_limit.acquire()
    concurrency_limit.observe(KIND, 1000 * ALONE)

    assert concurrency_limit.limit >= MOST - 2


@given(
    most=st.integers(1, 50),
    took=st.lists(st.floats(0.0, 1e4, allow_nan=False), max_size=200),
    contended=st.booleans(),
)
def test_the_limit_is_at_least_one_and_at_most_the_configured_one(
    most: int, took: list[float], contended: bool
) -> None:
    concurrency_limit = ConcurrencyLimit(most)

    for seconds in took:
        concurrency_limit.acquire()
        while contended and concurrency_limit.free:
            concurrency_limit.acquire()
        concurrency_limit.observe(KIND, seconds)
        while concurrency_limit.in_flight:
            concurrency_limit.release()

        assert 1 <= concurrency_limit.limit <= most
        assert concurrency_limit.free
