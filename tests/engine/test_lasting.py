"""Whatever goes wrong for long is told, and none is done over and over."""

import asyncio
import json
import logging
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.errors import Conflict, Forbidden, Refused, Unreachable
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName
from tests.engine.house import PV, RD, House, house_on, instead, one_house, replace

Json = dict[str, Any]

DAY = 24 * 3600.0


async def a_day(house: House) -> None:
    """With a full reconcile each quarter of an hour, and a clock that tells the teller."""
    house.teller._now = asyncio.get_running_loop().time
    house.queue.add(RD, source="promotion")
    for _ in range(96):
        await asyncio.sleep(DAY / 96)
        await house.sweeper.sweep("period")


@pytest.mark.parametrize("error", [Forbidden, Conflict])
async def test_a_write_that_never_succeeds_is_told(error: type[Exception]) -> None:
    async with one_house("n2") as house:

        async def refused(name: PvName, patch: Patch) -> Manifest:
            raise error("not for you")

        instead(house.volumes, patch=refused)
        async with house.at_work():
            await a_day(house)

        assert {name for name, _, _ in house.notices.warnings} == {PV}
        assert all("not for you" in why for _, _, why in house.notices.warnings)
        assert 10 < len(house.notices.warnings) < 40


async def test_who_takes_back_our_marks_each_time_is_not_fought() -> None:
    async with one_house("n2") as house:
        patch, marks = house.volumes.patch, 0

        async def undone(name: PvName, wanted: Patch) -> Manifest:
            nonlocal marks
            made = await patch(name, wanted)
            if (wanted.get("spec") or {}).get("persistentVolumeReclaimPolicy") == "Retain":
                marks += 1
                delete = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
                house.cluster.patch("persistentvolumes", PV, delete)
            return made

        instead(house.volumes, patch=undone)
        async with house.at_work():
            await a_day(house)

        assert marks < 60
        assert any("or was about to be" in why for _, _, why in house.notices.warnings)


async def test_a_volume_that_stays_absent_is_told_whatever_the_reason() -> None:
    async with one_house("n2") as house:
        house.faults.refuse("create", Unreachable)
        with pytest.raises(Unreachable):
            await replace(house, "n2")
        house.faults.allow("create")
        second = house_on(house.cluster, house.linstor, journal=house.journal, holder="other")

        async def refused(claim: ClaimName) -> Manifest | None:
            raise Forbidden("claims are none of your business")

        instead(second.volumes, read_claim=refused)
        async with second.at_work():
            await a_day(second)

        assert second.telemetry.now["absent"] == 1
        assert second.telemetry.now["unfinished"] == 1
        told = [why for _, reason, why in second.notices.warnings]
        assert all("none of your business" in why for why in told)
        assert len(told) > 10


async def test_a_replacement_that_never_ends_is_told() -> None:
    async with one_house("n2") as house:

        async def raced(manifest: Manifest) -> None:
            raise Conflict("somebody writes all the time")

        instead(house.volumes, remove=raced)
        async with house.at_work():
            house.queue.add(RD, source="promotion")
            for _ in range(5):
                await asyncio.sleep(60.0)
                await house.sweeper.sweep("period")

        assert house.telemetry.now["unfinished"] == 1
        assert "VolumeReplacementUnfinished" in [r for _, r, _ in house.notices.warnings]


async def test_a_refused_creation_is_told_again_and_again_while_it_lasts() -> None:
    async with one_house("n2") as house:
        house.faults.refuse("create", Forbidden)
        async with house.at_work():
            await a_day(house)

        told = [r for _, r, _ in house.notices.warnings if r == "VolumeRecreationFailing"]
        assert 20 < len(told) < 40
        assert len(set(house.notices.reminders)) > 20


async def test_a_property_that_linstor_does_not_drop_holds_up_no_volume() -> None:
    async with one_house("n2") as house:
        saved = {key: value for key, value in house.pv().items() if key != "status"}
        saved["metadata"] = {"name": PV}
        known = house.linstor.known
        known[RD] = changed(known[RD], saved={0: json.dumps(saved)})

        async def refused(resource: ResourceName, number: int) -> None:
            raise Refused("no permission")

        instead(house.linstor, forget_saved=refused)
        async with house.at_work():
            house.queue.add(RD, source="promotion")
            await asyncio.sleep(10.0)

        assert house.nodes() == {"n2"}


async def test_where_the_watch_says_nothing_of_a_removal_that_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_house("n2") as house:
        # Nobody follows the cluster: the watch is away.
        with caplog.at_level(logging.WARNING):
            await replace(house, "n2")

    assert "the watch did not tell how the old volume was" in caplog.text


async def test_a_binder_that_lags_is_waited_for_before_the_claim_is_judged() -> None:
    async with one_house("n2") as house:
        create, read_claim = house.volumes.create, house.volumes.read_claim
        loop = asyncio.get_running_loop()
        made_at = float("inf")

        async def created(manifest: Manifest) -> Manifest:
            nonlocal made_at
            made = await create(manifest)
            made_at = loop.time()
            for tick in range(5):
                # Its signs of life on other volumes, while its row is long.
                loop.call_later(tick * 1.5, alive)
            return made

        def alive() -> None:
            house.volumes.index.phase_changed_at = loop.time()

        async def read(claim: ClaimName) -> Manifest | None:
            found = await read_claim(claim)
            if found is None or loop.time() < made_at + 4.0:
                return found
            return {**found, "status": {**found["status"], "phase": "Lost"}}

        instead(house.volumes, create=created, read_claim=read)
        async with house.volumes.watching():
            seen = house.volumes.index.changed

            def unseen(manifest: Manifest) -> None:
                """The new volume's phase is not written yet."""
                if loop.time() < made_at:
                    seen(manifest)

            instead(house.volumes.index, changed=unseen)
            await replace(house, "n2")

        assert house.telemetry.counted["claim lost"] == 1
