"""What an instance remembers of a volume, when others lead in between or write its entry."""

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import FINALIZER, VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName
from tests.engine.forged_entries import (
    EVIL,
    VICTIM,
    entry,
    foreign_claim,
    is_on,
    left_absent,
    reconciled,
    volume_for,
)
from tests.engine.setup import PV, Setup, bind, cluster_with, instead, setup_on, until
from tests.engine.test_forged_entries import left_by_a_crash
from tests.fakes.kube_server import FakeCluster
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

Json = dict[str, Any]

OWN = ResourceName("pvc-11111111-2222-4333-8444-555555555555")
HOSTILE = {
    "linstor.csi.linbit.com/mount-options": "dev,suid",
    "linstor.csi.linbit.com/nfs-export": "nfs://10.6.6.6/all",
}


def leads(setup: Setup, *, leading: bool) -> None:
    setup.leadership.leading = leading
    setup.engine.leadership_changed(leading=leading)


@pytest.mark.parametrize("pause", [1.0, 60.0])
async def test_a_volume_replaced_meanwhile_by_another_leader_is_recreated(pause: float) -> None:
    """The first leader could read and not write, so its run went on after it had lost the Lease."""
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(VICTIM, "n2")
        first = setup_on(cluster, linstor)
        second = setup_on(cluster, linstor, journal=first.journal, holder="other")
        async with first.at_work():
            first.faults.refuse("remove", Unreachable)
            first.queue.add(VICTIM, source="promotion")
            await until(lambda: "deletionTimestamp" in first.pv()["metadata"])
            await asyncio.sleep(pause)
            leads(first, leading=False)
            await asyncio.sleep(60.0)
        first.queue.closed = False
        first.faults.allow("remove")
        async with second.at_work():
            await reconciled(second, 2)
        second.queue.closed = False
        assert is_on(cluster, "n2")

        linstor.place(VICTIM, "n3")
        await left_absent(second, cluster)
        leads(first, leading=True)
        async with first.at_work():
            await reconciled(first, 10)

        assert is_on(cluster, "n3")


@pytest.mark.parametrize("label", [OWN, VICTIM], ids=["another resource", "its resource"])
async def test_all_entries_are_listed_first_whatever_their_labels(label: ResourceName) -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        journal = await left_by_a_crash(cluster, linstor)
        linstor.place(OWN, "n1")
        bind(cluster, "own", "n1", handle=OWN)
        await asyncio.sleep(1.0)
        journal.entries[EVIL] = entry(volume_for(foreign_claim(cluster), VICTIM), f"{VICTIM}/0")
        journal.at_a_time = 1
        listed = journal.all

        async def labelled() -> Listed:
            await asyncio.sleep(0.5)
            found = await listed()
            keys = {n: VolumeKey(label) if n == EVIL else key for n, key in found.volumes.items()}
            return Listed(keys, whole=found.whole, first=found.first, last=found.last)

        instead(journal, all=labelled)
        setup = setup_on(cluster, linstor, journal=journal)
        async with setup.at_work():
            first = asyncio.create_task(setup.full_reconciler.reconcile_all("start"))
            await asyncio.sleep(0.7)
            setup.queue.add(label, source="promotion")
            await first
            await reconciled(setup, 2)

        assert cluster.get("persistentvolumes", EVIL) is None


async def test_no_claim_gets_additional_powers_under_another_name() -> None:
    """A claim that says that it is bound is bound by uid, and the entry names another claim."""
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        await left_absent(setup, cluster)
        version, tree = deepcopy(setup.journal.entries[PV])
        spec: Json = tree["wanted"]["spec"]
        spec["csi"]["volumeAttributes"] = HOSTILE
        spec["csi"]["nodeStageSecretRef"] = {"name": "s", "namespace": "kube-system"}
        spec["mountOptions"] = ["dev", "suid"]
        spec["claimRef"] |= {"name": "not-here", "namespace": "kube-system"}
        tree["claim"] = {key: spec["claimRef"][key] for key in ("namespace", "name", "uid")}
        setup.journal.entries[PV] = (version + "0", tree)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert setup.pv()["spec"]["claimRef"]["uid"] != setup.claim()["metadata"]["uid"]


def deleted_with_a_forged_entry(setup: Setup, cluster: FakeCluster) -> Json:
    """Its owner deletes the volume, which a finalizer holds, and somebody writes an entry for it.
    Returns the volume.
    """
    held = [*setup.pv()["metadata"]["finalizers"], "backup.example.com/hold"]
    cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": held}})
    cluster.delete("persistentvolumes", PV)
    before = setup.pv()
    wanted = manifests.volume(
        PV,
        claim=setup.claim(),
        node_affinity=manifests.on_nodes(["n1"]),
        handle=VICTIM,
        policy="Delete",
    )
    version, tree = entry(wanted, f"{VICTIM}/0")
    setup.journal.entries[PV] = (version, {**tree, "uid": before["metadata"]["uid"]})
    return before


async def test_an_old_entry_reverts_no_deletion_by_a_user() -> None:
    """It was marked, and its entry was deleted: after that a deletion is its owner's."""
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        save, saves = setup.journal.save, 0

        async def saved(changed: JournalEntry) -> JournalEntry:
            nonlocal saves
            saves += 1
            if saves == 1:
                raise Unreachable("once")
            return await save(changed)

        instead(setup.journal, save=saved)
        async with setup.at_work():
            setup.queue.add(VICTIM, source="promotion")
            await until(lambda: saves == 1)
            linstor.place(VICTIM, "n1")
            del setup.journal.entries[PvName(PV)]
            await until(lambda: FINALIZER not in setup.pv()["metadata"]["finalizers"])
            before = deleted_with_a_forged_entry(setup, cluster)
            await reconciled(setup, 3)

        assert setup.pv()["metadata"]["uid"] == before["metadata"]["uid"]
        assert "deletionTimestamp" in setup.pv()["metadata"]


