"""Whatever goes wrong for long is reported, and none is done over and over."""

import asyncio
import json
import logging
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.errors import Conflict, Forbidden, Refused, Unreachable
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName
from tests.engine.setup import PV, RD, Setup, instead, one_setup, replace, setup_on

Json = dict[str, Any]

DAY = 24 * 3600.0


async def a_day(setup: Setup) -> None:
    """With a full reconcile each quarter of an hour, and a clock for the reporter."""
    setup.reporter._now = asyncio.get_running_loop().time
    setup.queue.add(RD, source="promotion")
    for _ in range(96):
        await asyncio.sleep(DAY / 96)
        await setup.full_reconciler.reconcile_all("period")


@pytest.mark.parametrize("error", [Forbidden, Conflict])
async def test_a_write_that_never_succeeds_is_reported(error: type[Exception]) -> None:
    async with one_setup("n2") as setup:

        async def refused(name: PvName, patch: Patch) -> Manifest:
            raise error("not for you")

        instead(setup.volumes, patch=refused)
        async with setup.at_work():
            await a_day(setup)

        assert {name for name, _, _ in setup.notices.warnings} == {PV}
        assert all("not for you" in why for _, _, why in setup.notices.warnings)
        assert 10 < len(setup.notices.warnings) < 40


async def test_a_client_that_removes_our_markers_is_not_fought() -> None:
    async with one_setup("n2") as setup:
        patch, marks = setup.volumes.patch, 0

        async def undone(name: PvName, wanted: Patch) -> Manifest:
            nonlocal marks
            made = await patch(name, wanted)
            if (wanted.get("spec") or {}).get("persistentVolumeReclaimPolicy") == "Retain":
                marks += 1
                delete = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
                setup.cluster.patch("persistentvolumes", PV, delete)
            return made

        instead(setup.volumes, patch=undone)
        async with setup.at_work():
            await a_day(setup)

        assert marks < 60
        assert any("or was about to be" in why for _, _, why in setup.notices.warnings)


async def test_a_volume_that_stays_absent_is_reported_whatever_the_reason() -> None:
    async with one_setup("n2") as setup:
        setup.faults.refuse("create", Unreachable)
        with pytest.raises(Unreachable):
            await replace(setup, "n2")
        setup.faults.allow("create")
        second = setup_on(setup.cluster, setup.linstor, journal=setup.journal, holder="other")

        async def refused(claim: ClaimName) -> Manifest | None:
            raise Forbidden("claims are none of your business")

        instead(second.volumes, read_claim=refused)
        async with second.at_work():
            await a_day(second)

        assert second.telemetry.now["absent"] == 1
        assert second.telemetry.now["unfinished"] == 1
        reported = [why for _, reason, why in second.notices.warnings]
        assert all("none of your business" in why for why in reported)
        assert len(reported) > 10


async def test_a_replacement_that_never_ends_is_reported() -> None:
    async with one_setup("n2") as setup:

        async def raced(manifest: Manifest) -> None:
            raise Conflict("somebody writes all the time")

        instead(setup.volumes, remove=raced)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            for _ in range(5):
                await asyncio.sleep(60.0)
                await setup.full_reconciler.reconcile_all("period")

        assert setup.telemetry.now["unfinished"] == 1
        assert "VolumeReplacementUnfinished" in [r for _, r, _ in setup.notices.warnings]


async def test_a_rejected_creation_is_reported_repeatedly_while_it_lasts() -> None:
    async with one_setup("n2") as setup:
        setup.faults.refuse("create", Forbidden)
        async with setup.at_work():
            await a_day(setup)

        reported = [r for _, r, _ in setup.notices.warnings if r == "VolumeRecreationFailing"]
        assert 20 < len(reported) < 40
        assert len(set(setup.notices.reminders)) > 20


async def test_a_property_that_linstor_does_not_delete_blocks_no_volume() -> None:
    async with one_setup("n2") as setup:
        saved = {key: value for key, value in setup.pv().items() if key != "status"}
        saved["metadata"] = {"name": PV}
        known = setup.linstor.known
        known[RD] = changed(known[RD], saved={0: json.dumps(saved)})

        async def refused(resource: ResourceName, number: int) -> None:
            raise Refused("no permission")

        instead(setup.linstor, forget_saved=refused)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(10.0)

        assert setup.nodes() == {"n2"}


async def test_a_missing_delete_event_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_setup("n2") as setup:
        # Nobody follows the cluster: the watch is away.
        with caplog.at_level(logging.WARNING):
            await replace(setup, "n2")

    assert "the watch did not report the final state of the deleted volume" in caplog.text


async def test_a_lagging_binder_is_waited_for_before_the_claim_is_checked() -> None:
    async with one_setup("n2") as setup:
        create, read_claim = setup.volumes.create, setup.volumes.read_claim
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
            setup.volumes.index.phase_changed_at = loop.time()

        async def read(claim: ClaimName) -> Manifest | None:
            found = await read_claim(claim)
            if found is None or loop.time() < made_at + 4.0:
                return found
            return {**found, "status": {**found["status"], "phase": "Lost"}}

        instead(setup.volumes, create=created, read_claim=read)
        async with setup.volumes.watching():
            observed = setup.volumes.index.changed

            def unseen(manifest: Manifest) -> None:
                """The new volume's phase is not written yet."""
                if loop.time() < made_at:
                    observed(manifest)

            instead(setup.volumes.index, changed=unseen)
            await replace(setup, "n2")

        assert setup.telemetry.counted["claim lost"] == 1
