"""A volume that the reference controller left absent is not lost, whatever is in the journal."""

import copy
import json
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import Invalid
from linstor_affinity_events.model.keys import SKIP_RECLAIM_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest
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


def phase_of_claim(cluster: FakeCluster, name: str) -> str:
    found = cluster.get("persistentvolumeclaims", name, "default")
    assert found is not None
    return str((found.get("status") or {}).get("phase"))


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


async def test_no_volume_is_released_for_one_that_kubernetes_rejects() -> None:
    """Whoever may write to LINSTOR chooses what the saved PV asks for."""
    async with cluster_with(PV) as cluster:
        setup, saved = left_by_the_reference(cluster, absent=False)
        [term] = saved["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][:1]
        term["matchExpressions"][0]["operator"] = "Unknown"
        text = {0: json.dumps(saved)}
        setup.linstor.known[RD] = changed(setup.linstor.known[RD], saved=text)
        create, dry_run = setup.volumes.create, setup.volumes.dry_run_creation

        def validate(manifest: Manifest) -> None:
            if "Unknown" in json.dumps(manifest["spec"]["nodeAffinity"]):
                raise Invalid("spec.nodeAffinity: Invalid value: not a valid selector operator")

        async def create_valid(manifest: Manifest) -> Manifest:
            validate(manifest)
            return await create(manifest)

        async def try_to_create(manifest: Manifest) -> None:
            validate(manifest)
            await dry_run(manifest)

        instead(setup.volumes, create=create_valid, dry_run_creation=try_to_create)
        async with setup.at_work():
            await reconciled(setup, 20)

        assert "deletionTimestamp" in setup.pv()["metadata"]
        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.linstor.known[RD].saved == text
        assert setup.journal.entries == {}


@pytest.mark.parametrize("there", [True, False])
async def test_a_property_of_another_resource_takes_no_name_of_a_provisioned_volume(
    *, there: bool
) -> None:
    """Its saved PV is refused, be the right one there or not."""
    async with cluster_with() as cluster:
        claim = cluster.create(
            "persistentvolumeclaims", manifests.claim("theirs"), namespace="default"
        )
        name = f"pvc-{claim['metadata']['uid']}"
        affinity = manifests.on_nodes(["n1"])
        made = manifests.volume(name, claim=claim, node_affinity=affinity, handle=name)
        forged = manifests.volume(name, claim=claim, node_affinity=affinity, handle="evil")
        cluster.create("persistentvolumes", made)
        await until(lambda: phase_of_claim(cluster, "theirs") == "Bound")
        cluster.patch("persistentvolumes", name, RETAINED)
        cluster.delete("persistentvolumes", name)
        cluster.patch("persistentvolumes", name, NO_FINALIZERS)
        linstor = FakeLinstor("n1", "n2")
        resource, evil = ResourceName(name), ResourceName("evil")
        saved = {evil: forged, resource: made} if there else {evil: forged}
        for each, volume in saved.items():
            linstor.place(each, "n1")
            linstor.known[each] = changed(linstor.known[each], saved={0: json.dumps(volume)})
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            setup.cluster_view.saved = frozenset({evil})
            await setup.replacer.load()
            setup.queue.add(evil)
            await until(lambda: not len(setup.queue))
            await reconciled(setup, 10)

        found = cluster.get("persistentvolumes", name)
        assert (found is not None) is there
        assert found is None or found["spec"]["csi"]["volumeHandle"] == name
        assert linstor.known[evil].saved


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
