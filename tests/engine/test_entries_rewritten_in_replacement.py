"""Others rewrite the entry of a replacement that one run began, and force that run to read it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import pytest

from linstor_affinity_events.engine.claim_guard import GUARD_AT_MOST
from linstor_affinity_events.errors import Conflict, Invalid, Refused, Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import FINALIZER, SKIP_RECLAIM_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import PvName, ResourceName
from tests.engine.forged_entries import (
    EVIL,
    entry,
    foreign_claim,
    is_on,
    reconciled,
    volume_for,
)
from tests.engine.setup import PV, RD, Setup, bind, cluster_with, instead, setup_on, until
from tests.fakes.kube_server import Binder, FakeCluster
from tests.fakes.linstor import FakeLinstor
from tests.fakes.sidecars import MemoryApi, Sidecars
from tests.testbed import manifests

Json = dict[str, Any]
Change = Callable[[Json], None]


def claim_uid(tree: Json) -> None:
    tree["claim"]["uid"] = tree["wanted"]["spec"]["claimRef"]["uid"] = "other"


def no_claim_uid(tree: Json) -> None:
    tree["claim"]["uid"] = tree["wanted"]["spec"]["claimRef"]["uid"] = ""


def no_claim(tree: Json) -> None:
    tree["claim"] = None
    del tree["wanted"]["spec"]["claimRef"]


def claim_name(tree: Json) -> None:
    tree["claim"]["name"] = tree["wanted"]["spec"]["claimRef"]["name"] = "other"


def tombstone(tree: Json) -> None:
    name = f"gone-{tree['uid']}"
    tree["claim"]["name"] = tree["wanted"]["spec"]["claimRef"]["name"] = name


def state(tree: Json) -> None:
    tree["state"] = "prepared"


def holder(tree: Json) -> None:
    claim_uid(tree)
    tree["holder"] = "another"


def affinity(tree: Json) -> None:
    tree["wanted"]["spec"]["nodeAffinity"] = manifests.on_nodes(["n7"])


def policy(tree: Json) -> None:
    tree["wanted"]["spec"]["persistentVolumeReclaimPolicy"] = "Retain"


def uid(tree: Json) -> None:
    tree["uid"] = "other"


def nothing(_: Json) -> None:
    """The version changes all the same."""


CHANGES = (
    *(claim_uid, no_claim_uid, no_claim, claim_name, tombstone),
    *(state, holder, affinity, policy),
)


@asynccontextmanager
async def bound(*, policy: str = "Delete", **volume: Any) -> AsyncIterator[tuple[Setup, Sidecars]]:
    """A bound volume whose data is on n2 by now, beside the CSI sidecars."""
    async with cluster_with() as cluster, Sidecars(MemoryApi(cluster)) as sidecars:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(PV, "n2")
        bind(cluster, PV, "n1", policy=policy, **volume)
        setup = setup_on(cluster, linstor)
        await until(lambda: setup.pv()["status"].get("phase") == "Bound")
        yield setup, sidecars


def rewrite(setup: Setup, change: Change) -> None:
    version, tree = deepcopy(setup.journal.entries[PV])
    change(tree)
    setup.journal.entries[PV] = (f"{version}0", tree)


def rewritten_when(when: str, setup: Setup, change: Change) -> list[str]:
    """Rewrite the entry once, when the volume was deleted, is being removed, or the entry dropped.
    Returns that moment, once it is over.
    """
    done = list[str]()
    delete, remove, drop = setup.volumes.delete, setup.volumes.remove, setup.journal.drop

    def reached(moment: str, *, conflict: bool = True) -> None:
        if when != moment or done:
            return
        done.append(moment)
        rewrite(setup, change)
        if conflict:
            # Another client's write to the volume is one way to have it observed again.
            label = {"metadata": {"labels": {"late": "yes"}}}
            setup.cluster.patch("persistentvolumes", PV, label)

    async def deleted(manifest: Manifest) -> Manifest | None:
        response = await delete(manifest)
        reached("deleted")
        return response

    async def removed(manifest: Manifest) -> None:
        reached("removing")
        await remove(manifest)

    async def dropped(entry: JournalEntry) -> None:
        reached("dropping", conflict=False)
        await drop(entry)

    instead(setup.volumes, delete=deleted, remove=removed)
    instead(setup.journal, drop=dropped)
    return done


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("when", ["deleted", "removing", "dropping"])
async def test_an_entry_that_is_rewritten_changes_nothing(change: Change, when: str) -> None:
    async with bound() as (setup, sidecars):
        before = setup.pv()
        done = rewritten_when(when, setup, change)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: done)
            await reconciled(setup, 3)

        now = setup.pv()
        assert sidecars.reclaimed == []
        assert now["metadata"]["uid"] != before["metadata"]["uid"]
        assert "deletionTimestamp" not in now["metadata"]
        assert is_on(setup.cluster, "n2")
        for field in ("name", "namespace", "uid"):
            assert now["spec"]["claimRef"][field] == before["spec"]["claimRef"][field]
        assert now["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert now["metadata"].get("labels", {}) == ({} if when == "dropping" else {"late": "yes"})
        assert setup.claim()["status"]["phase"] == now["status"]["phase"] == "Bound"
        assert setup.journal.entries == {}


async def test_entries_that_are_rewritten_again_and_again_delay_other_changes_only_briefly() -> (
    None
):
    """Each for a claim that is never bound, so that to wait for it would take seconds."""
    names = [f"pvc-{number}" for number in range(30)]
    async with cluster_with(*names) as cluster:
        linstor = FakeLinstor("n1", "n2")
        for name in names:
            linstor.place(name, "n2")
        setup = setup_on(cluster, linstor, at_once=10)
        claim = foreign_claim(cluster)["metadata"]
        drop = setup.journal.drop

        async def dropped(entry: JournalEntry) -> None:
            if entry.pv in setup.journal.entries:
                version, tree = deepcopy(setup.journal.entries[entry.pv])
                reference = {key: claim[key] for key in ("namespace", "name", "uid")}
                tree["claim"] = reference
                tree["wanted"]["spec"]["claimRef"] |= reference
                setup.journal.entries[entry.pv] = (f"{version}0", tree)
            await drop(entry)

        instead(setup.journal, drop=dropped)
        async with setup.at_work(20):
            begun = asyncio.get_running_loop().time()
            for name in names:
                setup.queue.add(ResourceName(name), source="promotion")
            await until(lambda: all(setup.nodes(name) == {"n2"} for name in names), within=600.0)
            took = asyncio.get_running_loop().time() - begun

        assert took < 10.0


@pytest.mark.parametrize("corrected", [True, False])
async def test_a_claim_ref_that_no_claim_can_have_keeps_no_volume_terminating(
    corrected: bool,
) -> None:
    """The API server accepts it from whoever may update the volume."""
    async with bound() as (setup, _):
        before = setup.pv()["spec"]["claimRef"]
        delete, done = setup.volumes.delete, False

        def named(name: str) -> None:
            change = {"spec": {"claimRef": {"name": name}}}
            setup.cluster.patch("persistentvolumes", PV, change)

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal done
            response = await delete(manifest)
            if not done:
                done = True
                named("Not Valid")
                if corrected:
                    asyncio.get_running_loop().call_later(0.01, named, before["name"])
            return response

        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: done)
            await reconciled(setup, 3)

        assert is_on(setup.cluster, "n2")
        assert setup.pv()["spec"]["claimRef"]["uid"] == before["uid"]
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_a_late_write_that_another_instance_saw_is_on_the_new_volume() -> None:
    """It went on with the replacement, and crashed before it created the volume."""
    async with bound() as (setup, _):
        delete, done = setup.volumes.delete, False
        label = {"metadata": {"labels": {"late": "yes"}}}

        def seen(tree: Json) -> None:
            tree["holder"] = "another"
            tree["wanted"]["metadata"]["labels"] = {"late": "yes"}

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal done
            response = await delete(manifest)
            if not done:
                done = True
                setup.cluster.patch("persistentvolumes", PV, label)
                rewrite(setup, seen)
                setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": []}})
            return response

        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(setup.cluster, "n2"))
            await reconciled(setup, 1)

        assert setup.pv()["metadata"]["labels"] == {"late": "yes"}
        assert setup.journal.entries == {}


@pytest.mark.parametrize("then", ["deleted", "unreadable"])
async def test_an_entry_rewritten_twice_leaves_no_retain(then: str) -> None:
    """Once harmlessly, and once so that nothing can be read any more."""
    async with bound() as (setup, _):
        save, count = setup.journal.save, 0

        def renamed(tree: Json) -> None:
            tree["holder"] = "nobody"

        async def saved(entry: JournalEntry) -> JournalEntry:
            nonlocal count
            count += 1
            if count == 1:
                rewrite(setup, renamed)
            elif count == 2 and then == "deleted":
                del setup.journal.entries[PV]
            elif count == 2:
                rewrite(setup, lambda tree: tree.update(format=0))
            return await save(entry)

        instead(setup.journal, save=saved)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 3)
            # An administrator deletes what is not valid.
            if then == "unreadable":
                setup.journal.entries.pop(PV, None)
            await reconciled(setup, 3)

        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert "deletionTimestamp" not in setup.pv()["metadata"]


LARGE = "," * 220_000
"""The text of an entry has at most 200,000 of these."""


@pytest.mark.parametrize("skip_reclaim", [True, False])
@pytest.mark.parametrize("when", ["marked", "deleted", "detached"])
async def test_an_annotation_that_no_entry_can_have_keeps_no_volume_in_replacement(
    when: str, skip_reclaim: bool
) -> None:
    async with bound() as (setup, _):
        save, delete, patch = setup.journal.save, setup.volumes.delete, setup.volumes.patch
        done = False

        def annotate(moment: str) -> None:
            nonlocal done
            if moment == when and not done:
                done = True
                annotations = {"large": LARGE}
                if skip_reclaim:
                    annotations[SKIP_RECLAIM_ANNOTATION] = "false"
                change = {"metadata": {"annotations": annotations}}
                setup.cluster.patch("persistentvolumes", PV, change)

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            annotate("deleted")
            return response

        async def patched(name: PvName, change: Json) -> Manifest:
            response = await patch(name, change)
            metadata = setup.pv()["metadata"]
            annotate("detached" if "deletionTimestamp" in metadata else "marked")
            return response

        async def saved(entry: JournalEntry) -> JournalEntry:
            if LARGE in entry.wanted["metadata"].get("annotations", {}).values():
                raise Refused("it could not be read again")
            return await save(entry)

        instead(setup.volumes, delete=deleted, patch=patched)
        instead(setup.journal, save=saved)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: done)
            await reconciled(setup, 5)

        metadata = setup.pv()["metadata"]
        assert metadata["annotations"]["large"] == LARGE
        assert "deletionTimestamp" not in metadata
        assert FINALIZER not in metadata["finalizers"]


def admit(tree: Manifest) -> None:
    """What an admission policy does that allows no volume this label."""
    if "forbidden" in (tree.get("metadata", {}).get("labels") or {}):
        raise Refused("a policy does not allow that")


@pytest.mark.parametrize("conflicts", [0, 6])
async def test_a_label_that_kubernetes_rejects_keeps_no_volume_away(conflicts: int) -> None:
    """Not even if so many other writes end the run that knows how the volume was."""
    async with bound() as (setup, _):
        delete, patch, remove = setup.volumes.delete, setup.volumes.patch, setup.volumes.remove
        create, dry_run, written = setup.volumes.create, setup.volumes.dry_run_creation, 0

        def labelled(label: str, value: str) -> None:
            change = {"metadata": {"labels": {label: value}}}
            setup.cluster.patch("persistentvolumes", PV, change)

        def interfere() -> None:
            nonlocal written
            pv = setup.cluster.get("persistentvolumes", PV)
            if pv is not None and "deletionTimestamp" in pv["metadata"] and written < conflicts:
                written += 1
                labelled("count", str(written))

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            labelled("forbidden", "yes")
            return response

        async def patched(name: PvName, change: Json) -> Manifest:
            interfere()
            return await patch(name, change)

        async def removed(manifest: Manifest) -> None:
            interfere()
            await remove(manifest)

        async def created(manifest: Manifest) -> Manifest:
            admit(manifest)
            return await create(manifest)

        async def tried(manifest: Manifest) -> None:
            admit(manifest)
            await dry_run(manifest)

        instead(
            setup.volumes,
            delete=deleted,
            patch=patched,
            remove=removed,
            create=created,
            dry_run_creation=tried,
        )
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(30.0)
            await reconciled(setup, 10)

        assert written == conflicts
        assert is_on(setup.cluster, "n2")
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_very_many_annotations_beside_a_rejected_label_delay_no_other_volume() -> None:
    async with cluster_with(PV, "pvc-2") as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        linstor.place("pvc-2", "n1")
        setup = setup_on(cluster, linstor, at_once=1)
        delete, create, patch = setup.volumes.delete, setup.volumes.create, setup.volumes.patch
        annotations, requests = {f"a{number}": "" for number in range(500)}, 0
        change = {"metadata": {"labels": {"forbidden": "yes"}, "annotations": annotations}}

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            if manifest["metadata"]["name"] == PV:
                cluster.patch("persistentvolumes", PV, change)
            return response

        async def created(manifest: Manifest) -> Manifest:
            admit(manifest)
            return await create(manifest)

        async def patched(name: PvName, patched_with: Json) -> Manifest:
            nonlocal requests
            requests += 1
            admit(patched_with)
            return await patch(name, patched_with)

        instead(setup.volumes, delete=deleted, create=created, patch=patched)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n2"), within=60.0)
            await reconciled(setup, 1)

        assert requests < 40
        assert annotations.items() <= setup.pv()["metadata"]["annotations"].items()
        assert "labels" not in setup.pv()["metadata"]


def rewritten_before_each_save(setup: Setup, *, times: int, then: Callable[[], None]) -> None:
    save, left = setup.journal.save, times

    async def saved(entry: JournalEntry) -> JournalEntry:
        nonlocal left
        if left > 0:
            rewrite(setup, lambda tree: tree.update(holder=f"nobody-{left}", state="deleting"))
        try:
            return await save(entry)
        finally:
            left -= 1
            if left == 0:
                then()

    instead(setup.journal, save=saved)


@pytest.mark.parametrize("then", ["deleted", "unreadable", "left"])
@pytest.mark.parametrize("times", [5, 6, 7, 8])
async def test_an_entry_rewritten_until_the_run_gives_up_leaves_no_retain(
    times: int, then: str
) -> None:
    async with bound() as (setup, _):

        def afterwards() -> None:
            if then == "deleted":
                setup.journal.entries.pop(PV, None)
            elif then == "unreadable":
                rewrite(setup, lambda tree: tree.update(format=0))

        rewritten_before_each_save(setup, times=times, then=afterwards)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 10)

        now = setup.pv()
        assert now["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert FINALIZER not in now["metadata"]["finalizers"]
        assert SKIP_RECLAIM_ANNOTATION not in now["metadata"]["annotations"]


async def test_an_entry_that_is_always_rewritten_undoes_no_deletion() -> None:
    """The owner deletes the volume when the run has given up; then nobody rewrites it any more."""
    async with bound() as (setup, _):
        before, patch, given_up = setup.pv()["metadata"]["uid"], setup.volumes.patch, False

        async def patched(name: PvName, change: Json) -> Manifest:
            """The owner deletes the volume as soon as the markers are taken off."""
            nonlocal given_up
            made = await patch(name, change)
            if not given_up and FINALIZER not in made["metadata"]["finalizers"]:
                given_up = True
                setup.cluster.delete("persistentvolumes", PV)
            return made

        instead(setup.volumes, patch=patched)
        rewritten_before_each_save(setup, times=6, then=lambda: None)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 20)

        assert given_up

        now = setup.pv()
        assert now["metadata"]["uid"] == before
        assert "deletionTimestamp" in now["metadata"]


@pytest.mark.parametrize("when", ["deleted", "removing"])
@pytest.mark.parametrize("conflicts", [5, 6])
async def test_a_run_that_gave_up_goes_on_with_what_it_wrote(conflicts: int, when: str) -> None:
    """After so many conflicts it is taken up again. An entry that says that nothing was deleted
    yet, for a volume that is being deleted, would mean that its owner deletes it.
    """
    async with bound() as (setup, sidecars):
        before = setup.pv()
        done = rewritten_when(when, setup, state)
        rewritten_before_each_save(setup, times=conflicts, then=lambda: None)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 10)

        now = setup.pv()
        assert done
        assert sidecars.reclaimed == []
        assert now["metadata"]["uid"] != before["metadata"]["uid"]
        assert "deletionTimestamp" not in now["metadata"]
        assert now["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.journal.entries == {}


@pytest.mark.parametrize("after", [0.0, 70.0], ids=["soon", "later"])
@pytest.mark.parametrize("change", [*CHANGES, None], ids=lambda c: c.__name__ if c else "deleted")
async def test_an_entry_rewritten_between_two_attempts_changes_nothing(
    change: Change | None, after: float
) -> None:
    """The API server does not answer while the volume is away, so that the run is interrupted."""
    async with bound() as (setup, sidecars):
        before = setup.pv()
        setup.faults.refuse("create", Unreachable)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: PV in setup.replacer._interrupted)
            await asyncio.sleep(after)
            if change is None:
                del setup.journal.entries[PV]
            else:
                rewrite(setup, change)
            setup.faults.allow("create")
            await reconciled(setup, 3)

        now = setup.pv()
        assert sidecars.reclaimed == []
        assert is_on(setup.cluster, "n2")
        for field in ("name", "namespace", "uid"):
            assert now["spec"]["claimRef"][field] == before["spec"]["claimRef"][field]
        assert now["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.journal.entries == {}


@pytest.mark.parametrize("attack", ["rewritten", "deleted"])
async def test_a_volume_that_no_claim_uses_comes_back_as_it_was(attack: str) -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        affinity = manifests.on_nodes(["n1"])
        cluster.create(
            "persistentvolumes",
            manifests.volume(PV, claim=None, node_affinity=affinity, policy="Delete"),
        )
        setup = setup_on(cluster, linstor)
        await until(lambda: setup.pv()["status"].get("phase") == "Available")
        before, delete, done = setup.pv(), setup.volumes.delete, False

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal done
            response = await delete(manifest)
            if not done:
                done = True
                if attack == "deleted":
                    del setup.journal.entries[PV]
                else:
                    rewrite(setup, lambda tree: tree.update(holder="another"))
                # The protection controller takes its finalizer off: a conflict for the removal.
                held = [f for f in setup.pv()["metadata"]["finalizers"] if f == FINALIZER]
                cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": held}})
            return response

        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 3)

        now = setup.pv()
        assert now["metadata"]["uid"] != before["metadata"]["uid"]
        assert now["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert "claimRef" not in now["spec"]
        assert setup.journal.entries == {}


@pytest.mark.parametrize("state", ["prepared", "deleting"])
async def test_an_entry_that_is_made_immutable_leaves_no_retain(state: str) -> None:
    """The API server rejects each update of such a ConfigMap, but not its deletion."""
    async with bound() as (setup, _):
        save, immutable = setup.journal.save, set[str]()

        async def saved(entry: JournalEntry) -> JournalEntry:
            if not immutable:
                rewrite(setup, lambda tree: tree.update(holder="another", state=state))
                immutable.add(setup.journal.entries[PV][0])
            if setup.journal.entries[PV][0] in immutable and entry.version in immutable:
                raise Invalid("data: Forbidden: field is immutable when `immutable` is set")
            return await save(entry)

        instead(setup.journal, save=saved)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: immutable)
            await asyncio.sleep(30.0)
            assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
            assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
            await reconciled(setup, 10)

        assert is_on(setup.cluster, "n2")
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.journal.entries == {}


@pytest.mark.parametrize("change", [nothing, uid])
async def test_an_entry_that_is_touched_undoes_no_deletion(change: Change) -> None:
    """The owner deletes the volume right before this service does; another client rewrites the
    entry, with the same content or another uid.
    """
    async with bound() as (setup, _):
        before, delete, done = setup.pv()["metadata"]["uid"], setup.volumes.delete, False

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal done
            if not done:
                done = True
                setup.cluster.delete("persistentvolumes", PV)
                rewrite(setup, change)
            return await delete(manifest)

        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 10)

        assert setup.pv()["metadata"]["uid"] == before
        assert "deletionTimestamp" in setup.pv()["metadata"]


async def test_the_entry_of_a_run_that_waits_for_long_can_be_deleted() -> None:
    """The binder has other volumes to do first, as in a large evacuation."""
    cluster = FakeCluster()
    for name, parameters in manifests.CLASSES.items():
        cluster.create("storageclasses", manifests.storage_class(name, parameters))
    async with Binder(cluster, delay=0.001) as binder:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        bind(cluster, PV, "n1", policy="Delete")
        setup = setup_on(cluster, linstor)
        await until(lambda: setup.pv()["status"].get("phase") == "Bound")
        delete, remove, done = setup.volumes.delete, setup.volumes.remove, False

        async def deleted(manifest: Manifest) -> Manifest | None:
            binder.pause()
            asyncio.get_running_loop().call_later(GUARD_AT_MOST + 0.5, binder.resume)
            return await delete(manifest)

        async def removed(manifest: Manifest) -> None:
            nonlocal done
            if not done:
                done = True
                label = {"metadata": {"labels": {"late": "yes"}}}
                cluster.patch("persistentvolumes", PV, label)
            await remove(manifest)

        clock = asyncio.get_running_loop().time
        instead(setup.volumes, delete=deleted, remove=removed, last_phase_change=clock)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(20.0)
            del setup.journal.entries[PV]
            await reconciled(setup, 5)

        assert done
        assert is_on(cluster, "n2")
        assert "deletionTimestamp" not in setup.pv()["metadata"]
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


async def test_a_volume_left_alone_comes_back_once_no_entry_claims_its_data() -> None:
    """No claim uses it, its own entry was rewritten, and another one is for the same data."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        affinity = manifests.on_nodes(["n1"])
        cluster.create(
            "persistentvolumes", manifests.volume(PV, claim=None, node_affinity=affinity)
        )
        setup = setup_on(cluster, linstor)
        await until(lambda: setup.pv()["status"].get("phase") == "Available")
        setup.journal.entries[EVIL] = entry(volume_for(foreign_claim(cluster), PV), f"{RD}/0")
        delete, create, done, missed = setup.volumes.delete, setup.volumes.create, False, False

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal done
            response = await delete(manifest)
            if not done:
                done = True
                rewrite(setup, lambda tree: tree.update(holder="another"))
                held = [f for f in setup.pv()["metadata"]["finalizers"] if f == FINALIZER]
                cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": held}})
            return response

        async def created(manifest: Manifest) -> Manifest:
            nonlocal missed
            if not missed and cluster.get("persistentvolumes", PV) is None:
                missed = True
                raise Conflict("the old volume was still there")
            return await create(manifest)

        instead(setup.volumes, delete=deleted, create=created)
        async with setup.at_work():
            await reconciled(setup, 2)
            linstor.place(PV, "n2")
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 5)
            assert cluster.get("persistentvolumes", PV) is None
            setup.journal.entries.clear()
            await reconciled(setup, 60)

        assert is_on(cluster, "n2")
