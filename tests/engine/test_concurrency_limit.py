"""How many volumes are changed at a time, beside a binder of several speeds."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.engine.concurrency_limit import FEWEST, TARGET, ConcurrencyLimit

MOST = 10
OTHERWISE = 0.05
"""How long a change takes beside its wait for the binder."""


def simulate(
    concurrency_limit: ConcurrencyLimit,
    changes: int,
    *,
    a_second: float,
    otherwise: float = OTHERWISE,
) -> float:
    """Make so many changes, as many at a time as may be, beside a binder that handles so many a
    second, one after the other. Returns how long it took.
    """
    in_flight: list[tuple[float, float]] = []
    now = served = 0.0
    for _ in range(changes):
        while concurrency_limit.free:
            concurrency_limit.acquire()
            served = max(served, now) + 1 / a_second
            heapq.heappush(in_flight, (served + otherwise, served - now))
        now, waited = heapq.heappop(in_flight)
        concurrency_limit.observe(waited)
        concurrency_limit.release()
    for _ in in_flight:
        concurrency_limit.release()
    return now


def one_alone(concurrency_limit: ConcurrencyLimit, waited: float) -> None:
    concurrency_limit.acquire()
    concurrency_limit.observe(waited)
    concurrency_limit.release()


@pytest.mark.parametrize("otherwise", [OTHERWISE, 20 * OTHERWISE])
def test_beside_a_quick_binder_the_limit_rises_to_its_maximum_soon(otherwise: float) -> None:
    """However long a change takes for other reasons, such as a busy API server."""
    concurrency_limit = ConcurrencyLimit(MOST)

    simulate(concurrency_limit, 20, a_second=1e6, otherwise=otherwise)

    assert concurrency_limit.limit == MOST


@pytest.mark.parametrize("changes", [200, 5_000])
@pytest.mark.parametrize("a_second", [6.0, 10.0, 20.0, 35.0])
def test_a_slow_binder_is_kept_busy_by_a_few_changes(a_second: float, changes: int) -> None:
    concurrency_limit = ConcurrencyLimit(MOST)

    took = simulate(concurrency_limit, changes, a_second=a_second)

    within_target = (TARGET + OTHERWISE) * a_second
    assert FEWEST <= concurrency_limit.limit <= max(FEWEST, within_target) + 1
    assert took <= 1.02 * changes / a_second + 5 * OTHERWISE


def test_sequential_changes_do_not_raise_the_limit() -> None:
    concurrency_limit = ConcurrencyLimit(MOST)

    for _ in range(100):
        one_alone(concurrency_limit, 0.01)

    assert concurrency_limit.limit == FEWEST


def test_after_a_backlog_the_limit_recovers() -> None:
    concurrency_limit = ConcurrencyLimit(MOST)
    simulate(concurrency_limit, 60, a_second=6.0)
    assert concurrency_limit.limit == FEWEST

    simulate(concurrency_limit, 100, a_second=1e6)

    assert concurrency_limit.limit == MOST


def test_one_very_long_wait_hardly_counts() -> None:
    concurrency_limit = ConcurrencyLimit(MOST)
    simulate(concurrency_limit, 60, a_second=1e6)

    concurrency_limit.observe(1000 * TARGET)

    assert concurrency_limit.limit >= MOST - 2


@given(
    most=st.integers(1, 50),
    waits=st.lists(st.floats(0.0, 1e4, allow_nan=False), max_size=200),
    contended=st.booleans(),
)
def test_the_limit_is_at_least_one_and_at_most_the_configured_one(
    most: int, waits: list[float], contended: bool
) -> None:
    concurrency_limit = ConcurrencyLimit(most)

    for waited in waits:
        concurrency_limit.acquire()
        while contended and concurrency_limit.free:
            concurrency_limit.acquire()
        concurrency_limit.observe(waited)
        while concurrency_limit.in_flight:
            concurrency_limit.release()

        assert 1 <= concurrency_limit.limit <= most
        assert concurrency_limit.free
