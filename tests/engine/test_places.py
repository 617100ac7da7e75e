"""How many volumes are changed at a time, beside bottlenecks of several kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.engine.places import REMEMBERED, Places

MOST = 10
ALONE = 0.1
"""How long a replacement takes with nobody in its way."""


def busy(places: Places, took: float) -> None:
    """Have all places taken, and one replacement end after so many seconds."""
    taken = 0
    while places.free:
        places.take()
        taken += 1
    places.replaced_in(took)
    for _ in range(taken):
        places.give_back()


def test_where_nobody_waits_for_another_all_places_are_used_soon() -> None:
    places = Places(MOST)

    for _ in range(20):
        busy(places, ALONE)

    assert places.at_once == MOST


@pytest.mark.parametrize("a_second", [6.0, 35.0, 100.0])
def test_beside_a_bottleneck_a_few_wait_for_it_and_it_never_waits(a_second: float) -> None:
    places = Places(MOST)
    places.replaced_in(ALONE)

    for _ in range(100):
        busy(places, max(ALONE, places.at_once / a_second))

    keep_it_busy = ALONE * a_second
    assert min(MOST, keep_it_busy + 2) <= places.at_once <= min(MOST, keep_it_busy + 5)


def test_one_at_a_time_tells_how_long_it_takes_alone_and_changes_nothing() -> None:
    places = Places(MOST)
    before = places.at_once

    for number in range(100):
        places.take()
        places.replaced_in(ALONE * (1 + number % 3))
        places.give_back()

    assert places.at_once == before
    for _ in range(20):
        busy(places, ALONE)
    assert places.at_once == MOST


def test_a_cluster_that_became_slower_for_good_gets_its_places_back() -> None:
    places = Places(MOST)
    busy(places, ALONE)
    for _ in range(100):
        busy(places, 10 * ALONE)
    assert places.at_once < MOST

    for _ in range(2 * REMEMBERED):
        busy(places, 10 * ALONE)

    assert places.at_once == MOST


def test_one_that_was_held_up_for_long_hardly_counts() -> None:
    places = Places(MOST)
    for _ in range(20):
        busy(places, ALONE)

    busy(places, 1000 * ALONE)

    assert places.at_once >= MOST - 2


@given(
    most=st.integers(1, 50),
    took=st.lists(st.floats(0.0, 1e4, allow_nan=False), max_size=200),
    crowded=st.booleans(),
)
def test_there_is_always_a_place_and_never_more_than_wished(
    most: int, took: list[float], crowded: bool
) -> None:
    places = Places(most)

    for seconds in took:
        if crowded:
            busy(places, seconds)
        else:
            places.replaced_in(seconds)

        assert 1 <= places.at_once <= most
        assert places.free
