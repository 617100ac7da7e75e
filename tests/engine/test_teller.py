"""Who is told of what, and when once more."""

from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.engine.teller import DEFERRED_FOR, REMIND_AFTER, Teller
from linstor_affinity_events.model.verdict import Later, Reason, Refusal, Settled, Skipped, Verdict
from linstor_affinity_events.model.volume import Volume
from tests.fakes.others import FakeNotices, FakeTelemetry
from tests.model.manifests import volume

RESIZING = Later(Reason.RESIZING, "a resize from 1Gi to 2Gi is in flight", 2.0)
LARGER = Later(Reason.RESIZING, "a resize from 1Gi to 3Gi is in flight", 2.0)
REFUSED = Refusal(Reason.NO_DATA, "no replica of pvc-1 has usable data now")


class Scene:
    """A teller whose clock is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.notices = FakeNotices()
        self.teller = Teller(self.notices, FakeTelemetry(), lambda: self.now)
        self.volume = _volume()

    def tell(self, verdict: Verdict, *, after: float = 0.0) -> None:
        self.now += after
        self.teller.tell(self.volume, verdict)

    @property
    def warned(self) -> int:
        return len(self.notices.warnings)


def _volume(**changes: Any) -> Volume:
    found = describe(volume(**changes))
    assert found is not None
    return found


def test_what_waits_is_told_when_it_has_waited_for_minutes_and_not_before() -> None:
    scene = Scene()

    scene.tell(RESIZING)
    scene.tell(RESIZING, after=DEFERRED_FOR - 1)
    assert scene.warned == 0
    assert scene.teller.deferred() == {}
    scene.tell(RESIZING, after=1)
    scene.tell(RESIZING, after=60)

    [(name, _, why)] = scene.notices.warnings
    assert name == scene.volume.name
    assert RESIZING.why in why
    assert scene.teller.deferred() == {Reason.RESIZING: 1}


def test_what_waits_for_the_same_reason_waits_since_it_began_whatever_it_says() -> None:
    scene = Scene()

    scene.tell(RESIZING)
    scene.tell(LARGER, after=DEFERRED_FOR)

    assert scene.warned == 1


def test_what_came_right_meanwhile_begins_anew() -> None:
    scene = Scene()

    scene.tell(RESIZING)
    scene.tell(Settled(), after=DEFERRED_FOR - 1)
    scene.tell(RESIZING, after=2)

    assert scene.warned == 0


@pytest.mark.parametrize("verdict", [RESIZING, REFUSED])
def test_what_lasts_is_told_again_before_its_event_is_dropped(verdict: Verdict) -> None:
    scene = Scene()
    scene.tell(verdict)
    scene.tell(verdict, after=DEFERRED_FOR)
    assert scene.warned == 1

    scene.tell(verdict, after=REMIND_AFTER - DEFERRED_FOR - 1)
    assert scene.warned == 1
    scene.tell(verdict, after=DEFERRED_FOR + 1)
    assert scene.warned == 2
    scene.tell(verdict, after=REMIND_AFTER)
    assert scene.warned == 3
    assert REMIND_AFTER < 3600


def test_a_reminder_is_an_event_of_its_own() -> None:
    scene = Scene()
    scene.tell(REFUSED)
    scene.tell(REFUSED, after=REMIND_AFTER)

    assert scene.notices.reminders == [0, 1]


@pytest.mark.parametrize(
    "verdict",
    [
        Skipped(Reason.SKIP_ANNOTATION, "its skip annotation is set"),
        Later(Reason.NOT_LEADING, "this instance leads no more", 5.0),
    ],
)
def test_what_is_meant_so_is_never_told(verdict: Verdict) -> None:
    scene = Scene()

    for _ in range(5):
        scene.tell(verdict, after=REMIND_AFTER)

    assert scene.warned == 0


def test_a_volume_that_is_gone_is_told_of_no_more() -> None:
    scene = Scene()
    scene.tell(RESIZING)

    scene.teller.forget(scene.volume.name)
    scene.now += DEFERRED_FOR

    assert scene.teller.deferred() == {}
