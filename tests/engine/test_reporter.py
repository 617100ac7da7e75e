"""Who is told of what, and when once more."""

import logging
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.engine.reporter import DEFERRED_FOR, REMIND_AFTER, Reporter
from linstor_affinity_events.model.decision import (
    Decision,
    Deferred,
    InSync,
    Reason,
    Refusal,
    Skipped,
)
from linstor_affinity_events.model.volume import Volume
from tests.fakes.others import FakeNotices, FakeTelemetry
from tests.model.manifests import volume

RESIZING = Deferred(Reason.RESIZING, "a resize from 1Gi to 2Gi is in flight", 2.0)
LARGER = Deferred(Reason.RESIZING, "a resize from 1Gi to 3Gi is in flight", 2.0)
REFUSED = Refusal(Reason.NO_DATA, "no replica of pvc-1 has usable data now")


class Scene:
    """A teller whose clock is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.notices = FakeNotices()
        self.reporter = Reporter(self.notices, FakeTelemetry(), lambda: self.now)
        self.volume = _volume()

    def report(self, decision: Decision, *, after: float = 0.0) -> None:
        self.now += after
        self.reporter.report(self.volume, decision)

    @property
    def warned(self) -> int:
        return len(self.notices.warnings)


def _volume(**changes: Any) -> Volume:
    found = describe(volume(**changes))
    assert found is not None
    return found


def test_what_waits_is_told_when_it_has_waited_for_minutes_and_not_before() -> None:
    scene = Scene()

    scene.report(RESIZING)
    scene.report(RESIZING, after=DEFERRED_FOR - 1)
    assert scene.warned == 0
    assert scene.reporter.deferred() == {}
    scene.report(RESIZING, after=1)
    scene.report(RESIZING, after=60)

    [(name, _, why)] = scene.notices.warnings
    assert name == scene.volume.name
    assert RESIZING.why in why
    assert scene.reporter.deferred() == {Reason.RESIZING: 1}


def test_what_waits_for_the_same_reason_waits_since_it_began_whatever_it_says() -> None:
    scene = Scene()

    scene.report(RESIZING)
    scene.report(LARGER, after=DEFERRED_FOR)

    assert scene.warned == 1


def test_what_came_right_meanwhile_begins_anew() -> None:
    scene = Scene()

    scene.report(RESIZING)
    scene.report(InSync(), after=DEFERRED_FOR - 1)
    scene.report(RESIZING, after=2)

    assert scene.warned == 0


@pytest.mark.parametrize("decision", [RESIZING, REFUSED])
def test_what_lasts_is_told_again_before_its_event_is_dropped(decision: Decision) -> None:
    scene = Scene()
    scene.report(decision)
    scene.report(decision, after=DEFERRED_FOR)
    assert scene.warned == 1

    scene.report(decision, after=REMIND_AFTER - DEFERRED_FOR - 1)
    assert scene.warned == 1
    scene.report(decision, after=DEFERRED_FOR + 1)
    assert scene.warned == 2
    scene.report(decision, after=REMIND_AFTER)
    assert scene.warned == 3
    assert REMIND_AFTER < 3600


def test_a_reminder_is_an_event_of_its_own() -> None:
    scene = Scene()
    scene.report(REFUSED)
    scene.report(REFUSED, after=REMIND_AFTER)

    assert scene.notices.reminders == [0, 1]


@pytest.mark.parametrize(
    "decision",
    [
        Skipped(Reason.SKIP_ANNOTATION, "annotation piraeus.io/skip-affinity-controller is set"),
        Deferred(Reason.NOT_LEADING, "this instance is not the leader any more", 5.0),
    ],
)
def test_what_is_meant_so_is_never_told(decision: Decision) -> None:
    scene = Scene()

    for _ in range(5):
        scene.report(decision, after=REMIND_AFTER)

    assert scene.warned == 0


def test_a_volume_that_is_gone_is_told_of_no_more() -> None:
    scene = Scene()
    scene.report(RESIZING)

    scene.reporter.forget(scene.volume.name)
    scene.now += DEFERRED_FOR

    assert scene.reporter.deferred() == {}


@pytest.mark.parametrize(
    ("decision", "level"),
    [
        (Deferred(Reason.YOUNG, "it is younger than --new-volume-grace", 9.0), "DEBUG"),
        (Skipped(Reason.SKIP_ANNOTATION, "the annotation is set"), "DEBUG"),
        (RESIZING, "INFO"),
    ],
    ids=["new", "excluded", "deferred"],
)
def test_a_correct_volume_is_logged_as_loudly_as_what_is_over(
    decision: Decision, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    scene.report(decision)

    with caplog.at_level(logging.DEBUG):
        scene.report(InSync())

    assert [each.levelname for each in caplog.records if "correct now" in each.message] == [level]
