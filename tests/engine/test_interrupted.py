"""Replacements that another run continues, after people acted on what they saw meanwhile."""

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
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    OURSELVES,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.markers import has_any_marker, mark_patch
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.recreation import copy_for_create
from linstor_affinity_events.model.steps import Outcome
from tests.engine.setup import PV, RD, Setup, cluster_with, instead, replace, setup_on, until
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.linstor import FakeLinstor

Json = dict[str, Any]

CLAIM = f"claim-{PV}"
HELD = "example.com/a-pod-uses-it"


@asynccontextmanager
async def one_setup() -> AsyncIterator[Setup]:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(PV, "n1", "n2")
        yield setup_on(cluster, linstor)


def successor(setup: Setup) -> Setup:
    """Another instance, which knows what is written down and no more."""
    return setup_on(setup.cluster, setup.linstor, journal=setup.journal, holder="another")


async def left_marked(setup: Setup) -> None:
    """Stop for an hour right after the markers."""
    setup.faults.refuse("save", Unreachable)
    with pytest.raises(Unreachable):
        await replace(setup, "n2")
    setup.faults.allow("save")
    await asyncio.sleep(3600.0)
    assert FINALIZER in setup.pv()["metadata"]["finalizers"]


async def left_by_the_reference(setup: Setup) -> None:
    saved = {key: value for key, value in setup.pv().items() if key != "status"}
    saved["metadata"] = {"name": PV, "annotations": saved["metadata"]["annotations"]}
    known = setup.linstor.known
    known[RD] = changed(known[RD], saved={0: json.dumps(saved)})
    marks = {
        "metadata": {"annotations": {SKIP_RECLAIM_ANNOTATION: "true"}},
        "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    }
    setup.cluster.patch("persistentvolumes", PV, marks)


def delete_claim(setup: Setup, *, used: bool) -> None:
    """As its user does, who sees policy Retain; a pod may use it a while longer."""
    finalizers: Json = {"metadata": {"finalizers": [HELD] if used else []}}
    setup.cluster.patch("persistentvolumeclaims", CLAIM, finalizers, namespace="default")
    setup.cluster.delete("persistentvolumeclaims", CLAIM, namespace="default")


def end_pod(setup: Setup) -> None:
    free: Json = {"metadata": {"finalizers": []}}
    setup.cluster.patch("persistentvolumeclaims", CLAIM, free, namespace="default")


def retained(setup: Setup) -> bool:
    pv = setup.pv()
    original = pv["metadata"]["annotations"].get(ORIGINAL_POLICY_ANNOTATION)
    return bool(pv["spec"]["persistentVolumeReclaimPolicy"] == "Retain" and original == "Delete")


@pytest.mark.parametrize("used", [True, False], ids=["a pod uses it", "gone"])
@pytest.mark.parametrize("with_entry", [True, False], ids=["with its note", "without"])
async def test_deleting_a_claim_while_the_markers_say_retain_keeps_the_data(
    with_entry: bool, used: bool
) -> None:
    async with one_setup() as setup:
        await left_marked(setup)
        delete_claim(setup, used=used)
        await asyncio.sleep(1.0)
        if not with_entry:
            setup.journal.entries.clear()
        second = successor(setup)
        async with second.volumes.watching():
            await second.replacer.resume(PV)
            if used:
                end_pod(setup)
            await asyncio.sleep(10.0)

        assert retained(second)
        assert second.pv()["status"]["phase"] == "Released"
        assert [reason for _, reason, _ in second.notices.warnings] == ["VolumeRetained"]


@pytest.mark.parametrize("used", [True, False], ids=["a pod uses it", "gone"])
async def test_deleting_a_claim_while_markers_of_the_reference_say_retain_keeps_the_data(
    used: bool,
) -> None:
    async with one_setup() as setup:
        await left_by_the_reference(setup)
        delete_claim(setup, used=used)
        await asyncio.sleep(1.0)
        async with setup.at_work():
            setup.queue.add(RD)
            await asyncio.sleep(10.0)
            if used:
                end_pod(setup)
            await asyncio.sleep(10.0)

        assert retained(setup)
        assert SKIP_RECLAIM_ANNOTATION not in setup.pv()["metadata"]["annotations"]
        assert "VolumeRetained" in [reason for _, reason, _ in setup.notices.warnings]


@pytest.mark.parametrize("verb", ["delete", "save"])
async def test_a_final_rejection_leaves_retain_if_the_claim_was_deleted(verb: str) -> None:
    async with one_setup() as setup:
        await left_marked(setup)
        delete_claim(setup, used=False)
        await asyncio.sleep(1.0)
        second = setup_on(
            setup.cluster,
            setup.linstor,
            journal=setup.journal,
            volumes=setup.volumes,
            faults=setup.faults,
            holder="another",
        )
        second.faults.refuse(verb, Forbidden)
        try:
            await second.replacer.resume(PV)
        except Refused:
            second.faults.allow(verb)
            await second.replacer.resume(PV)

        assert retained(second)


async def test_markers_without_reason_are_removed_and_retain_is_reported() -> None:
    async with one_setup() as setup:
        await left_marked(setup)
        # A tool took our annotation off, and somebody resized the volume.
        patch = {
            "metadata": {"annotations": {MARKER_ANNOTATION: None}},
            "spec": {"capacity": {"storage": "2Gi"}},
        }
        setup.cluster.patch("persistentvolumes", PV, patch)
        second = successor(setup)
        async with second.volumes.watching():
            assert await second.replacer.resume(PV) is Outcome.RECREATED_WITH_RETAIN

        assert FINALIZER not in second.pv()["metadata"]["finalizers"]
        assert [reason for _, reason, _ in second.notices.warnings] == ["VolumeRetained"]


@pytest.mark.parametrize(
    ("then", "policy"),
    [
        ("at once", "Delete"),
        ("a minute later", "Retain"),
        ("another led", "Retain"),
        ("those of another instance", "Retain"),
        ("on another incarnation", "Retain"),
        ("an annotation alone", "Retain"),
        ("by another field manager", "Retain"),
    ],
)
async def test_markers_that_arrive_when_their_run_has_ended_are_removed(
    then: str, policy: str
) -> None:
    """With policy Retain unless it was certainly this instance that set it, a moment ago."""
    async with one_setup() as setup:
        patch, late = setup.volumes.patch, list[Patch]()

        async def lost(_: PvName, wanted: Patch) -> Manifest:
            late.append(wanted)
            raise Unreachable("connection reset")

        instead(setup.volumes, patch=lost)
        with pytest.raises(Unreachable):
            await replace(setup, "n2")
        assert await setup.replacer.resume(PV) is Outcome.SUPERSEDED
        assert not setup.journal.entries

        instead(setup.volumes, patch=patch)
        [arriving] = late
        if then == "those of another instance":
            arriving = mark_patch(setup.pv(), "another")
        elif then == "on another incarnation":
            again = copy_for_create(setup.pv())
            setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})
            setup.cluster.delete("persistentvolumes", PV)
            setup.cluster.create("persistentvolumes", again)
            await until(lambda: setup.pv()["status"].get("phase") == "Bound")
            arriving = mark_patch(setup.pv(), setup.replacer._dependencies.holder)
        if then == "an annotation alone":
            retain = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
            arriving = {"metadata": {"annotations": arriving["metadata"]["annotations"]}} | retain
        writer = Writer(name="kubectl" if then == "by another field manager" else OURSELVES)
        setup.cluster.patch("persistentvolumes", PV, arriving, writer=writer)
        if then == "a minute later":
            await asyncio.sleep(61)
        elif then == "another led":
            setup.replacer.unfinished.leadership_lost()
        setup.replacer.forget_gone()
        await setup.replacer.resume(PV)

        pv = setup.pv()
        assert not has_any_marker(pv)
        assert pv["spec"]["persistentVolumeReclaimPolicy"] == policy
