"""Replacement markers that others rewrite, in our field manager's name, while a volume is replaced.

Markers are for those who continue from them. A run that knows better does not follow them.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from linstor_affinity_events.model.advance import MAX_CONFLICTS
from linstor_affinity_events.model.keys import MARKER_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest
from tests.engine.forged_entries import FORGED, reconciled
from tests.engine.setup import (
    PV,
    RD,
    Setup,
    bind,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.engine.test_entries_rewritten_in_replacement import bound


def rewrite_markers(setup: Setup, **values: Any) -> None:
    markers = json.loads(setup.pv()["metadata"]["annotations"][MARKER_ANNOTATION]) | values
    annotations = {MARKER_ANNOTATION: json.dumps(markers)}
    patch = {"metadata": {"annotations": annotations}}
    setup.cluster.patch("persistentvolumes", PV, patch, writer=FORGED)


def at_each_deletion(
    setup: Setup, *, before: Callable[[], object] = list, after: Callable[[], object] = list
) -> None:
    delete = setup.volumes.delete

    async def hooked(manifest: Manifest) -> Manifest | None:
        before()
        response = await delete(manifest)
        after()
        return response

    instead(setup.volumes, delete=hooked)


async def deleted_by_its_owner(setup: Setup, attack: Callable[[], None]) -> None:
    """Have the volume moved, and something happen before each DELETE that ends with a deletion by
    the owner, which has to be one.
    """
    at_each_deletion(setup, before=attack)
    async with setup.at_work():
        setup.queue.add(RD, source="promotion")
        await until(lambda: "deletionTimestamp" in setup.pv()["metadata"])
        await reconciled(setup, 5)

    pv = setup.pv()
    assert pv["metadata"]["finalizers"] == ["kubernetes.io/pv-protection"]
    assert pv["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert not setup.journal.entries


@pytest.mark.parametrize(
    "markers",
    [{}, {"deleted": True}, {"holder": "another"}, {"deleted": True, "holder": "another"}],
)
async def test_a_run_that_deleted_nothing_lets_an_owner_delete_the_volume(
    markers: dict[str, Any],
) -> None:
    """Each write before a DELETE ends it in a conflict, until the owner deletes the volume."""
    async with bound() as (setup, _):
        numbers = iter(range(6))

        def attack() -> None:
            for number in numbers:
                rewrite_markers(setup, number=number, **markers)
                return
            if "deletionTimestamp" not in setup.pv()["metadata"]:
                rewrite_markers(setup, **markers)
                setup.cluster.delete("persistentvolumes", PV)

        await deleted_by_its_owner(setup, attack)


async def test_a_run_that_continues_its_own_replacement_knows_the_policy() -> None:
    """So many writes before a DELETE end the run before."""
    async with bound() as (setup, _):
        numbers = iter(range(MAX_CONFLICTS + 2))

        def attack() -> None:
            for number in numbers:
                rewrite_markers(setup, number=number, reclaimPolicy="Retain")
                return

        at_each_deletion(setup, before=attack)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 5)

        assert setup.nodes() == {"n2"}
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


async def test_an_owner_deletes_the_volume_while_its_markers_are_incomplete() -> None:
    async with bound() as (setup, _):

        def attack() -> None:
            if "deletionTimestamp" not in setup.pv()["metadata"]:
                setup.cluster.delete("persistentvolumes", PV)
                patch = {"metadata": {"annotations": {MARKER_ANNOTATION: None}}}
                setup.cluster.patch("persistentvolumes", PV, patch)

        await deleted_by_its_owner(setup, attack)


@pytest.mark.parametrize("holder", [{}, {"holder": "another"}], ids=["its own", "another"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_run_knows_the_policy_of_the_volume_that_it_marked(
    moment: str, holder: dict[str, str]
) -> None:
    async with bound() as (setup, _):
        writes = iter(range(1))

        def attack() -> None:
            for _ in writes:
                rewrite_markers(setup, reclaimPolicy="Retain", **holder)

        at_each_deletion(setup, **{moment: attack})
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: setup.notices.informed)

        assert next(writes, None) is None
        assert setup.nodes() == {"n2"}
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


async def crash_after_deletion(setup: Setup) -> Setup:
    """Returns the instance that goes on."""
    delete = setup.volumes.delete

    async def crash(manifest: Manifest) -> Manifest | None:
        await delete(manifest)
        raise asyncio.CancelledError

    instead(setup.volumes, delete=crash)
    async with setup.volumes.watching():
        await asyncio.wait([asyncio.create_task(replace(setup, "n2"))])
    return setup_on(setup.cluster, setup.linstor, journal=setup.journal, holder="another")


HALF_A_PAIR = "\ud800"
"""Valid in JSON, as an escape, but no request can carry it."""


@pytest.mark.parametrize("removed", [False, True])
async def test_text_that_cannot_be_sent_keeps_no_volume_from_being_recreated(
    removed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_setup("n2") as first:
        setup = await crash_after_deletion(first)
        rewrite_markers(setup, skipReclaim=HALF_A_PAIR)
        if removed:
            async with setup.volumes.watching():
                await setup.replacer.load()
            patch = {"metadata": {"annotations": {MARKER_ANNOTATION: None}}}
            setup.cluster.patch("persistentvolumes", PV, patch)
        async with setup.at_work():
            await reconciled(setup, 10)

        assert setup.nodes() == {"n2"}
        assert setup.claim()["status"]["phase"] == "Bound"
        assert "unexpected error" not in caplog.text


async def test_text_that_cannot_be_sent_stops_no_update_of_the_same_resource(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_setup("n1") as setup:
        bind(setup.cluster, "pvc-2", "n1", handle=f"{PV}/1")
        markers = json.dumps({"reclaimPolicy": "Delete", "skipReclaim": HALF_A_PAIR})
        patch = {"metadata": {"annotations": {MARKER_ANNOTATION: markers}}}
        async with setup.at_work():
            setup.cluster.patch("persistentvolumes", PV, patch, writer=FORGED)
            await asyncio.sleep(5.0)
            setup.linstor.place(PV, "n2")
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 10)

        assert setup.nodes("pvc-2") == setup.nodes() == {"n2"}
        assert "unexpected error" not in caplog.text
