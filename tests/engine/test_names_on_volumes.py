"""Each instance writes its name on a volume before it deletes it, and others may be in its way."""

import asyncio

import pytest

from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import (
    Manifest,
    annotations_of,
    finalizers_of,
    reclaim_policy_of,
)
from tests.engine.forged_entries import is_on, reconciled
from tests.engine.setup import PV, RD, Json, Setup, instead, replace, setup_on
from tests.engine.test_entries_rewritten_in_replacement import bound, rewrite

KEPT = {
    "spec": {"persistentVolumeReclaimPolicy": "Retain"},
    "metadata": {"annotations": {SKIP_RECLAIM_ANNOTATION: "true"}},
}
NO_MARKER = {"metadata": {"annotations": {MARKER_ANNOTATION: None}}}
MOST_ANNOTATIONS = 256 * 1024


def is_as_before(setup: Setup) -> bool:
    pv = setup.pv()
    retained = pv["spec"]["persistentVolumeReclaimPolicy"] != "Delete"
    marked = FINALIZER in finalizers_of(pv) or SKIP_RECLAIM_ANNOTATION in annotations_of(pv)
    return not (retained or marked or setup.journal.entries)


def deletes(tree: Json) -> None:
    tree["wanted"]["spec"]["persistentVolumeReclaimPolicy"] = "Delete"
    tree["wanted"]["metadata"]["annotations"].pop(SKIP_RECLAIM_ANNOTATION, None)


def strip_marker(_: str, new: Json) -> None:
    """What an admission webhook does that takes off annotations that it does not know."""
    (new["metadata"].get("annotations") or {}).pop(MARKER_ANNOTATION, None)


async def mark_and_crash(setup: Setup) -> Setup:
    """Returns the instance that goes on."""

    async def crash(_: Manifest) -> Manifest | None:
        raise asyncio.CancelledError

    instead(setup.volumes, delete=crash)
    async with setup.volumes.watching():
        await asyncio.wait([asyncio.create_task(replace(setup, "n2"))])
    assert FINALIZER in finalizers_of(setup.pv())
    return setup_on(
        setup.cluster,
        setup.linstor,
        journal=setup.journal,
        holder="another-instance-with-a-longer-name",
    )


async def test_a_marked_volume_whose_annotation_is_removed_gets_its_values_back() -> None:
    async with bound() as (setup, _):
        delete, removed = setup.volumes.delete, False

        async def delete_after_a_change(manifest: Manifest) -> Manifest | None:
            nonlocal removed
            if not removed:
                removed = True
                setup.cluster.patch("persistentvolumes", PV, NO_MARKER)
            return await delete(manifest)

        instead(setup.volumes, delete=delete_after_a_change)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 5)

        assert is_on(setup.cluster, "n2")
        assert is_as_before(setup)


@pytest.mark.parametrize("kept", [True, False])
async def test_after_a_crash_it_has_retain_whatever_the_entry_says(*, kept: bool) -> None:
    """Who continues does not know whether the volume had it. It is reported."""
    async with bound() as (setup, sidecars):
        if kept:
            setup.cluster.patch("persistentvolumes", PV, KEPT)
            await asyncio.sleep(1.0)
        after = await mark_and_crash(setup)
        setup.cluster.patch("persistentvolumes", PV, NO_MARKER)
        rewrite(setup, deletes)
        async with after.at_work():
            await reconciled(after, 5)

        assert is_on(setup.cluster, "n2")
        assert reclaim_policy_of(after.pv()) == "Retain"
        assert annotations_of(after.pv())[SKIP_RECLAIM_ANNOTATION] == "true"
        assert "VolumeRetained" in str(after.notices.warnings)
        assert after.journal.entries == {}
        after.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
        await asyncio.sleep(60.0)
        assert sidecars.reclaimed == []


async def test_a_webhook_that_removes_the_annotation_later_has_the_replacement_rolled_back() -> (
    None
):
    async with bound() as (setup, _):
        after = await mark_and_crash(setup)
        setup.cluster.mutations.append(strip_marker)
        async with after.at_work():
            await reconciled(after, 5)

        assert FINALIZER not in finalizers_of(after.pv())
        assert after.journal.entries == {}
        assert after.faults.writes.count("patch") < 10


@pytest.mark.parametrize("full", [True, False])
async def test_a_volume_that_takes_no_name_is_rolled_back_and_not_reported_missing(
    *, full: bool
) -> None:
    """Others have used up the space for annotations, and the new name is longer."""
    async with bound() as (setup, _):
        after = await mark_and_crash(setup)
        if full:
            there = annotations_of(setup.pv())
            left = MOST_ANNOTATIONS - sum(len(k) + len(v) for k, v in there.items()) - len("a/b")
            annotations = {"a/b": "x" * left}
            setup.cluster.patch("persistentvolumes", PV, {"metadata": {"annotations": annotations}})
        async with after.at_work():
            await reconciled(after, 5)

        assert is_as_before(after)
        assert is_on(setup.cluster, "n2") is not full
        assert after.replacer.unfinished.absent.stuck == {}
        assert "VolumeRecreationFailing" not in str(after.notices.warnings)