async def rolled_back_by_another(cluster: FakeCluster, linstor: FakeLinstor) -> tuple[Setup, Setup]:
    """An instance marked a volume on n1 and lost the Lease; the next leader removed the markers.
    Returns both: the first leads again, and both can be put to work.
    """
    bind(cluster, PV, "n1", handle=VICTIM, policy="Retain")
    await asyncio.sleep(1.0)
    linstor.place(VICTIM, "n2")
    first = setup_on(cluster, linstor)
    second = setup_on(cluster, linstor, journal=first.journal, holder="other")
    first.faults.refuse("save", Unreachable)
    async with first.at_work():
        first.queue.add(VICTIM, source="promotion")
        await until(lambda: FINALIZER in first.pv()["metadata"]["finalizers"])
        await asyncio.sleep(1.0)
        leads(first, leading=False)
        await asyncio.sleep(20.0)
    linstor.place(VICTIM, "n1")
    cluster.patch("persistentvolumes", PV, {"spec": {"capacity": {"storage": "7Gi"}}})
    async with second.at_work():
        await reconciled(second, 2)
    assert FINALIZER not in first.pv()["metadata"]["finalizers"]
    assert first.journal.entries == {}
    first.faults.allow("save")
    first.queue.closed = second.queue.closed = False
    leads(first, leading=True)
    return first, second


async def test_an_entry_undoes_no_deletion_of_a_volume_that_another_leader_rolled_back() -> None:
    async with cluster_with() as cluster:
        setup, _ = await rolled_back_by_another(cluster, FakeLinstor("n1", "n2"))
        async with setup.at_work():
            await reconciled(setup, 3)
            before = deleted_with_a_forged_entry(setup, cluster)
            await reconciled(setup, 3)

        assert setup.pv() == before
        assert "deletionTimestamp" in before["metadata"]


async def test_a_volume_that_another_claim_was_given_between_two_terms_comes_back_to_it() -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        setup, second = await rolled_back_by_another(cluster, linstor)
        leads(setup, leading=False)
        cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
        wish = manifests.claim("next")
        wish["spec"]["volumeName"] = PV
        claim = cluster.create("persistentvolumeclaims", wish, namespace="default")
        ref = {"name": "next", "uid": claim["metadata"]["uid"], "resourceVersion": None}
        cluster.patch("persistentvolumes", PV, {"spec": {"claimRef": ref}})
        await until(lambda: setup.pv()["status"]["phase"] == "Bound")
        linstor.place(VICTIM, "n3")
        await left_absent(second, cluster)
        leads(setup, leading=True)
        async with setup.at_work():
            await reconciled(setup, 5)

        assert is_on(cluster, "n3")
        assert setup.pv()["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
        assert setup.pv()["status"]["phase"] == "Bound"


async def test_who_leads_again_lists_all_entries_before_it_makes_a_volume_it_once_observed() -> (
    None
):
    """The volume of somebody who writes entries was in replacement when the Lease was lost. Another
    leader crashed since, and left the volume of somebody else absent.
    """
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        bind(cluster, EVIL, "n1", handle="own")
        await asyncio.sleep(1.0)
        linstor.place("own", "n2")
        setup = setup_on(cluster, linstor)
        setup.faults.refuse("create", Unreachable)
        async with setup.at_work():
            setup.queue.add(ResourceName("own"), source="promotion")
            await until(lambda: cluster.get("persistentvolumes", EVIL) is None)
            leads(setup, leading=False)
            await asyncio.sleep(30.0)
        setup.faults.allow("create")
        setup.queue.closed = False
        bind(cluster, "sibling", "n2", handle=f"{VICTIM}/1")
        crashed = (await left_by_a_crash(cluster, linstor)).entries
        forged = entry(volume_for(setup.claim(EVIL), VICTIM), f"{VICTIM}/0")
        setup.journal.entries = {**crashed, EVIL: forged}
        setup.journal.at_a_time = 1
        listed = setup.journal.all

        async def slowly() -> Listed:
            await asyncio.sleep(0.5)
            return await listed()

        instead(setup.journal, all=slowly)
        leads(setup, leading=True)
        async with setup.at_work():
            first = asyncio.create_task(setup.full_reconciler.reconcile_all("start"), name="first")
            await asyncio.sleep(0.7)
            setup.queue.add(ResourceName("own"), source="promotion")
            await first
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", EVIL) is None


async def test_nothing_is_resumed_any_more_when_the_leadership_is_lost() -> None:
    """Between two volumes of one resource; the next leader resumes the others."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        for number in range(3):
            forged = volume_for(None, PV)
            forged["metadata"]["name"] = f"pv-{number}"
            setup.journal.entries[PvName(f"pv-{number}")] = entry(forged, f"{PV}/0")
        tried, resume = list[str](), setup.replacer.resume

        async def resume_and_lose_the_lease(name: PvName) -> Any:
            tried.append(name)
            ended = await resume(name)
            setup.leadership.leading = False
            return ended

        instead(setup.replacer, resume=resume_and_lose_the_lease)
        async with setup.at_work():
            await setup.full_reconciler.reconcile_all("leading")
            await until(lambda: tried)
            await asyncio.sleep(60.0)

            assert len(tried) == 1
