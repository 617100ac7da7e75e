"""What an instance remembers of the volumes that it replaces."""

import logging
from dataclasses import replace

import pytest

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import Forbidden
from linstor_affinity_events.model.names import PvName, Uid
from linstor_affinity_events.model.volume import Volume
from tests.fakes.others import FakeNotices, FakeTelemetry
from tests.model.manifests import PV, begun, marked, volume

ENTRY = begun(volume())


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
    observed = describe(volume())
    assert observed is not None
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
