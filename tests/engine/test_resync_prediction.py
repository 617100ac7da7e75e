"""When no volume is removed, by the signs of earlier resyncs of the binder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.engine.resync_prediction import (
    AS_PREDICTED,
    ENDED_AFTER,
    KNOWN_FOR,
    LEAST_AFTER,
    LEAST_BEFORE,
    MARGIN_AFTER,
    MARGIN_BEFORE,
    MEASURED_BY,
    RESYNC_PERIOD,
    SIGNS,
    SPREAD,
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

    first, _ = held_back(prediction, 110.0, 120.0)
    assert first == pytest.approx(115.0 - MARGIN_BEFORE, abs=0.002)


def test_a_resync_that_goes_on_is_waited_for() -> None:
    prediction = ResyncPrediction()
    prediction.saw(100.0)
    prediction.saw(100.9)

    assert prediction.wait(101.0, lag=0.0) == pytest.approx(ENDED_AFTER - 0.1)
    assert prediction.wait(100.9 + ENDED_AFTER, lag=0.0) == pytest.approx(0.0)


def test_signs_without_end_hold_nothing_back_for_longer_than_a_resync() -> None:
    """Whoever keeps writing to a claim during its replacement looks like a resync."""
    prediction = ResyncPrediction()
    held = 0
    for tenth in range(600):
        prediction.saw(100.0 + tenth / 10)
        held += prediction.wait(100.0 + tenth / 10, lag=0.0) > 0

    assert 0 < held <= 0.3 * 600


def seen(*resyncs: list[float]) -> ResyncPrediction:
    """A prediction after resyncs from 100.0 on, with signs so many seconds after their begin."""
    prediction = ResyncPrediction()
    for n, signs in enumerate(resyncs):
        for each in signs:
            prediction.saw(100.0 + n * RESYNC_PERIOD + each)
    return prediction


def held_back_around(prediction: ResyncPrediction, begin: float) -> tuple[float, float]:
    """For how many seconds before and after that begin volumes are held back."""
    first, last = held_back(prediction, begin - 3.0, begin + 3.0)
    return begin - first, last - begin


@pytest.mark.parametrize("took", [0.04, 0.2, 0.6])
def test_the_margins_follow_the_measured_length_of_a_resync(took: float) -> None:
    before, after = held_back_around(seen([0.0, took / 2, took]), 115.0)

    assert before == pytest.approx(LEAST_BEFORE + took, abs=0.002)
    assert after == pytest.approx(LEAST_AFTER + took, abs=0.002)


def test_with_more_signs_the_begin_is_known_better() -> None:
    many = [0.01 * n for n in range(21)]
    before, after = held_back_around(seen(many, many), 130.0)

    assert before == pytest.approx(LEAST_BEFORE + 0.2 * SPREAD / (42 - SPREAD), abs=0.002)
    assert after == pytest.approx(LEAST_AFTER + 0.2, abs=0.002)


@pytest.mark.parametrize(
    "resyncs",
    [
        pytest.param([[0.0, 0.04]], id="few signs"),
        pytest.param([[0.0, 0.01, 0.04], [], []], id="long ago"),
    ],
)
def test_the_margins_stay_wide_as_long_as_no_length_is_known(resyncs: list[list[float]]) -> None:
    prediction = seen(*resyncs)
    before, after = held_back_around(prediction, 100.0 + len(resyncs) * RESYNC_PERIOD)

    assert before == pytest.approx(MARGIN_BEFORE, abs=0.002)
    assert after == pytest.approx(MARGIN_AFTER, abs=0.002)


def test_the_longest_of_the_measured_resyncs_counts() -> None:
    _, after = held_back_around(seen([0.0, 0.1, 0.6], [0.0, 0.01, 0.02], [0.0]), 145.0)
    assert after == pytest.approx(LEAST_AFTER + 0.6, abs=0.002)


def test_a_stray_sign_makes_no_resync_long() -> None:
    _, after = held_back_around(seen([0.0, 0.1, 0.2, 5.0]), 115.0)
    assert after == pytest.approx(LEAST_AFTER + AS_PREDICTED, abs=0.002)


@given(
    resyncs=st.lists(
        st.lists(st.floats(0.0, 1.0), min_size=MEASURED_BY - 1, max_size=12),
        min_size=SIGNS,
        max_size=20,
    ),
    took=st.floats(0.0, 0.6),
    longer=st.floats(0.0, 0.02),
)
def test_no_volume_is_removed_during_a_measured_resync(
    resyncs: list[list[float]], took: float, longer: float
) -> None:
    """If the last sign of each comes at its end, and one of the last few as early as it does in all
    but one of a thousand cases.
    """
    prediction, begin = ResyncPrediction(), 1000.0
    for n, shares in enumerate(resyncs):
        last = [sorted([*each, 1.0]) for each in resyncs[max(0, n - SIGNS) : n]]
        signs = sum(map(len, last))
        early = min((each[0] for each in last), default=1.0)
        if signs and early <= min(0.5, SPREAD / signs):
            times = (begin - LEAST_BEFORE / 2, begin, begin + took / 2, begin + took)
            assert all(prediction.wait(now, lag=0.0) > 0 for now in times)
        for share in sorted([*shares, 1.0]):
            prediction.saw(begin + share * took)
        begin += RESYNC_PERIOD + longer


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
