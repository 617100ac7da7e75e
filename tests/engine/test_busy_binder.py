"""A binder that is behind is spared the last of its writes for a replaced volume."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from linstor_affinity_events.engine.lost_claims import CHECKED_LATER_AFTER
from linstor_affinity_events.errors import Conflict, Forbidden, Unreachable
from linstor_affinity_events.model.keys import OURSELVES
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.steps import Outcome
from tests.engine.setup import PV, Setup, cluster_with, instead, replace, setup_on
from tests.fakes.kube_server import metadata
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.linstor import FakeLinstor

BUSY, IDLE = 0.1, 0.005
"""How long a write of the binder takes, at its request limit and without a queue."""

CONTROLLER = Writer(name="kube-controller-manager", subresource="status")


@asynccontextmanager
async def beside_binder(takes: float, *names: str) -> AsyncIterator[Setup]:
    async with cluster_with(*(names or (PV,)), binder_takes=takes) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        for name in names or (PV,):
            linstor.place(name, "n2")
        setup = setup_on(cluster, linstor)
        async with setup.volumes.watching():
            yield setup


def phase_writers(pv: dict[str, Any]) -> list[str]:
    return [
        entry["manager"]
        for entry in pv["metadata"]["managedFields"]
        if "f:phase" in entry["fieldsV1"].get("f:status", {})
    ]


async def test_the_phase_is_written_for_a_binder_that_is_behind() -> None:
    async with beside_binder(BUSY) as setup:
        assert await replace(setup, "n2") is Outcome.DONE

        assert setup.pv()["status"]["phase"] == "Bound"
        await asyncio.sleep(10 * BUSY)
        assert phase_writers(setup.pv()) == [OURSELVES]
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_an_idle_binder_writes_the_phase_itself() -> None:
    async with beside_binder(IDLE) as setup:
        assert await replace(setup, "n2") is Outcome.DONE

        assert "set_bound" not in setup.faults.writes
        assert OURSELVES not in phase_writers(setup.pv())


async def test_a_missing_permission_is_logged_once_and_costs_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = ("pvc-1", "pvc-2", "pvc-3")
    async with beside_binder(BUSY, *names) as setup:
        setup.faults.refuse("set_bound", Forbidden)
        with caplog.at_level(logging.INFO):
            for name in names:
                assert await replace(setup, "n2", name=name) is Outcome.DONE

        assert [r.message for r in caplog.records if "optional permission" in r.message] == [
            caplog.records[0].message
        ]
        assert setup.faults.writes.count("set_bound") == 1
        await asyncio.sleep(3600.0)
        await replace(setup, "n3")
        assert setup.faults.writes.count("set_bound") == 2


@pytest.mark.parametrize("error", [Conflict, Unreachable])
async def test_the_binder_is_waited_for_if_the_phase_cannot_be_written(
    error: type[Conflict | Unreachable],
) -> None:
    async with beside_binder(BUSY) as setup:
        setup.faults.refuse("set_bound", error)
        assert await replace(setup, "n2") is Outcome.DONE

        assert setup.pv()["status"]["phase"] == "Bound"
        assert OURSELVES not in phase_writers(setup.pv())


async def test_no_phase_is_written_for_a_claim_that_is_being_deleted() -> None:
    """The volume is Released next, and deleted if its policy says so; nobody may hide that."""
    async with beside_binder(BUSY) as setup:
        read_claim = setup.volumes.read_claim
        reads = 0

        async def leaving(name: Any) -> Manifest | None:
            nonlocal reads
            reads += 1
            claim = await read_claim(name)
            if claim is None or reads == 1:
                return claim
            metadata = {**claim["metadata"], "deletionTimestamp": "2036-01-01T00:00:00Z"}
            return {**claim, "metadata": metadata}

        instead(setup.volumes, read_claim=leaving)
        await replace(setup, "n2")

        assert setup.faults.writes.count("create") == 1
        assert "set_bound" not in setup.faults.writes


async def test_a_claim_that_becomes_lost_later_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with beside_binder(BUSY) as setup:
        checks = asyncio.create_task(setup.replacer.lost_claims.run())
        assert await replace(setup, "n2") is Outcome.DONE
        assert setup.telemetry.counted["claim lost"] == 0

        # The API server's clock has a resolution of seconds. The binder restores the claim.
        monkeypatch.setattr(metadata, "now", lambda: "2036-01-01T00:00:00Z")
        lost = {"status": {"phase": "Lost"}}
        setup.cluster.patch(
            "persistentvolumeclaims", f"claim-{PV}", lost, namespace="default", writer=CONTROLLER
        )
        await asyncio.sleep(CHECKED_LATER_AFTER + 1)

        assert setup.telemetry.counted["claim lost"] == 1
        checks.cancel()


async def test_another_claim_of_that_name_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async with beside_binder(BUSY) as setup:
        checks = asyncio.create_task(setup.replacer.lost_claims.run())
        assert await replace(setup, "n2") is Outcome.DONE
        monkeypatch.setattr(metadata, "now", lambda: "2036-01-01T00:00:00Z")
        read_claim = setup.volumes.read_claim

        async def recreated(name: Any) -> Manifest | None:
            claim = await read_claim(name)
            assert claim is not None
            another = {**claim["metadata"], "uid": "another", "resourceVersion": "9"}
            return {**claim, "metadata": another, "status": {"phase": "Lost"}}

        instead(setup.volumes, read_claim=recreated)
        await asyncio.sleep(CHECKED_LATER_AFTER + 1)

        assert setup.telemetry.counted["claim lost"] == 0
        checks.cancel()


async def test_claims_that_stay_bound_are_not_reported_and_failed_reads_end_nothing() -> None:
    names = ("pvc-1", "pvc-2", "pvc-3")
    async with beside_binder(BUSY, *names) as setup:
        checks = asyncio.create_task(setup.replacer.lost_claims.run())
        for name in names:
            assert await replace(setup, "n2", name=name) is Outcome.DONE
        read_claim, asked = setup.volumes.read_claim, list[str]()

        async def failing_first(name: Any) -> Manifest | None:
            asked.append(name.name)
            if len(asked) == 1:
                raise Unreachable("away")
            return await read_claim(name)

        instead(setup.volumes, read_claim=failing_first)
        await asyncio.sleep(CHECKED_LATER_AFTER + 1)

        assert asked == [f"claim-{name}" for name in names]
        assert setup.telemetry.counted["claim lost"] == 0
        assert not checks.done()
        checks.cancel()
