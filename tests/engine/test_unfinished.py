"""What an instance remembers of the volumes that it replaces."""

import asyncio
import logging
from dataclasses import replace

import pytest

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.engine.long_unfinished import REPORTED_AT_ONCE
from linstor_affinity_events.engine.observing import MOST_ABSENT
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.engine.reporter import DEFERRED_FOR
from linstor_affinity_events.engine.unfinished import (
    FORGOTTEN_AT_ONCE,
    Unfinished,
)
from linstor_affinity_events.errors import Forbidden
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName, Uid
from linstor_affinity_events.model.volume import Volume
from tests.engine.setup import RD, instead, one_setup
from tests.fakes.others import FakeNotices, FakeTelemetry
from tests.model.manifests import PV, begun, marked, volume

ENTRY = begun(volume())
OBSERVED = describe(volume())


@pytest.mark.parametrize(
    ("held", "shown", "remembered"),
    [(True, "pv-uid-1", True), (True, "pv-uid-2", False), (False, "pv-uid-1", False)],
    ids=["the held one", "the new one", "one that was not held"],
)
async def test_the_cache_does_not_override_what_was_observed(
    held: bool, shown: str, remembered: bool
) -> None:
    """The cache is late, and somebody else deleted the entry of a volume that is absent."""
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    assert OBSERVED is not None
    observed = OBSERVED
    unfinished.originals.observed(marked(volume()) if held else volume())
    unfinished.record(ENTRY)

    def cached(_: PvName) -> Volume:
        return replace(observed, uid=Uid(shown))

    unfinished.know(Listed({}), before=[PV], term=0, volume_of=cached)

    assert (unfinished.originals.of(ENTRY) is not None) is remembered


@pytest.mark.parametrize("exists", [True, False], ids=["recreated", "leadership lost"])
async def test_a_missing_volume_is_called_recreated_only_if_it_exists(
    exists: bool, caplog: pytest.LogCaptureFixture
) -> None:
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    unfinished.absent.gone(PV)
    unfinished.absent.mark_stuck(ENTRY, Forbidden("a policy"), blocking=True)

    with caplog.at_level(logging.INFO):
        if exists:
            unfinished.absent.present(PV)
        else:
            unfinished.leadership_lost()

    assert ("missing PersistentVolume is recreated" in caplog.text) is exists
    assert not unfinished.absent.stuck


async def test_what_was_observed_before_another_instance_led_does_not_count_any_more() -> None:
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    originals = unfinished.originals
    originals.observed(marked(volume()))
    unfinished.leadership_lost()

    assert originals.of(ENTRY) is None
    assert not unfinished.knows_owner(PV, ENTRY.key)

    originals.observed(volume())
    seen = originals.of(ENTRY)
    assert seen is not None
    assert not seen.held
    assert unfinished.knows_owner(PV, ENTRY.key)


async def test_a_volume_that_was_held_before_another_instance_led_is_forgotten_once_it_exists() -> (
    None
):
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    unfinished.originals.observed(marked(volume()))
    unfinished.leadership_lost()

    unfinished.know(Listed({}), before=[], term=unfinished.term, volume_of=lambda _: OBSERVED)

    assert not unfinished.originals.has_any([PV])


@pytest.mark.parametrize("gained", [False, True], ids=["listed since", "leads since"])
async def test_an_entry_is_urgent_if_it_was_there_when_this_instance_began_to_lead(
    gained: bool,
) -> None:
    """What is listed between the loss of the leadership and the next one does not count."""
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)

    def know(*names: PvName) -> None:
        found = Listed(dict.fromkeys(names, ENTRY.key))
        unfinished.know(
            found, before=tuple(unfinished.pending), term=unfinished.term, volume_of=lambda _: None
        )

    unfinished.leadership_lost()
    know()
    if gained:
        unfinished.leadership_gained()
    know(PV)
    assert unfinished.is_urgent([PV]) is gained

    know()
    assert not unfinished.is_urgent([PV])
    know(PV)
    assert not unfinished.is_urgent([PV])

    unfinished.originals.observed(marked(volume()))
    assert unfinished.is_urgent([PV])
    unfinished.leave_alone(PV, "not valid")
    assert not unfinished.is_urgent([PV])


async def test_very_many_unfinished_replacements_are_reported_a_few_at_a_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Others may have written their entries, and to report thousands at once blocks all else."""
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    number = 2 * REPORTED_AT_ONCE + 1
    for each in range(number):
        unfinished.pending.add(PvName(f"pvc-{each:04}"), ENTRY.key)
    unfinished.review(lambda _: None)
    await asyncio.sleep(DEFERRED_FOR)

    reported = list[int]()
    for _ in range(4):
        caplog.clear()
        unfinished.review(lambda _: None)
        reported.append(caplog.text.count("replacement has been unfinished for minutes"))

    assert reported == [REPORTED_AT_ONCE, REPORTED_AT_ONCE, 1, 0]


async def test_of_very_many_entries_for_one_volume_a_few_are_read() -> None:
    """Others may have written them. One that is absent is enough to leave the volume alone."""
    async with one_setup() as setup:
        key, number = VolumeKey(RD), 100 * MOST_ABSENT
        for each in range(number):
            setup.replacer.unfinished.pending.add(PvName(f"pvc-{each}"), key)
        searched = list[PvName]()

        def absent(name: PvName) -> Volume | None:
            searched.append(name)
            return None

        instead(setup.volumes.index, get=absent)
        others = setup.replacer.others_for(key, but=PvName("pvc-0"))

        assert len(others) == len(searched) == MOST_ABSENT
        assert PvName("pvc-0") not in others
        assert len(setup.replacer.unfinished.pending.of(RD)) == number


async def test_those_to_resume_are_the_observed_then_the_ones_not_tried_for_longest() -> None:
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    names = [PvName(f"pvc-{each}") for each in range(100)]
    for name in names[:50]:
        unfinished.attempts.trying(name)
        await asyncio.sleep(1.0)

    assert unfinished.attempts.due(names, pause=60.0, most=60) == names[50:] + names[:10]
    assert unfinished.attempts.due(names[:50], pause=60.0, most=3) == names[:3]


async def test_very_many_entries_that_are_gone_are_forgotten_some_at_a_time() -> None:
    """Others may delete thousands that they wrote, by one request."""
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    number = 2 * FORGOTTEN_AT_ONCE + 1
    for each in range(number):
        unfinished.pending.add(PvName(f"pvc-{each}"), ENTRY.key)
    none = Listed({}, whole=True, first=True, last=True)

    left = list[int]()
    for _ in range(3):
        unfinished.know(none, before=list(unfinished.pending), term=0, volume_of=lambda _: None)
        left.append(len(unfinished.pending))

    assert left == [number - FORGOTTEN_AT_ONCE, 1, 0]
