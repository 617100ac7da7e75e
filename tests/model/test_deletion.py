"""Whose deletion it is that a run observes, where only volume and entry are left to tell."""

from dataclasses import replace
from typing import Any

import pytest

from linstor_affinity_events.model.deletion import is_by_another
from linstor_affinity_events.model.markers import mark_patch
from linstor_affinity_events.model.observation import Observation
from linstor_affinity_events.model.progress import Progress, begin
from linstor_affinity_events.model.results import Observed
from tests.model.manifests import applied, begun, managed, terminating, volume

Json = dict[str, Any]

US, ANOTHER = "pod-1", "pod-2"
ENTRY = begun(volume(), holder=US).deleting()


def named(holder: str, *, by_us: bool = True) -> Json:
    """The terminating volume with the markers of this instance; our field manager wrote them, or
    somebody else did.
    """
    marked = applied(volume(), mark_patch(volume(), holder))
    return terminating(managed(marked) if by_us else marked)


def run(*, begun_by_us: bool = True, saved: str = "") -> Progress:
    """One that has not had the volume deleted. `saved` is the version of the entry with which it,
    before any other, was about to.
    """
    progress = begin(ENTRY, Observation(pv=None), holder=US, own=begun_by_us)
    return replace(progress, deleting_version=saved)


def by_another(progress: Progress, pv: Json | None, *, led: bool = False) -> bool:
    seen = Observed(pv, ENTRY, leads_since_run_began=led, exclusive=False)
    return is_by_another(progress, seen, replace(ENTRY, version="later"))


@pytest.mark.parametrize(
    ("pv", "expected"),
    [
        pytest.param(named(US), True, id="marked by us last"),
        pytest.param(terminating(volume()), True, id="without markers, nobody came to delete it"),
        pytest.param(named(ANOTHER), False, id="marked by another instance last"),
        pytest.param(named(""), False, id="without a name it may be anybody's"),
    ],
)
def test_a_run_that_may_not_have_led_goes_by_the_name_on_the_volume(
    pv: Json, expected: bool
) -> None:
    assert by_another(run(), pv) is expected


@pytest.mark.parametrize(
    ("pv", "expected"),
    [
        pytest.param(named(US), True, id="marked by us last"),
        pytest.param(named(""), True, id="without a name"),
        pytest.param(named(ANOTHER), False, id="marked by another instance last"),
        pytest.param(named(ANOTHER, by_us=False), True, id="the name is somebody else's"),
    ],
)
def test_without_an_election_another_instance_may_have_deleted_what_it_marked(
    pv: Json, expected: bool
) -> None:
    assert by_another(run(), pv, led=True) is expected


@pytest.mark.parametrize(("saved", "expected"), [("", False), ("saved", True)])
def test_a_run_that_continues_knows_only_what_happened_since_it_saved_the_entry(
    saved: str, expected: bool
) -> None:
    assert by_another(run(begun_by_us=False, saved=saved), named(US)) is expected


@pytest.mark.parametrize(("saved", "expected"), [("", False), ("saved", True)])
def test_a_volume_that_is_gone_shows_nothing(saved: str, expected: bool) -> None:
    assert by_another(run(saved=saved), None) is expected


def test_a_deletion_that_this_run_requested_is_its_own() -> None:
    progress = run()
    requested = replace(progress.run, deletion_requested=True)

    assert not by_another(replace(progress, run=requested), named(US))


def test_a_volume_that_is_not_deleted_is_deleted_by_nobody() -> None:
    assert not by_another(run(), volume())
