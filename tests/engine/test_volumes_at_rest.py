"""No replacement is in progress, and somebody may write two of what a replacement consists of."""

import json
from copy import deepcopy
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.index import MOST_DELETED
from linstor_affinity_events.engine.stray_markers import unmark_in_run
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import annotations_of, finalizers_of, uid_of
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.observation import Observation
from linstor_affinity_events.model.progress import begin
from tests.engine.forged_entries import FORGED, is_on, reconciled
from tests.engine.setup import PV, RD, Setup, instead, one_setup, until
from tests.engine.test_deletions_by_owners import is_deleted
from tests.engine.test_entries_rewritten_in_replacement import affinity, bound, policy, rewrite
from tests.engine.test_prepared_entries import standing_by
from tests.engine.test_two_runs import fail_over
from tests.fakes.kube_server.metadata import Writer
from tests.model.manifests import KEY, on_node, volume, with_metadata

HOLD = "backup.example.com/hold"


async def at_rest(setup: Setup, **spec: Any) -> str:
    """Have the volume where its data is, with this in its spec; returns its uid."""
    setup.linstor.known.pop(RD)
    setup.linstor.place(PV, "n1")
    setup.cluster.patch("persistentvolumes", PV, {"spec": spec})
    setup.queue.add(RD, source="promotion")
    await reconciled(setup, 3)
    assert setup.journal.entries == {}
    return uid_of(setup.pv())


def annotate(setup: Setup, annotations: dict[str, str], writer: Writer = FORGED) -> None:
    change = {"metadata": {"annotations": annotations}}
    setup.cluster.patch("persistentvolumes", PV, change, writer=writer)


def marker(policy: str) -> dict[str, str]:
    return {MARKER_ANNOTATION: json.dumps({"reclaimPolicy": policy, "skipReclaim": None})}


def write_entry(setup: Setup, node: str = "n1") -> None:
    pv = deepcopy(setup.pv())
    pv["metadata"].get("annotations", {}).pop(MARKER_ANNOTATION, None)
    forged = JournalEntry.begin(pv, KEY, on_node(node), holder="x").deleting()
    setup.journal.entries[PV] = ("777", deepcopy(forged.written()))


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("annotated", [True, False])
async def test_entry_and_annotation_undo_no_deletion(
    policy: str, *, held: bool, annotated: bool
) -> None:
    async with bound() as (setup, _), setup.at_work():
        uid = await at_rest(setup, persistentVolumeReclaimPolicy=policy)
        finalizers = [*finalizers_of(setup.pv()), *([HOLD] if held else [])]
        setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": finalizers}})

        # The protection of a volume with a claim keeps it for now.
        setup.cluster.delete("persistentvolumes", PV)
        if annotated:
            annotate(setup, marker(policy))
        write_entry(setup)
        await reconciled(setup, 10)

        assert is_deleted(setup, uid)
        assert (HOLD in finalizers_of(setup.pv())) is held
        assert setup.journal.entries == {}


async def test_markers_of_before_the_deletion_take_no_finalizer_off() -> None:
    """Retain and skip-reclaim were there: only the finalizer says that it is not ours."""
    async with bound() as (setup, _), setup.at_work():
        uid = await at_rest(setup, persistentVolumeReclaimPolicy="Retain")
        finalizers = [*finalizers_of(setup.pv()), HOLD]
        setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": finalizers}})
        annotate(setup, {SKIP_RECLAIM_ANNOTATION: "true"})

        setup.cluster.delete("persistentvolumes", PV)
        annotate(setup, marker("Retain"))
        write_entry(setup)
        await reconciled(setup, 10)

        assert is_deleted(setup, uid)
        assert HOLD in finalizers_of(setup.pv())


async def test_an_entry_brings_no_volume_back_that_its_owner_deleted() -> None:
    """The entry comes when it is gone; its claim, which is Lost, still names it."""
    async with bound() as (setup, _), setup.at_work():
        await at_rest(setup)
        before = deepcopy(setup.pv())
        setup.cluster.delete("persistentvolumes", PV)
        setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})
        forged = JournalEntry.begin(before, KEY, on_node("n1"), holder="x").deleting()
        setup.journal.entries[PV] = ("777", deepcopy(forged.written()))
        await reconciled(setup, 10)

        assert setup.cluster.get("persistentvolumes", PV) is None
        assert setup.journal.entries == {}


