"""Somebody writes the Lease while a volume is terminating, and besides on it or in its entry: what
this service has deleted comes back, and with the policy that keeps its data.
"""

import asyncio
import json
from collections.abc import Callable

import pytest

from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.keys import (
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import Manifest, Patch, annotations_of, is_terminating
from linstor_affinity_events.model.names import PvName
from tests.engine.forged_entries import FORGED, reconciled
from tests.engine.setup import PV, RD, Setup, cluster_with, instead, setup_on, until
from tests.engine.test_after_unmarking import policy
from tests.engine.test_entries_rewritten_in_replacement import Json, bound, rewrite
from tests.engine.test_prepared_entries import detaches, standing_by
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

Attack = Callable[[Setup], None]


def patched(setup: Setup, change: Json) -> None:
    setup.cluster.patch("persistentvolumes", PV, change)


def nothing(_: Setup) -> None: ...


def owner_sets_policy(setup: Setup) -> None:
    patched(setup, {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})


def no_markers(setup: Setup) -> None:
    patched(setup, {"metadata": {"annotations": {MARKER_ANNOTATION: None}}})


def other_markers(setup: Setup) -> None:
    patched(setup, {"metadata": {"annotations": {MARKER_ANNOTATION: "x"}}})


def entry_is_prepared(setup: Setup) -> None:
    rewrite(setup, lambda tree: tree.update(state="prepared"))


def entry_says(policy: str) -> Attack:
    def change(tree: Json) -> None:
        tree["wanted"]["spec"]["persistentVolumeReclaimPolicy"] = policy

    return lambda setup: rewrite(setup, change)


def new_term(setup: Setup) -> None:
    """Somebody writes the Lease. This instance notices that at its next renewal."""
    setup.leadership.lease_is_another = True

    def renewed() -> None:
        setup.engine.leadership_changed(leading=False)
        setup.leadership.lease_is_another = False
        setup.engine.leadership_changed(leading=True)
        setup.full_reconciler.request("leading")

    asyncio.get_running_loop().call_later(0.3, renewed)


def failover_to(second: Setup) -> Attack:
    def over(first: Setup) -> None:
        first.leadership.leading = False
        first.engine.leadership_changed(leading=False)
        second.leadership.leading = True
        second.engine.leadership_changed(leading=True)
        second.full_reconciler.request("leading")

    return over


def attacked_once_deleted(
    setup: Setup, *acts: Attack, crash: asyncio.Event | None = None
) -> asyncio.Event:
    """Have all this happen right before the claimRef is detached, and nothing after it if it is
    during a crash, until that is over.
    """
    attacked, patch = asyncio.Event(), setup.volumes.patch

    async def detached(name: PvName, change: Patch) -> Manifest:
        if detaches(change) and not attacked.is_set():
            for act in acts:
                act(setup)
            attacked.set()
            if crash:
                await crash.wait()
        return await patch(name, change)

    instead(setup.volumes, patch=detached)
    return attacked


def attacked_at_removal(
    setup: Setup, *acts: Attack, crash: asyncio.Event | None = None
) -> asyncio.Event:
    """Have all this happen right before the volume is removed, and nothing after it if it is during
    a crash, until that is over.
    """
    attacked, remove = asyncio.Event(), setup.volumes.remove

    async def removed(pv: Manifest) -> None:
        if not attacked.is_set():
            for act in acts:
                act(setup)
            attacked.set()
            if crash:
                await crash.wait()
        await remove(pv)

    instead(setup.volumes, remove=removed)
    return attacked


async def replaced(
    first: Setup,
    attacked: asyncio.Event,
    last: Setup | None = None,
    crash: asyncio.Event | None = None,
) -> None:
    """Let both instances work until all is done that they do."""
    last = last or first
    async with first.at_work(), last.at_work():
        full = asyncio.create_task(last.full_reconciler.run())
        first.queue.add(RD, source="promotion")
        await attacked.wait()
        await reconciled(last, 10)
        full.cancel()
        if crash:
            first.queue.close()
            crash.set()


@pytest.mark.parametrize("attacked_at", [attacked_once_deleted, attacked_at_removal])
@pytest.mark.parametrize("entry", [nothing, entry_is_prepared])
@pytest.mark.parametrize("act", [owner_sets_policy, no_markers, other_markers])
async def test_a_deletion_that_was_accepted_stays_that_of_its_run(
    act: Attack, entry: Attack, attacked_at: Callable[..., asyncio.Event]
) -> None:
    async with bound() as (setup, _):
        await replaced(setup, attacked_at(setup, act, entry, new_term))

        assert not is_terminating(setup.pv())
        assert setup.nodes() == {"n2"}
        assert setup.claim()["status"]["phase"] == "Bound"
        assert not setup.journal.entries


@pytest.mark.parametrize("crashes", [False, True])
async def test_retain_stays_where_others_removed_the_markers_of_a_terminating_volume(
    *, crashes: bool
) -> None:
    """The entry alone says Delete, and anybody may have written that."""
    async with bound(policy="Retain") as (first, sidecars):
        second = standing_by(first)
        acts = (no_markers, entry_says("Delete"), failover_to(second))
        crash = asyncio.Event() if crashes else None
        attacked = attacked_once_deleted(first, *acts, crash=crash)
        await replaced(first, attacked, second, crash)

        assert policy(first) == "Retain"
        first.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
        await asyncio.sleep(60)
        assert sidecars.reclaimed == []


def no_markers_nor_skip_reclaim(setup: Setup) -> None:
    annotations = {MARKER_ANNOTATION: None, SKIP_RECLAIM_ANNOTATION: None}
    patched(setup, {"metadata": {"annotations": annotations}})


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize("act", [no_markers, no_markers_nor_skip_reclaim])
async def test_retain_because_nothing_says_otherwise_is_reported(
    act: Attack, *, repaired: bool
) -> None:
    """Also for a volume that once kept Retain, was repaired, and has the annotation still."""
    async with bound() as (first, _):
        if repaired:
            annotations = {ORIGINAL_POLICY_ANNOTATION: "Delete"}
            patched(first, {"metadata": {"annotations": annotations}})
        second = standing_by(first)
        acts, crash = (act, failover_to(second)), asyncio.Event()
        attacked = attacked_once_deleted(first, *acts, crash=crash)
        await replaced(first, attacked, second, crash)

        assert policy(first) == "Retain"
        assert annotations_of(first.pv())[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert any("Retain" in str(each) for each in second.notices.warnings)


def no_markers_and_long_skip_reclaim(setup: Setup) -> None:
    annotations = {MARKER_ANNOTATION: None, SKIP_RECLAIM_ANNOTATION: "x" * 3000}
    patched(setup, {"metadata": {"annotations": annotations}})


@pytest.mark.parametrize("original", ["Delete", "Retain"])
@pytest.mark.parametrize("act", [no_markers_nor_skip_reclaim, no_markers_and_long_skip_reclaim])
async def test_retain_of_markers_that_are_set_again_is_not_taken_for_the_original(
    act: Attack, original: str
) -> None:
    """Otherwise who continues after a crash would keep Retain, and not report it."""
    async with bound(policy=original) as (first, _):
        second, crash = standing_by(first), asyncio.Event()
        attacked_once_deleted(first, act)
        attacked = attacked_at_removal(first, failover_to(second), crash=crash)
        await replaced(first, attacked, second, crash)

        assert policy(first) == original
        assert not is_terminating(first.pv())
        assert SKIP_RECLAIM_ANNOTATION not in annotations_of(first.pv())


async def test_retain_in_the_entry_of_a_terminating_volume_is_reported() -> None:
    """The markers say Delete. The value that keeps the data counts."""
    async with bound() as (first, _):
        second = standing_by(first)
        acts, crash = (entry_says("Retain"), failover_to(second)), asyncio.Event()
        attacked = attacked_once_deleted(first, *acts, crash=crash)
        await replaced(first, attacked, second, crash)

        assert policy(first) == "Retain"
        assert annotations_of(first.pv())[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert any("Retain" in str(each) for each in second.notices.warnings)


@pytest.mark.parametrize("repaired", [False, True])
async def test_retain_because_the_claim_is_gone_is_reported(*, repaired: bool) -> None:
    """Another instance recreates the volume that this one has removed. It may have the annotation
    since it once kept Retain, and was repaired.
    """
    async with bound() as (first, _):
        if repaired:
            annotations = {ORIGINAL_POLICY_ANNOTATION: "Delete"}
            patched(first, {"metadata": {"annotations": annotations}})
        second, removed, crash = standing_by(first), asyncio.Event(), asyncio.Event()

        async def created(body: Manifest) -> Manifest:
            removed.set()
            await crash.wait()
            raise Unreachable("the process has crashed")

        instead(first.volumes, create=created)
        async with first.at_work(), second.at_work():
            full = asyncio.create_task(second.full_reconciler.run())
            first.queue.add(RD, source="promotion")
            await removed.wait()
            await until(lambda: first.cluster.get("persistentvolumes", PV) is None)
            name = f"claim-{PV}"
            first.cluster.delete("persistentvolumeclaims", name, namespace="default")
            failover_to(second)(first)
            await reconciled(second, 10)
            full.cancel()
            first.queue.close()
            crash.set()

        assert policy(second) == "Retain"
        assert any("Retain" in str(each) for each in second.notices.warnings)


async def test_an_observed_volume_keeps_its_claim_whatever_mode_that_has() -> None:
    """Whoever makes both for each other by hand can give them different ones."""
    async with bound(volumeMode="Block") as (setup, _):
        create, refused = setup.volumes.create, True

        async def created(body: Manifest) -> Manifest:
            if refused:
                raise Unreachable("503: the API server is shutting down")
            return await create(body)

        instead(setup.volumes, create=created)
        async with setup.at_work():
            full = asyncio.create_task(setup.full_reconciler.run())
            setup.queue.add(RD, source="promotion")
            await until(lambda: setup.cluster.get("persistentvolumes", PV) is None)
            await asyncio.sleep(90)
            refused = False
            await reconciled(setup, 5)
            full.cancel()

        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.pv()["spec"]["volumeMode"] == "Block"


def fill_annotations(setup: Setup) -> None:
    """With as much as Kubernetes accepts, in place of the markers."""
    patched(setup, {"metadata": {"annotations": {MARKER_ANNOTATION: None, "x": ""}}})
    used = sum(len(key) + len(text) for key, text in annotations_of(setup.pv()).items())
    patched(setup, {"metadata": {"annotations": {"x": "x" * (256 * 1024 - used)}}})


def delete_claim(setup: Setup) -> None:
    setup.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")


async def test_annotations_that_fill_the_space_keep_no_volume_terminating() -> None:
    """The next instance has to add an annotation."""
    async with bound() as (first, _):
        second, crash = standing_by(first), asyncio.Event()
        attacked_once_deleted(first, fill_annotations)
        attacked = attacked_at_removal(first, failover_to(second), crash=crash)
        await replaced(first, attacked, second, crash)

        assert not is_terminating(first.pv())
        assert first.nodes() == {"n2"}
        assert policy(first) == "Retain"
        assert annotations_of(first.pv())[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert first.journal.entries == {}


def lengthen_markers(setup: Setup) -> None:
    """In place of what filled the space, with a value that none of these has."""
    values = json.loads(annotations_of(setup.pv())[MARKER_ANNOTATION])
    changed = json.dumps({**values, "skipReclaim": "x" * 3000})
    setup.cluster.patch(
        "persistentvolumes",
        PV,
        {"metadata": {"annotations": {MARKER_ANNOTATION: changed, "x": None}}},
        writer=FORGED,
    )


async def test_markers_of_any_length_keep_no_volume_terminating() -> None:
    """Its annotations take up the space from the beginning."""
    async with bound() as (first, _):
        patched(first, {"metadata": {"annotations": {"x": "x" * 254 * 1024}}})
        second, crash = standing_by(first), asyncio.Event()
        acts = (lengthen_markers, failover_to(second))
        attacked = attacked_once_deleted(first, *acts, crash=crash)
        await replaced(first, attacked, second, crash)

        assert not is_terminating(first.pv())
        assert first.nodes() == {"n2"}
        assert policy(first) == "Retain"
        assert first.journal.entries == {}


@pytest.mark.parametrize("attacked_at", [attacked_once_deleted, attacked_at_removal])
@pytest.mark.parametrize("text", ["\x01" * 50_000, '"' * 200_000], ids=["control", "quotes"])
async def test_an_original_value_of_any_length_keeps_no_volume_terminating(
    text: str, attacked_at: Callable[..., asyncio.Event]
) -> None:
    """In the markers, which are written again, it would be too long."""

    def act(setup: Setup) -> None:
        written = {MARKER_ANNOTATION: "x", SKIP_RECLAIM_ANNOTATION: text}
        patched(setup, {"metadata": {"annotations": written}})

    async with bound() as (setup, _):
        await replaced(setup, attacked_at(setup, act))

        assert not is_terminating(setup.pv())
        assert setup.nodes() == {"n2"}
        assert policy(setup) == "Delete"
        assert setup.journal.entries == {}


async def test_annotations_that_fill_the_space_keep_no_volume_absent() -> None:
    """What the volume lacks without its claim is found only when it is made."""
    async with bound() as (first, _):
        second, crash = standing_by(first), asyncio.Event()
        attacked_once_deleted(first, fill_annotations)
        remove = first.volumes.remove

        async def removed(pv: Manifest) -> None:
            await remove(pv)
            delete_claim(first)
            failover_to(second)(first)
            attacked.set()
            await crash.wait()

        attacked = asyncio.Event()
        instead(first.volumes, remove=removed, create=no_response)
        await replaced(first, attacked, second, crash)

        assert policy(first) == "Retain"
        assert annotations_of(first.pv())[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert first.journal.entries == {}


async def no_response(_: Manifest) -> Manifest:
    raise Unreachable("503")


async def test_beside_annotations_that_fill_the_space_other_changes_are_saved() -> None:
    """The next attempt does not see the last version of the volume that was removed."""
    async with bound() as (setup, _):
        loop, create, down_until = asyncio.get_running_loop(), setup.volumes.create, 0.0

        def act(setup: Setup) -> None:
            nonlocal down_until
            fill_annotations(setup)
            patched(setup, {"spec": {"capacity": {"storage": "7Gi"}}})
            down_until = loop.time() + 90.0

        async def created(body: Manifest) -> Manifest:
            if loop.time() < down_until:
                raise Unreachable("503")
            return await create(body)

        instead(setup.volumes, create=created)
        await replaced(setup, attacked_at_removal(setup, act))

        assert setup.pv()["spec"]["capacity"] == {"storage": "7Gi"}
        assert setup.nodes() == {"n2"}


async def test_annotations_that_fill_the_space_before_the_deletion_prevent_it() -> None:
    async with bound() as (setup, _):
        delete, filled = setup.volumes.delete, False

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal filled
            if not filled:
                filled = True
                patched(setup, {"metadata": {"annotations": {"x": "x" * 255 * 1024}}})
            return await delete(manifest)

        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 10)

        assert filled
        assert not is_terminating(setup.pv())
        assert setup.nodes() == {"n1"}
        assert policy(setup) == "Delete"
        assert setup.journal.entries == {}
        assert {reason for _, reason, _ in setup.notices.warnings} == {"VolumeAffinityNotUpdated"}


async def test_an_entry_gives_a_volume_without_claim_no_other_volume_mode() -> None:
    """Somebody rewrites it after a failover, while the volume is absent."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        affinity = manifests.on_nodes(["n1"])
        made = manifests.volume(PV, claim=None, node_affinity=affinity, policy="Delete")
        cluster.create("persistentvolumes", made)
        first = setup_on(cluster, linstor)
        await until(lambda: first.pv()["status"].get("phase") == "Available")
        second, crash = standing_by(first), asyncio.Event()
        attacked = attacked_at_removal(first, failover_to(second), crash=crash)
        instead(first.volumes, create=no_response)
        second.faults.refuse("create", Unreachable)
        async with first.at_work(), second.at_work():
            full = asyncio.create_task(second.full_reconciler.run())
            first.queue.add(RD, source="promotion")
            await attacked.wait()
            await until(lambda: cluster.get("persistentvolumes", PV) is None)
            rewrite(second, lambda tree: tree["wanted"]["spec"].update(volumeMode="Block"))
            second.faults.allow("create")
            await reconciled(second, 10)
            full.cancel()
            first.queue.close()
            crash.set()

        assert policy(second) == "Retain"
        assert second.pv()["status"]["phase"] == "Released"
