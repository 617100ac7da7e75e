"""A volume that the reference controller left absent is not lost, whatever is in the journal."""

import copy
import json
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.model.keys import SKIP_RECLAIM_ANNOTATION
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.placement import Definition
from tests.engine.forged_entries import reconciled
from tests.engine.setup import PV, RD, Setup, cluster_with, instead, setup_on, until
from tests.fakes.kube_server import FakeCluster
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

Json = dict[str, Any]

RETAINED = {
    "metadata": {"annotations": {SKIP_RECLAIM_ANNOTATION: "true"}},
    "spec": {"persistentVolumeReclaimPolicy": "Retain"},
}
NO_FINALIZERS = {"metadata": {"finalizers": None}}


def left_by_the_reference(cluster: FakeCluster, *, absent: bool) -> tuple[Setup, Json]:
    """The reference controller saved the volume, marked it, and deleted it. Returns what it saved
    as well.
    """
    linstor = FakeLinstor("n1", "n2")
    linstor.place(PV, "n1", "n2")
    setup = setup_on(cluster, linstor)
    saved = copy.deepcopy(setup.pv())
    for key in ("resourceVersion", "creationTimestamp", "managedFields"):
        saved["metadata"].pop(key, None)
    saved.pop("status")
    saved["spec"]["nodeAffinity"] = manifests.on_nodes(["n1", "n2"])
    cluster.patch("persistentvolumes", PV, RETAINED)
    cluster.delete("persistentvolumes", PV)
    if absent:
        cluster.patch("persistentvolumes", PV, NO_FINALIZERS)
    linstor.known[RD] = changed(linstor.known[RD], saved={0: json.dumps(saved)})
    return setup, saved


def forged_from(saved: Json) -> Json:
    """A valid entry for the same volume, according to which nothing was deleted yet."""
    uid, ref = saved["metadata"]["uid"], saved["spec"]["claimRef"]
    wanted = {**saved, "metadata": {k: v for k, v in saved["metadata"].items() if k != "uid"}}
    claim = {key: ref[key] for key in ("namespace", "name", "uid")}
    about = {"format": 1, "pv": PV, "volume": f"{PV}/0", "uid": uid, "claim": claim}
    return {**about, "state": "prepared", "holder": "x", "wanted": wanted}


def without_label(setup: Setup, *names: str) -> None:
    """No list has these entries."""
    everything = setup.journal.all

    async def labelled() -> Listed:
        listed = await everything()
        volumes = {k: v for k, v in listed.volumes.items() if k not in names}
        return changed(listed, volumes=volumes)

    instead(setup.journal, all=labelled)


async def finalizers_gone(cluster: FakeCluster) -> None:
    found = cluster.get("persistentvolumes", PV)
    if found is not None and "deletionTimestamp" in found["metadata"]:
        cluster.patch("persistentvolumes", PV, NO_FINALIZERS)


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "terminating"])
@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "without label"])
async def test_a_forged_entry_does_not_lose_a_saved_volume(absent: bool, labelled: bool) -> None:
    async with cluster_with(PV) as cluster:
        setup, saved = left_by_the_reference(cluster, absent=absent)
        setup.journal.entries[PV] = "1", forged_from(saved)
        if not labelled:
            without_label(setup, PV)
        async with setup.at_work():
            await reconciled(setup, 5)
            await finalizers_gone(cluster)
            await reconciled(setup, 5)

        assert setup.nodes() == {"n1", "n2"}
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert SKIP_RECLAIM_ANNOTATION not in setup.pv()["metadata"]["annotations"]
        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.linstor.known[RD].saved == {}
        assert setup.journal.entries == {}


@pytest.mark.parametrize("attack", ["deleted", "rewritten"])
async def test_a_saved_volume_is_dropped_only_once_the_volume_exists(attack: str) -> None:
    """Others may delete or rewrite the entry that is made from it."""
    async with cluster_with(PV) as cluster:
        setup, saved = left_by_the_reference(cluster, absent=True)
        create, attacks = setup.journal.create, 0

        async def attacked(entry: Any) -> Any:
            nonlocal attacks
            stored = await create(entry)
            attacks += 1
            if attacks == 1 and attack == "deleted":
                del setup.journal.entries[PV]
            elif attacks == 1:
                setup.journal.entries[PV] = "rewritten", forged_from(saved)
            return stored

        instead(setup.journal, create=attacked)
        async with setup.at_work():
            await reconciled(setup, 5)

        assert attacks > 1
        assert setup.nodes() == {"n1", "n2"}
        assert setup.linstor.known[RD].saved == {}
        assert setup.journal.entries == {}


async def test_a_saved_volume_is_not_restored_again_after_it_was_deleted() -> None:
    """Its claim is deleted as well, when LINSTOR still has the property."""
    async with cluster_with(PV) as cluster:
        setup, _ = left_by_the_reference(cluster, absent=True)
        async with setup.at_work():
            await setup.full_reconciler.reconcile_all("start")
            await until(lambda: cluster.get("persistentvolumes", PV) is not None)
            cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
            cluster.delete("persistentvolumes", PV)
            cluster.patch("persistentvolumes", PV, NO_FINALIZERS)
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", PV) is None


@pytest.mark.parametrize(("number", "tries"), [(20, 5), (3000, 1)])
async def test_very_many_saved_volumes_of_nobody_are_tried_less_often(
    number: int, tries: int
) -> None:
    """LINSTOR stores hundreds on one definition, and each try reads from Kubernetes."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        evil = ResourceName("evil")
        saved = {each: json.dumps(of_nobody(evil, each)) for each in range(number)}
        linstor.known[evil] = Definition(resource=evil, saved=saved)
        read, asked = setup.volumes.read, list[str]()

        async def counted(name: PvName) -> Any:
            asked.append(name)
            return await read(name)

        instead(setup.volumes, read=counted)
        async with setup.at_work():
            await reconciled(setup, 5)

        assert len([name for name in asked if name != PV]) == number * tries


def of_nobody(resource: ResourceName, number: int) -> Json:
    metadata = {"namespace": "default", "name": "elsewhere", "uid": "of-another-cluster"}
    claim = {"metadata": {**metadata, "resourceVersion": "1"}}
    handle = f"{resource}/{number}"
    return manifests.volume(f"elsewhere-{number}", claim=claim, node_affinity=None, handle=handle)