async def test_a_saved_pv_and_skip_reclaim_undo_no_deletion() -> None:
    async with bound() as (setup, _), setup.at_work():
        uid = await at_rest(setup, persistentVolumeReclaimPolicy="Retain")

        setup.cluster.delete("persistentvolumes", PV)
        saved = deepcopy(setup.pv())
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "finalizers"):
            saved["metadata"].pop(key, None)
        annotate(setup, {SKIP_RECLAIM_ANNOTATION: "true"})
        known = setup.linstor.known
        known[RD] = changed(known[RD], saved={0: json.dumps(saved)})
        await reconciled(setup, 10)

        assert is_deleted(setup, uid)
        assert setup.journal.entries == {}


@pytest.mark.parametrize("excluded", [True, False])
async def test_entry_and_markers_have_no_live_volume_recreated(*, excluded: bool) -> None:
    """With the markers they set Retain, which they may do, and which stays."""
    async with bound() as (setup, _), setup.at_work():
        uid = await at_rest(setup)
        if excluded:
            annotate(setup, {SKIP_ANNOTATION: "yes"})
        markers = {
            "metadata": {
                "annotations": {**marker("Delete"), SKIP_RECLAIM_ANNOTATION: "true"},
                "finalizers": [*finalizers_of(setup.pv()), FINALIZER],
            },
            "spec": {"persistentVolumeReclaimPolicy": "Retain"},
        }
        write_entry(setup, "n7")
        setup.cluster.patch("persistentvolumes", PV, markers)
        await reconciled(setup, 10)

        assert uid_of(setup.pv()) == uid
        assert setup.nodes() == {"n1"}
        assert FINALIZER not in finalizers_of(setup.pv())


@pytest.mark.parametrize("how", ["rewritten", "deleted", "unreadable"])
@pytest.mark.parametrize("writer", [FORGED, Writer()], ids=["our name", "another name"])
async def test_a_run_that_led_throughout_restores_the_policy_that_it_found(
    how: str, writer: Writer
) -> None:
    """Right before its deletion arrives, the entry and the annotation are rewritten."""
    async with bound() as (setup, _):
        delete, attacked = setup.volumes.delete, list[bool]()

        async def deleted(manifest: Any) -> Any:
            if not attacked:
                attacked.append(True)
                if how == "deleted":
                    setup.journal.entries.clear()
                elif how == "unreadable":
                    rewrite(setup, lambda tree: tree.update(format=99))
                else:
                    rewrite(setup, affinity)
                before = json.loads(annotations_of(setup.pv())[MARKER_ANNOTATION])
                text = json.dumps({**before, "reclaimPolicy": "Retain"})
                annotate(setup, {MARKER_ANNOTATION: text}, writer)
            return await delete(manifest)

        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: attacked)
            await reconciled(setup, 10)

        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert FINALIZER not in finalizers_of(setup.pv())


