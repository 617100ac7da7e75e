"""How often one volume may be changed."""

import asyncio

import pytest

from linstor_affinity_events.engine.change_backoff import (
    BURST,
    FORGIVEN_EVERY,
    PAUSE_FIRST,
    PAUSE_MOST,
    ChangeBackoff,
)
from linstor_affinity_events.model.decision import Reason
from linstor_affinity_events.model.names import PvName

PV, OTHER = PvName("pvc-1"), PvName("pvc-2")


async def test_a_few_changes_of_each_volume_are_allowed_without_delay() -> None:
    backoff = ChangeBackoff()

    for _ in range(BURST):
        assert backoff.against(PV) is None
        backoff.changed(PV)

    assert backoff.against(PV) is None
    assert backoff.held_back() == 0
    backoff.changed(PV)
    against = backoff.against(PV)
    assert against is not None
    assert against.reason is Reason.HELD_BACK
    assert backoff.against(OTHER) is None
    assert backoff.held_back() == 1


async def test_repeated_changes_of_one_volume_are_delayed_increasingly() -> None:
    backoff, changes = ChangeBackoff(), []
    for _ in range(24 * 3600):
        if backoff.against(PV) is None:
            backoff.changed(PV)
            changes.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.0)

    first_hour = sum(at < 3600 for at in changes)
    last_hour = sum(at >= 23 * 3600 for at in changes)
    assert first_hour < 2 * BURST
    assert last_hour <= 2


async def test_a_change_with_an_unexpected_result_doubles_the_delay_each_time() -> None:
    backoff, pauses = ChangeBackoff(), []
    for _ in range(12):
        backoff.changed(PV, different="it came out otherwise")
        pause = 0.0
        while backoff.against(PV) is not None:
            await asyncio.sleep(1.0)
            pause += 1.0
        pauses.append(pause)

    assert pauses[0] == PAUSE_FIRST
    assert pauses[1] == 2 * PAUSE_FIRST
    assert pauses[-1] == PAUSE_MOST


@pytest.mark.parametrize("different", ["", "it came out otherwise"])
async def test_old_changes_expire_and_are_dropped(different: str) -> None:
    backoff = ChangeBackoff()
    for _ in range(BURST):
        backoff.changed(PV, different=different)
    assert len(backoff) == 1

    await asyncio.sleep(BURST * FORGIVEN_EVERY + 2 * PAUSE_MOST + 1)
    backoff.forget_old()

    assert len(backoff) == 0
    assert backoff.against(PV) is None


async def test_recent_changes_are_not_dropped() -> None:
    backoff = ChangeBackoff()
    backoff.changed(PV, different="it came out otherwise")

    backoff.forget_old()

    assert backoff.against(PV) is not None
