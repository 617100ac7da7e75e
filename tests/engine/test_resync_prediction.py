"""When no volume is removed, by the signs of earlier resyncs of the binder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.engine.resync_prediction import (
    ENDED_AFTER,
    KNOWN_FOR,
    MARGIN_AFTER,
    MARGIN_BEFORE,
    RESYNC_PERIOD,
    SIGNS,
    ResyncPrediction,
)


def held_back(prediction: ResyncPrediction, after: float, until: float) -> tuple[float, float]:
    """When volumes are held back for the first time, from `after` on, and until when."""
    now = after
    while now < until:
        if (wait := prediction.wait(now, lag=0.0)) > 0:
            return now, now + wait
        now += 0.001
    raise AssertionError("nothing is held back")


def test_without_a_sign_nothing_is_held_back() -> None:
    prediction = ResyncPrediction()

    assert all(prediction.wait(now / 10, lag=2.0) == 0 for now in range(1000))


def test_each_resync_after_the_first_sign_is_avoided() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0)

    for n in range(1, 10):
        begin = 100.0 + n * RESYNC_PERIOD
        first, last = held_back(prediction, begin - RESYNC_PERIOD + 1.0, begin + 1.0)
        assert first == pytest.approx(begin - MARGIN_BEFORE, abs=0.002)
        assert last == pytest.approx(begin + MARGIN_AFTER, abs=0.002)


def test_an_earlier_sign_in_the_period_is_closer_to_the_begin() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.4)
    prediction.saw(115.1)
    prediction.saw(130.3)

    first, _ = held_back(prediction, 140.0, 150.0)
    assert first == pytest.approx(145.1 - MARGIN_BEFORE, abs=0.002)


def test_signs_of_long_ago_do_not_count() -> None:
    prediction = ResyncPrediction()
    for n in range(SIGNS + 1):
        prediction.saw(100.0 + n * RESYNC_PERIOD + (0.3 if n else 0.0))

    begin = 100.3 + (SIGNS + 1) * RESYNC_PERIOD
    first, _ = held_back(prediction, begin - 5.0, begin)
    assert first == pytest.approx(begin - MARGIN_BEFORE, abs=0.002)


@pytest.mark.parametrize("apart", [1, 4, 12, 20, 39])
def test_resyncs_that_come_later_each_time_are_avoided(apart: int) -> None:
    """However many of them leave no sign between two that do."""
    prediction, begin, late = ResyncPrediction(), 1000.0, 0.01
    for n in range(8 * apart):
        assert not n or prediction.wait(begin, lag=0.0) > 0
        if n % apart == 0:
            prediction.saw(begin)
        begin += RESYNC_PERIOD + late


def test_further_signs_of_a_resync_move_nothing() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0)
    prediction.saw(100.3)
    prediction.saw(101.0)

    first, _ = held_back(prediction, 110.0, 120.0)
    assert first == pytest.approx(115.0 - MARGIN_BEFORE, abs=0.002)


def test_a_resync_that_goes_on_is_waited_for() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0)
    prediction.saw(100.9)

    assert prediction.wait(101.0, lag=0.0) == pytest.approx(ENDED_AFTER - 0.1)
    assert prediction.wait(100.9 + ENDED_AFTER, lag=0.0) == pytest.approx(0.0)


def test_another_period_is_noticed() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0)
    prediction.saw(120.0)

    first, _ = held_back(prediction, 125.0, 140.0)
    assert first == pytest.approx(135.0 - MARGIN_BEFORE, abs=0.002)


def test_a_lost_claim_counts_only_as_the_first_sign() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0, late=True)
    prediction.saw(109.0, late=True)
    first, _ = held_back(prediction, 110.0, 120.0)
    assert first == pytest.approx(115.0 - MARGIN_BEFORE, abs=0.002)

    prediction.saw(113.0)
    first, _ = held_back(prediction, 120.0, 130.0)
    assert first == pytest.approx(128.0 - MARGIN_BEFORE, abs=0.002)


def test_a_binder_that_is_behind_is_waited_for_longer() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0)

    assert prediction.wait(113.0, lag=1.0) == 0
    assert prediction.wait(114.0, lag=1.0) == pytest.approx(1.0 + MARGIN_AFTER)
    assert prediction.wait(112.5, lag=100.0) == 0


def test_what_was_seen_is_forgotten() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0)
    prediction.saw(700.0 + 50.0)

    last = 750.0 + KNOWN_FOR
    assert prediction.wait(750.0 + 40 * RESYNC_PERIOD - 0.1, lag=0.0) > 0
    assert all(prediction.wait(last + 0.1 + each / 10, lag=0.0) == 0 for each in range(300))


@given(
    late=st.lists(st.floats(0.0, 0.45), min_size=2 * SIGNS, max_size=40),
    at_once=st.integers(0, SIGNS - 1),
    longer=st.floats(0.0, 0.02),
)
def test_no_volume_is_removed_before_the_next_resync(
    late: list[float], at_once: int, longer: float
) -> None:
    """However late its signs are, if one of the last few came at once."""
    prediction, begin = ResyncPrediction(), 1000.0
    for n, each in enumerate(late):
        if n >= SIGNS:
            assert all(prediction.wait(begin - before, lag=0.0) > 0 for before in (0.0, 0.1))
        prediction.saw(begin + (0.0 if n % SIGNS == at_once else each))
        begin += RESYNC_PERIOD + longer