async def test_retain_in_the_entry_of_another_instance_is_kept_and_reported() -> None:
    """Who may write Leases and entries has another instance lead, while the volume is marked."""
    async with bound() as (first, _):
        second = standing_by(first)
        save, attacked = first.journal.save, list[bool]()

        async def saved(entry: JournalEntry) -> JournalEntry:
            if not attacked:
                attacked.append(True)
                await until(lambda: FINALIZER in finalizers_of(first.pv()))
                rewrite(first, policy)
                fail_over(first, second)
                await second.replacer.resume(PV)
            return await save(entry)

        instead(first.journal, save=saved)
        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await until(lambda: attacked)
            await reconciled(second, 10)

        assert is_on(first.cluster, "n2")
        pv = first.pv()
        assert pv["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        assert annotations_of(pv)[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        warned = [each[1] for setup in (first, second) for each in setup.notices.warnings]
        assert "VolumeRetained" in warned


async def test_an_owners_deletion_is_remembered_however_many_follow() -> None:
    """A pod uses the claim of the volume, so that it is terminating for long."""
    async with bound() as (setup, _), setup.at_work():
        uid = await at_rest(setup)
        setup.cluster.delete("persistentvolumes", PV)
        await reconciled(setup, 1)
        for number in range(MOST_DELETED + 1):
            other = with_metadata(volume(), name=f"other-{number}", uid=f"uid-{number}")
            setup.volumes.index.changed(other)
            setup.volumes.index.gone(other)

        annotate(setup, marker("Delete"))
        write_entry(setup)
        await reconciled(setup, 10)

        assert is_deleted(setup, uid)


async def test_an_annotation_puts_no_finalizer_of_csi_provisioner_on_a_volume() -> None:
    """That one would take it off only from a volume that a claim has released."""
    async with one_setup("n1") as setup, setup.at_work():
        others = {"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}}
        setup.cluster.patch("persistentvolumes", PV, others)
        values = {"reclaimPolicy": "Delete", "skipReclaim": None, "provisionerFinalizer": True}

        annotate(setup, {MARKER_ANNOTATION: json.dumps(values)})
        await reconciled(setup, 5)

        assert MARKER_ANNOTATION not in annotations_of(setup.pv())
        assert finalizers_of(setup.pv()) == ["kubernetes.io/pv-protection"]


@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize("failing", [True, False])
async def test_retain_that_its_owner_sets_before_the_markers_stays(
    *, failing: bool, annotated: bool
) -> None:
    """The request to mark fails, or meets a conflict. Somebody annotates the volume."""
    async with bound() as (setup, _):
        patch, attempts = setup.volumes.patch, 0

        async def patched(name: PvName, change: Any) -> Any:
            nonlocal attempts
            marks = "finalizers" in change["metadata"]
            attempts += marks
            if marks and attempts == 1:
                if annotated:
                    annotate(setup, {MARKER_ANNOTATION: "x"})
                retain = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
                setup.cluster.patch("persistentvolumes", PV, retain)
                if failing:
                    raise Unreachable("503")
            return await patch(name, change)

        instead(setup.volumes, patch=patched)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 30)

        assert attempts
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


@pytest.mark.parametrize(
    ("marked", "held", "policy"),
    [(True, False, "Delete"), (False, True, "Delete"), (False, False, "Retain")],
)
async def test_a_run_without_entry_restores_only_what_it_has_replaced(
    policy: str, *, marked: bool, held: bool
) -> None:
    async with one_setup("n1") as setup:
        entry = JournalEntry.begin(setup.pv(), KEY, on_node("n2"), holder="me")
        annotate(setup, {MARKER_ANNOTATION: "x"})
        finalizers = [*finalizers_of(setup.pv()), *([FINALIZER] if held else [])]
        change = {
            "metadata": {"finalizers": finalizers},
            "spec": {"persistentVolumeReclaimPolicy": "Retain"},
        }
        setup.cluster.patch("persistentvolumes", PV, change)
        progress = begin(entry, Observation(pv=setup.pv()), holder="me", own=True)

        run = changed(progress.run, marked=marked, led_throughout=True)
        progress = changed(progress, run=run)

        await unmark_in_run(setup.replacer._dependencies, progress, alone=True)

        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == policy
        assert MARKER_ANNOTATION not in annotations_of(setup.pv())


async def test_an_annotation_has_nothing_reported_of_a_volume_of_policy_retain() -> None:
    """Finalizer and skip-reclaim, which this service sets in the same write, are not there."""
    async with bound() as (setup, _), setup.at_work():
        await at_rest(setup, persistentVolumeReclaimPolicy="Retain")

        annotate(setup, marker("Delete"))
        await reconciled(setup, 5)

        assert MARKER_ANNOTATION not in annotations_of(setup.pv())
        assert ORIGINAL_POLICY_ANNOTATION not in annotations_of(setup.pv())
        assert setup.notices.warnings == []
