"""Replacements that another run goes on with, after people acted on what they saw meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.errors import Forbidden, Refused, Unreachable
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARK_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.replacement import Outcome
from tests.engine.house import PV, RD, House, cluster_with, house_on, replace
from tests.fakes.linstor import FakeLinstor

Json = dict[str, Any]

CLAIM = f"claim-{PV}"
HELD = "example.com/a-pod-uses-it"


@asynccontextmanager
async def one_house() -> AsyncIterator[House]:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(PV, "n1", "n2")
        yield house_on(cluster, linstor)


def successor(house: House) -> House:
    """Another instance, which knows what is written down and no more."""
    return house_on(house.cluster, house.linstor, journal=house.journal, holder="another")


async def left_marked(house: House) -> None:
    """Stop for an hour right after the marks."""
    house.faults.refuse("save", Unreachable)
    with pytest.raises(Unreachable):
        await replace(house, "n2")
    house.faults.allow("save")
    await asyncio.sleep(3600.0)
    assert FINALIZER in house.pv()["metadata"]["finalizers"]


async def left_by_the_reference(house: House) -> None:
    saved = {key: value for key, value in house.pv().items() if key != "status"}
    saved["metadata"] = {"name": PV, "annotations": saved["metadata"]["annotations"]}
    known = house.linstor.known
    known[RD] = changed(known[RD], saved={0: json.dumps(saved)})
    marks = {
        "metadata": {"annotations": {SKIP_RECLAIM_ANNOTATION: "true"}},
        "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    }
    house.cluster.patch("persistentvolumes", PV, marks)


def delete_claim(house: House, *, used: bool) -> None:
    """As its user does, who sees policy Retain; a pod may use it a while longer."""
    finalizers: Json = {"metadata": {"finalizers": [HELD] if used else []}}
    house.cluster.patch("persistentvolumeclaims", CLAIM, finalizers, namespace="default")
    house.cluster.delete("persistentvolumeclaims", CLAIM, namespace="default")


def end_pod(house: House) -> None:
    free: Json = {"metadata": {"finalizers": []}}
    house.cluster.patch("persistentvolumeclaims", CLAIM, free, namespace="default")


def retained(house: House) -> bool:
    pv = house.pv()
    original = pv["metadata"]["annotations"].get(ORIGINAL_POLICY_ANNOTATION)
    return bool(pv["spec"]["persistentVolumeReclaimPolicy"] == "Retain" and original == "Delete")


@pytest.mark.parametrize("used", [True, False], ids=["a pod uses it", "gone"])
@pytest.mark.parametrize("noted", [True, False], ids=["with its note", "without"])
async def test_who_deletes_a_claim_while_the_marks_say_retain_keeps_the_data(
    noted: bool, used: bool
) -> None:
    async with one_house() as house:
        await left_marked(house)
        delete_claim(house, used=used)
        await asyncio.sleep(1.0)
        if not noted:
            house.journal.kept.clear()
        second = successor(house)
        async with second.volumes.watching():
            await second.replacer.resume(PV)
            if used:
                end_pod(house)
            await asyncio.sleep(10.0)

        assert retained(second)
        assert second.pv()["status"]["phase"] == "Released"
        assert [reason for _, reason, _ in second.notices.warnings] == ["VolumeRetained"]


@pytest.mark.parametrize("used", [True, False], ids=["a pod uses it", "gone"])
async def test_the_same_where_it_was_the_reference_that_said_so(used: bool) -> None:
    async with one_house() as house:
        await left_by_the_reference(house)
        delete_claim(house, used=used)
        await asyncio.sleep(1.0)
        async with house.at_work():
            house.queue.add(RD)
            await asyncio.sleep(10.0)
            if used:
                end_pod(house)
            await asyncio.sleep(10.0)

        assert retained(house)
        assert SKIP_RECLAIM_ANNOTATION not in house.pv()["metadata"]["annotations"]
        assert "VolumeRetained" in [reason for _, reason, _ in house.notices.warnings]


@pytest.mark.parametrize("verb", ["delete", "save"])
async def test_what_is_refused_for_good_leaves_retain_where_the_claim_went(verb: str) -> None:
    async with one_house() as house:
        await left_marked(house)
        delete_claim(house, used=False)
        await asyncio.sleep(1.0)
        second = house_on(
            house.cluster,
            house.linstor,
            journal=house.journal,
            volumes=house.volumes,
            faults=house.faults,
            holder="another",
        )
        second.faults.refuse(verb, Forbidden)
        try:
            await second.replacer.resume(PV)
        except Refused:
            second.faults.allow(verb)
            await second.replacer.resume(PV)

        assert retained(second)


async def test_marks_that_nothing_explains_any_more_are_taken_off_and_retain_is_told() -> None:
    async with one_house() as house:
        await left_marked(house)
        # A tool took our annotation off, and somebody resized the volume.
        patch = {
            "metadata": {"annotations": {MARK_ANNOTATION: None}},
            "spec": {"capacity": {"storage": "2Gi"}},
        }
        house.cluster.patch("persistentvolumes", PV, patch)
        second = successor(house)
        async with second.volumes.watching():
            assert await second.replacer.resume(PV) is Outcome.KEPT

        assert FINALIZER not in second.pv()["metadata"]["finalizers"]
        assert [reason for _, reason, _ in second.notices.warnings] == ["VolumeRetained"]
