"""Who is reported of what, and when once more."""

import logging
import weakref
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.engine.event_reasons import EventReason
from linstor_affinity_events.engine.reporter import (
    DEFERRED_FOR,
    REMIND_AFTER,
    Reporter,
)
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.decision import (
    Change,
    Decision,
    Deferred,
    InSync,
    Reason,
    Refusal,
    Skipped,
)
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.policy import LOCAL_ONLY
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.printable import LONGEST_TEXT
from tests.fakes.others import FakeNotices, FakeTelemetry
from tests.model.manifests import on_node, volume

RESIZING = Deferred(Reason.RESIZING, "a resize from 1Gi to 2Gi is in flight", 2.0)
LARGER = Deferred(Reason.RESIZING, "a resize from 1Gi to 3Gi is in flight", 2.0)
REFUSED = Refusal(Reason.NO_DATA, "no replica of pvc-1 has usable data now")


class Scenario:
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


def test_a_deferred_volume_is_reported_after_minutes_and_not_before() -> None:
    scenario = Scenario()

    scenario.report(RESIZING)
    scenario.report(RESIZING, after=DEFERRED_FOR - 1)
    assert scenario.warned == 0
    assert scenario.reporter.deferred() == {}
    scenario.report(RESIZING, after=1)
    scenario.report(RESIZING, after=60)

    [(name, _, why)] = scenario.notices.warnings
    assert name == scenario.volume.name
    assert RESIZING.why in why
    assert scenario.reporter.deferred() == {Reason.RESIZING: 1}


def test_a_deferral_lasts_since_its_reason_began_whatever_its_message() -> None:
    scenario = Scenario()

    scenario.report(RESIZING)
    scenario.report(LARGER, after=DEFERRED_FOR)

    assert scenario.warned == 1


def test_a_deferral_starts_again_after_the_volume_was_in_sync() -> None:
    scenario = Scenario()

    scenario.report(RESIZING)
    scenario.report(InSync(), after=DEFERRED_FOR - 1)
    scenario.report(RESIZING, after=2)

    assert scenario.warned == 0


@pytest.mark.parametrize("decision", [RESIZING, REFUSED])
def test_a_lasting_problem_is_reported_again_before_its_event_expires(decision: Decision) -> None:
    scenario = Scenario()
    scenario.report(decision)
    scenario.report(decision, after=DEFERRED_FOR)
    assert scenario.warned == 1

    scenario.report(decision, after=REMIND_AFTER - DEFERRED_FOR - 1)
    assert scenario.warned == 1
    scenario.report(decision, after=DEFERRED_FOR + 1)
    assert scenario.warned == 2
    scenario.report(decision, after=REMIND_AFTER)
    assert scenario.warned == 3
    assert REMIND_AFTER < 3600


def test_a_reminder_is_an_event_of_its_own() -> None:
    scenario = Scenario()
    scenario.report(REFUSED)
    scenario.report(REFUSED, after=REMIND_AFTER)

    assert scenario.notices.reminders == [0, 1]


@pytest.mark.parametrize(
    "decision",
    [
        Skipped(Reason.SKIP_ANNOTATION, "annotation piraeus.io/skip-affinity-controller is set"),
        Deferred(Reason.NOT_LEADING, "this instance is not the leader any more", 5.0),
    ],
)
def test_an_intended_state_is_never_reported(decision: Decision) -> None:
    scenario = Scenario()

    for _ in range(5):
        scenario.report(decision, after=REMIND_AFTER)

    assert scenario.warned == 0


def test_a_deleted_volume_is_not_reported_again() -> None:
    scenario = Scenario()
    scenario.report(RESIZING)

    scenario.reporter.forget_gone(VolumeIndex(lambda _: None))
    scenario.now += DEFERRED_FOR

    assert scenario.reporter.deferred() == {}


def test_nothing_is_kept_of_volumes_that_are_gone() -> None:
    """Also of those that were in sync: claims and their volumes come and go for years."""
    scenario, index = Scenario(), VolumeIndex(lambda _: None)
    index.changed(volume())
    scenario.reporter.created_different(scenario.volume, ["spec.capacity"])
    scenario.reporter.duplicates(scenario.volume, [PvName("other")])
    assert scenario.warned == 2

    scenario.reporter.forget_gone(index)
    scenario.reporter.duplicates(scenario.volume, [PvName("other")])
    assert scenario.warned == 2

    index.gone(volume())
    scenario.reporter.forget_gone(index)
    scenario.reporter.duplicates(scenario.volume, [PvName("other")])
    assert scenario.warned == 3


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
    scenario = Scenario()
    scenario.report(decision)

    with caplog.at_level(logging.DEBUG):
        scenario.report(InSync())

    assert [each.levelname for each in caplog.records if "correct now" in each.message] == [level]


def test_a_warning_names_a_few_of_many_duplicates() -> None:
    """It is kept for each of them."""
    scenario = Scenario()

    scenario.reporter.duplicates(scenario.volume, [PvName(f"pvc-{n:03}") for n in range(500)])

    [(_, _, why)] = scenario.notices.warnings
    assert "PersistentVolume pvc-000, pvc-001, pvc-002, pvc-003, pvc-004 and 495 more refers" in why


def test_the_last_changes_keep_no_volume_and_no_large_text() -> None:
    scenario = Scenario()
    large = NodeAffinity.of(
        frozenset({("zone", f"{term}-{'v' * LONGEST_TEXT}")}) for term in range(20)
    )
    claim = {"namespace": "default", "name": "c" * 2 * LONGEST_TEXT, "uid": "1"}
    before = _volume(nodeAffinity=large.manifest(), claimRef=claim)
    was = weakref.ref(before.affinity)
    wanted = Change(on_node("b"), LOCAL_ONLY, in_place=True, urgent=False)
    del large

    scenario.reporter.changed(before, scenario.volume, wanted, how="patch", took=1.0)
    del before

    [(_, reason, text)] = scenario.notices.informed
    assert reason == EventReason.UPDATED
    assert text.startswith("Node affinity changed from zone=0-vvv")
    assert text.endswith(f" to {on_node('b')}")
    [change] = scenario.reporter.latest
    assert was() is None
    assert change.was.startswith("zone=0-vvv")
    assert len(change.was) == LONGEST_TEXT
    assert len(change.claim or "") < LONGEST_TEXT
    assert change.now == str(on_node("b"))
