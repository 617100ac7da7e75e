"""Those who may write entries, properties or annotations, against the whole engine in memory."""

import asyncio
import gc
import json
import logging
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.engine import saved_volumes
from linstor_affinity_events.errors import AffinityEventsError, Refused, Unreachable
from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
    VolumeKey,
)
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.placement import Definition
from tests.engine.forged_entries import (
    EVIL,
    FORGED,
    REPORTED,
    VICTIM,
    entry,
    foreign_claim,
    is_on,
    reconciled,
    volume_for,
)
from tests.engine.forged_entries import left_absent as volume_left_absent
from tests.engine.setup import (
    PV,
    RD,
    Setup,
    bind,
    cluster_with,
    instead,
    replace,
    setup_on,
    until,
)
from tests.fakes.kube_server import FakeCluster
from tests.fakes.linstor import FakeLinstor
from tests.fakes.volumes import FakeJournal
from tests.testbed import manifests

Json = dict[str, Any]


OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}
NOBODY = {"namespace": "default", "name": "x", "uid": "nobody"}


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"spec": {"accessModes": ["NoSuchMode"]}}, id="what Kubernetes rejects"),
        pytest.param({"metadata": {"creationTimestamp": "x"}}, id="no time"),
        pytest.param({"metadata": {"managedFields": [5]}}, id="no fields"),
        pytest.param({"status": ["x"]}, id="no status"),
    ],
)
async def test_an_entry_for_a_sibling_blocks_no_volume_of_its_resource(
    part: Json, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        forged = volume_for(None, f"{PV}/7")
        forged["spec"] |= {"claimRef": NOBODY, **part.get("spec", {})}
        forged["metadata"] |= part.get("metadata", {})
        forged |= {key: part[key] for key in part if key == "status"}
        setup.journal.entries[EVIL] = entry(forged, f"{PV}/7")
        async with setup.at_work():
            await reconciled(setup, 10)

        assert setup.nodes() == {"n2"}
        assert not [record for record in caplog.records if record.exc_info]


async def test_what_is_kept_of_entries_is_linear_in_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are for the same data, so each is left alone because of all the others."""
    number = 60
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place("unused", "n1")
        setup = setup_on(cluster, linstor)
        for each in range(number):
            forged = volume_for(None, "unused", claimRef=NOBODY)
            forged["metadata"]["name"] = name = f"evil-{each:02}-".ljust(250, "x")
            setup.journal.entries[PvName(name)] = entry(forged, "unused/0")
        async with setup.at_work():
            await reconciled(setup, 10)

        reasons = [
            str(vars(record)["facts"]["message"])
            for record in caplog.records
            if record.message.startswith("unfinished replacement left alone")
        ]
        assert len(reasons) == number
        assert max(map(len, reasons)) < 2000


async def test_an_entry_for_the_writers_own_claim_blocks_no_other_volume() -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        forged = volume_for(foreign_claim(cluster), "unused", accessModes=["NoSuchMode"])
        setup.journal.entries[EVIL] = entry(forged, "unused/0")
        async with setup.at_work():
            await reconciled(setup, 2)
            linstor.place(PV, "n2")
            await reconciled(setup, 3)

        assert setup.replacer.unfinished.absent.blocking == set()
        assert setup.nodes() == {"n2"}


MANY_ENTRIES = 2000


@pytest.mark.parametrize("nodes", [("n2",), ("n1", "n2")], ids=["urgent", "one choice more"])
async def test_any_number_of_unusable_entries_delay_others_only_briefly(
    nodes: tuple[str, ...],
) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        create = setup.volumes.create

        async def slowly(manifest: Manifest) -> Manifest:
            await asyncio.sleep(0.05)
            return await create(manifest)

        instead(setup.volumes, create=slowly)
        for number in range(1000):
            name = f"evil-{number}"
            forged = volume_for(None, name, accessModes=["NoSuchMode"])
            forged["metadata"]["name"] = name
            forged["spec"]["claimRef"] = {"namespace": "default", "name": "x", "uid": "nobody"}
            setup.journal.entries[PvName(name)] = entry(forged, f"{name}/0")
        async with setup.at_work():
            await reconciled(setup, 5)
            linstor.place(PV, *nodes)
            begun = asyncio.get_running_loop().time()
            setup.queue.add(RD, source="promotion")
            sweeping = asyncio.create_task(reconciled(setup, 3), name="sweeping")
            await until(lambda: is_on(cluster, *nodes))
            took = asyncio.get_running_loop().time() - begun
            await sweeping

        assert took < 5.0


def entries_for_others(setup: Setup, others: list[str], number: int) -> None:
    """They are never followed, and never fail: claims use volumes for the same LINSTOR volumes."""
    for each in range(number):
        handle, name = others[each % len(others)], f"evil-{each}"
        forged = volume_for(None, handle)
        forged["metadata"]["name"] = name
        forged["spec"]["claimRef"] = {"namespace": "default", "name": "x", "uid": "nobody"}
        setup.journal.entries[PvName(name)] = entry(forged, f"{handle}/0")


@pytest.mark.parametrize("nodes", [("n2",), ("n1", "n2")], ids=["urgent", "one choice more"])
@pytest.mark.parametrize("of", ["another resource", "the same resource"])
@pytest.mark.parametrize("minutes", [0, 5], ids=["new ones", "known ones"])
async def test_any_number_of_ignored_entries_delay_others_only_briefly(
    nodes: tuple[str, ...], of: str, minutes: int
) -> None:
    others = [f"other-{number}" for number in range(4)]
    async with cluster_with(PV, *others) as cluster:
        linstor = FakeLinstor("n1", "n2")
        for name in (PV, *others):
            linstor.place(name, "n1")
        setup = setup_on(cluster, linstor)
        read, reads = setup.journal.read, 0

        async def slowly(name: PvName) -> JournalEntry | None:
            nonlocal reads
            reads += 1
            await asyncio.sleep(0.01)
            return await read(name)

        instead(setup.journal, read=slowly)
        setup.journal.at_a_time = 10_000
        entries_for_others(setup, others, MANY_ENTRIES)
        victim = PV if of == "another resource" else others[0]
        async with setup.at_work():
            await reconciled(setup, minutes)
            known = reads
            linstor.place(victim, *nodes)
            begun = asyncio.get_running_loop().time()
            setup.queue.add(ResourceName(victim), source="promotion")
            sweeping = asyncio.create_task(reconciled(setup, 1), name="sweeping")
            await until(lambda: setup.nodes(victim) == set(nodes))
            took = asyncio.get_running_loop().time() - begun
            await sweeping

        assert took < 2.0
        if minutes:
            # Once for each, and none is tried again within minutes.
            assert MANY_ENTRIES <= known < 1.05 * MANY_ENTRIES
            assert reads < known + 200


CONTEXT = {"linstor.csi.linbit.com/mount-options": "dev,suid"}
XFS = {"linstor.csi.linbit.com/post-mount-xfs-opts": "open -f /etc/x"}
EXPORT = {"linstor.csi.linbit.com/nfs-export": "nfs://10.6.6.6/all"}
DELETION = "volume.kubernetes.io/provisioner-deletion-secret"
MODIFY = "volume.kubernetes.io/controller-modify-secret"
GROUP = pytest.param(
    {"annotations": {"pv.beta.kubernetes.io/gid": "6"}}, id="a group for the pods that use it"
)
MODIFICATION = pytest.param(
    {"annotations": {f"{MODIFY}-name": "s", f"{MODIFY}-namespace": "kube-system"}},
    id="a Secret for its modification",
)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"spec": {"mountOptions": ["dev", "suid"]}}, id="mount options"),
        pytest.param({"spec": {"csi": {"volumeAttributes": CONTEXT}}}, id="options in the context"),
        pytest.param(
            {"spec": {"csi": {"volumeAttributes": XFS}}}, id="commands to run on the node"
        ),
        pytest.param({"spec": {"csi": {"volumeAttributes": EXPORT}}}, id="another server"),
        pytest.param({"spec": {"csi": {"fsType": "proc"}}}, id="another file system"),
        pytest.param(
            {"spec": {"csi": {"nodeStageSecretRef": {"name": "s", "namespace": "kube-system"}}}},
            id="a Secret of another namespace",
        ),
        pytest.param(
            {"annotations": {"pv.kubernetes.io/provisioned-by": "ebs.csi.aws.com"}},
            id="the provisioner of another driver",
        ),
        pytest.param(
            {"annotations": {"pv.kubernetes.io/migrated-to": "ebs.csi.aws.com"}},
            id="migrated to another driver",
        ),
        pytest.param(
            {"annotations": {f"{DELETION}-name": "s", f"{DELETION}-namespace": "kube-system"}},
            id="a Secret for its deletion",
        ),
        pytest.param({"spec": {"volumeMode": "Block"}}, id="another volume mode"),
        GROUP,
        MODIFICATION,
    ],
)
async def test_a_linstor_property_creates_no_volume_with_additional_powers(
    change: Json,
) -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place("unused", "n1")
        setup = setup_on(cluster, linstor)
        forged = volume_for(foreign_claim(cluster), "unused")
        forged["spec"]["csi"] |= change.get("spec", {}).pop("csi", {})
        forged["spec"] |= change.get("spec", {})
        forged["metadata"]["annotations"] |= change.get("annotations", {})
        name = ResourceName("unused")
        linstor.known[name] = changed(linstor.known[name], saved={0: json.dumps(forged)})
        async with setup.at_work():
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", "evil") is None
        assert setup.journal.entries == {}


async def test_a_volume_from_a_property_gets_no_mount_options_of_another_property() -> None:
    """Without a volume context, as drivers of old made them, linstor-csi reads LINSTOR's."""
    async with cluster_with() as cluster:
        parameters = {"mountOpts": "noatime", "postMountXfsOpts": "extsize 2m"}
        cluster.create("storageclasses", manifests.storage_class("old", parameters))
        linstor = FakeLinstor("n1", "n2")
        linstor.place("unused", "n1")
        setup = setup_on(cluster, linstor)
        saved = volume_for(
            foreign_claim(cluster, storage_class="old"), "unused", storageClassName="old"
        )
        name = ResourceName("unused")
        linstor.known[name] = changed(linstor.known[name], saved={0: json.dumps(saved)})
        async with setup.at_work():
            await reconciled(setup, 3)

        assert "volumeAttributes" not in saved["spec"]["csi"]
        assert setup.pv("evil")["spec"]["csi"]["volumeAttributes"] == {
            "linstor.csi.linbit.com/uses-volume-context": "true",
            "linstor.csi.linbit.com/mount-options": "noatime",
            "linstor.csi.linbit.com/post-mount-xfs-opts": "extsize 2m",
        }


OPTIONS = ["noatime", "discard"]


def volume_with_options(cluster: FakeCluster, *, in_class: bool) -> None:
    """A bound volume on n1 with mount options, which it has from its class or from a person."""
    made = manifests.storage_class("tuned", {"allowRemoteVolumeAccess": "false"})
    cluster.create("storageclasses", made | ({"mountOptions": OPTIONS} if in_class else {}))
    wish = manifests.claim(f"claim-{PV}", storage_class="tuned")
    claim = cluster.create("persistentvolumeclaims", wish, namespace="default")
    nodes = manifests.on_nodes(["n1"])
    volume = manifests.volume(
        PV, claim=claim, node_affinity=nodes, storage_class="tuned", mountOptions=OPTIONS
    )
    cluster.create("persistentvolumes", volume)


async def left_absent(setup: Setup) -> None:
    """The volume is removed, and its replacement is not created."""
    setup.faults.refuse("create", Unreachable)
    async with setup.volumes.watching():
        with pytest.raises(Unreachable):
            await replace(setup, "n2")
    setup.faults.allow("create")


async def absent_with_options(cluster: FakeCluster, *, in_class: bool) -> Setup:
    """The instance that removed a volume with mount options, and could not create the new one."""
    volume_with_options(cluster, in_class=in_class)
    await asyncio.sleep(1.0)
    setup = setup_on(cluster, FakeLinstor("n1", "n2"))
    setup.linstor.place(PV, "n2")
    await left_absent(setup)
    return setup


@pytest.mark.parametrize("in_class", [True, False], ids=["of the class", "of a person"])
async def test_a_volume_with_mount_options_is_recreated_after_a_failure(in_class: bool) -> None:
    """This instance has seen that the original had them."""
    async with cluster_with() as cluster:
        setup = await absent_with_options(cluster, in_class=in_class)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert setup.pv()["spec"]["mountOptions"] == OPTIONS
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.nodes() == {"n2"}


async def test_a_volume_with_the_mount_options_of_its_class_is_recreated_after_a_crash() -> None:
    async with cluster_with() as cluster:
        before = await absent_with_options(cluster, in_class=True)
        setup = setup_on(cluster, before.linstor, journal=before.journal)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert setup.pv()["spec"]["mountOptions"] == OPTIONS
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_mount_options_of_no_class_are_not_recreated_for_a_claim_after_a_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing shows then that no other client wrote them into the entry."""

    async with cluster_with() as cluster:
        before = await absent_with_options(cluster, in_class=False)
        setup = setup_on(cluster, before.linstor, journal=before.journal)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert setup.pv()["status"]["phase"] == "Released"
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        assert setup.pv()["spec"]["claimRef"]["name"].startswith("gone-")
    reported = [
        record.message for record in caplog.records if "reclaim policy Retain" in record.message
    ]
    assert len(reported) == 1


def terminating(cluster: FakeCluster, name: str) -> None:
    """Its deletion waits for the claim that uses it."""
    cluster.delete("persistentvolumes", name)
    found = cluster.get("persistentvolumes", name)
    assert found is not None
    assert found["status"]["phase"] == "Bound"


@pytest.mark.parametrize("state", ["bound", "terminating", "being replaced"])
@pytest.mark.parametrize("by", ["an entry", "a property"])
async def test_no_second_volume_is_created_for_data_that_a_claim_uses(
    state: str, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n1")
        setup = setup_on(cluster, linstor)
        forged, create = volume_for(foreign_claim(cluster), VICTIM), setup.volumes.create

        async def others_created(manifest: Manifest) -> Manifest:
            if manifest["metadata"]["name"] == PV:
                raise Unreachable("not now")
            return await create(manifest)

        async with setup.at_work():
            if state == "terminating":
                terminating(cluster, PV)
            if state == "being replaced":
                linstor.place(VICTIM, "n2")
                instead(setup.volumes, create=others_created)
                setup.queue.add(VICTIM, source="promotion")
                await until(lambda: cluster.get("persistentvolumes", PV) is None)
            if by == "an entry":
                setup.journal.entries[EVIL] = entry(forged, f"{VICTIM}/0")
            else:
                known = changed(linstor.known[VICTIM], saved={0: json.dumps(forged)})
                linstor.known[VICTIM] = known
            setup.queue.add(VICTIM, source="promotion")
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", "evil") is None
    reported = [
        each
        for each in caplog.messages
        if "left alone" in each or "saved PersistentVolume in LINSTOR is ignored" in each
    ]
    assert len(reported) <= 1


@pytest.mark.parametrize("by", ["an entry", "a property"])
async def test_data_retained_by_a_volume_is_given_to_no_other_claim(by: str) -> None:
    """Its claim is gone, and its policy is Retain."""
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM, policy="Retain")
        await asyncio.sleep(1.0)
        cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
        await asyncio.sleep(5.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n1")
        setup = setup_on(cluster, linstor)
        forged = volume_for(foreign_claim(cluster), VICTIM)
        if by == "an entry":
            setup.journal.entries[EVIL] = entry(forged, f"{VICTIM}/0")
        else:
            known = changed(linstor.known[VICTIM], saved={0: json.dumps(forged)})
            linstor.known[VICTIM] = known
        async with setup.at_work():
            await reconciled(setup, 3)

        assert setup.pv()["status"]["phase"] == "Released"
        assert cluster.get("persistentvolumes", EVIL) is None


async def left_by_a_crash(cluster: FakeCluster, linstor: FakeLinstor) -> FakeJournal:
    """A volume for VICTIM was removed by an instance that is gone, and its entry is there."""
    bind(cluster, PV, "n1", handle=VICTIM)
    await asyncio.sleep(1.0)
    linstor.place(VICTIM, "n2")
    before = setup_on(cluster, linstor)
    await volume_left_absent(before, cluster)
    return before.journal


@pytest.mark.parametrize("by", ["an entry", "a property"])
@pytest.mark.parametrize("event", [False, True], ids=["", "an event comes first"])
@pytest.mark.parametrize("at_a_time", [1000, 1])
async def test_data_of_a_volume_left_absent_by_a_crash_is_given_to_no_other_claim(
    by: str, event: bool, at_a_time: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A sibling is there, so that the resource is reconciled before any entry was listed."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        journal = await left_by_a_crash(cluster, linstor)
        bind(cluster, "sibling", "n2", handle=f"{VICTIM}/1")
        forged = volume_for(foreign_claim(cluster), VICTIM)
        if by == "an entry":
            journal.entries[EVIL] = entry(forged, f"{VICTIM}/0")
        else:
            known = changed(linstor.known[VICTIM], saved={0: json.dumps(forged)})
            linstor.known[VICTIM] = known
        journal.at_a_time = at_a_time
        setup = setup_on(cluster, linstor, journal=journal)
        async with setup.at_work():
            if event:
                setup.queue.add(VICTIM, source="promotion")
                await asyncio.sleep(5.0)
            await reconciled(setup, 3)

        assert EVIL < PV
        assert cluster.get("persistentvolumes", EVIL) is None
        assert is_on(cluster, "n2") == (by == "a property")
        assert "unexpected error" not in caplog.text


@pytest.mark.parametrize("at_a_time", [1000, 3])
async def test_a_volume_left_absent_by_a_crash_is_recreated_at_once(at_a_time: int) -> None:
    """However many other entries are listed before its own, and in however many parts."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        journal = await left_by_a_crash(cluster, linstor)
        for number in range(20):
            name = PvName(f"evil-{number}")
            forged = volume_for(None, name)
            forged["metadata"]["name"] = name
            journal.entries[name] = entry(forged, f"{name}/0")
        journal.at_a_time = at_a_time
        setup = setup_on(cluster, linstor, journal=journal)
        async with setup.at_work():
            await setup.full_reconciler.reconcile_all("start")
            await until(lambda: is_on(cluster, "n2"), within=1.0)


@pytest.mark.parametrize("by", ["an entry", "a property"])
async def test_a_new_leader_lists_all_entries_before_it_creates_an_absent_volume(
    by: str,
) -> None:
    """It has listed them when it led before, and knows of the property since."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n1")
        journal = FakeJournal()
        setup = setup_on(cluster, linstor, journal=journal, holder="standby")
        forged = volume_for(foreign_claim(cluster), VICTIM)
        async with setup.at_work():
            await reconciled(setup, 1)
            setup.leadership.leading = False
            setup.engine.leadership_changed(leading=False)
            journal.entries |= (await left_by_a_crash(cluster, linstor)).entries
            if by == "an entry":
                setup.replacer.unfinished.pending.add(EVIL, VolumeKey(VICTIM))
                journal.entries[EVIL] = entry(forged, f"{VICTIM}/0")
            else:
                saved = changed(linstor.known[VICTIM], saved={0: json.dumps(forged)})
                linstor.known[VICTIM] = saved
                await setup.full_reconciler.reconcile_all("a cause")
            setup.leadership.leading = True
            setup.queue.add(VICTIM, source="promotion")
            await asyncio.sleep(5.0)
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", EVIL) is None


@pytest.mark.parametrize("crash", [False, True])
async def test_of_two_entries_for_the_same_data_only_an_observed_volume_is_recreated(
    crash: bool,
) -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        bind(cluster, "copy", "n2", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        await volume_left_absent(setup, cluster)
        after = setup_on(cluster, linstor, journal=setup.journal) if crash else setup
        async with after.at_work():
            await reconciled(after, 3)

        assert (cluster.get("persistentvolumes", PV) is None) == crash
        assert (PV in setup.journal.entries) == crash


async def test_a_manually_rebound_volume_is_recreated_after_a_failure() -> None:
    """Its resource was provisioned for a claim that is gone."""
    async with cluster_with() as cluster:
        resource = "pvc-11111111-2222-4333-8444-555555555555"
        bind(cluster, PV, "n1", handle=resource)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(resource, "n2")
        setup = setup_on(cluster, linstor)
        setup.faults.refuse("create", Unreachable)
        async with setup.at_work():
            setup.queue.add(ResourceName(resource), source="promotion")
            await asyncio.sleep(60.0)
            assert cluster.get("persistentvolumes", PV) is None
            setup.faults.allow("create")
            await reconciled(setup, 2)

        assert setup.nodes() == {"n2"}
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_no_volume_is_recreated_before_the_classes_are_known() -> None:
    async with cluster_with() as cluster:
        volume_with_options(cluster, in_class=True)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        before = setup_on(cluster, linstor)
        await left_absent(before)
        setup = setup_on(cluster, linstor, journal=before.journal)
        await setup.replacer.load()
        with pytest.raises(Unreachable):
            await setup.replacer.resume(PV)

        assert cluster.get("persistentvolumes", PV) is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"mountOptions": ["dev", "suid"]}, id="mount options"),
        pytest.param({"csi": {"volumeAttributes": CONTEXT}}, id="options in the context"),
        pytest.param({"csi": {"volumeAttributes": XFS}}, id="commands to run on the node"),
        pytest.param({"csi": {"volumeAttributes": EXPORT}}, id="another server"),
        pytest.param({"csi": {"fsType": "proc"}}, id="another file system"),
        pytest.param({"volumeMode": "Block"}, id="another volume mode"),
        pytest.param(
            {"csi": {"nodeStageSecretRef": {"name": "s", "namespace": "kube-system"}}},
            id="a Secret of another namespace",
        ),
        pytest.param(
            {"annotations": {"pv.kubernetes.io/provisioned-by": "ebs.csi.aws.com"}},
            id="the provisioner of another driver",
        ),
        pytest.param({"metadata": {"ownerReferences": [OWNER]}}, id="an owner"),
        GROUP,
        MODIFICATION,
    ],
)
async def test_an_entry_gives_no_claim_a_volume_with_additional_powers(change: Json) -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place("unused", "n1")
        setup = setup_on(cluster, linstor)
        forged = volume_for(foreign_claim(cluster), "unused")
        forged["spec"]["csi"] |= change.get("csi", {})
        forged["metadata"]["annotations"] |= change.get("annotations", {})
        forged["metadata"] |= change.get("metadata", {})
        elsewhere = {"csi", "annotations", "metadata"}
        forged["spec"] |= {k: v for k, v in change.items() if k not in elsewhere}
        setup.journal.entries[EVIL] = entry(forged, "unused/0")
        async with setup.at_work():
            await reconciled(setup, 3)

        claim = cluster.get("persistentvolumeclaims", "evil", "default")
        assert claim is not None
        assert claim["status"].get("phase") != "Bound"
        assert setup.pv("evil")["status"]["phase"] == "Released"
        assert setup.journal.entries == {}


async def test_a_claim_for_a_block_device_gets_its_volume_by_an_entry() -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place("unused", "n1")
        setup = setup_on(cluster, linstor)
        absent = volume_for(foreign_claim(cluster, mode="Block"), "unused", volumeMode="Block")
        setup.journal.entries[EVIL] = entry(absent, "unused/0")
        async with setup.at_work():
            await reconciled(setup, 3)

        assert setup.pv("evil")["status"]["phase"] == "Bound"


async def test_forged_markers_change_no_retain_to_delete() -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        bind(cluster, PV, "n1", policy="Retain")
        await asyncio.sleep(1.0)
        setup = setup_on(cluster, linstor)
        marks = {SKIP_RECLAIM_ANNOTATION: "true", MARKER_ANNOTATION: REPORTED}
        finalizers = [*setup.pv()["metadata"]["finalizers"], FINALIZER]
        patch = {"metadata": {"finalizers": finalizers, "annotations": marks}}
        cluster.patch("persistentvolumes", PV, patch, writer=FORGED)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


async def test_an_annotation_during_a_replacement_changes_no_retain_to_delete() -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        bind(cluster, PV, "n1", policy="Retain")
        await asyncio.sleep(1.0)
        setup = setup_on(cluster, linstor)
        delete = setup.volumes.delete

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            patch = {"metadata": {"annotations": {MARKER_ANNOTATION: REPORTED}}}
            cluster.patch("persistentvolumes", PV, patch, writer=FORGED)
            return response

        instead(setup.volumes, delete=deleted)
        async with setup.volumes.watching():
            await replace(setup, "n2")

        assert setup.nodes() == {"n2"}
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


async def test_if_markers_and_entry_disagree_retain_wins() -> None:
    """An instance was killed before it deleted the volume, which then was resized."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        bind(cluster, PV, "n1", policy="Retain")
        await asyncio.sleep(1.0)
        setup = setup_on(cluster, linstor)
        entry = JournalEntry.begin(setup.pv(), VolumeKey(RD), NO_AFFINITY, holder="killed")
        await setup.journal.create(entry)
        marks = {SKIP_RECLAIM_ANNOTATION: "true", MARKER_ANNOTATION: REPORTED}
        finalizers = [*setup.pv()["metadata"]["finalizers"], FINALIZER]
        patch = {
            "metadata": {"finalizers": finalizers, "annotations": marks},
            "spec": {"capacity": {"storage": "2Gi"}},
        }
        cluster.patch("persistentvolumes", PV, patch, writer=FORGED)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


async def test_an_entry_that_is_no_longer_writable_stops_no_volume() -> None:
    """An annotation made to be too large for it is one way to that."""
    async with cluster_with(PV, "pvc-2") as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        linstor.place("pvc-2", "n1")
        setup = setup_on(cluster, linstor)
        save, delete = setup.journal.save, setup.volumes.delete

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            patch = {"metadata": {"annotations": {"large": "x" * 1000}}}
            cluster.patch("persistentvolumes", manifest["metadata"]["name"], patch)
            return response

        async def saved(entry: JournalEntry) -> JournalEntry:
            if "large" in entry.wanted["metadata"]["annotations"]:
                raise Refused("too large")
            return await save(entry)

        instead(setup.volumes, delete=deleted)
        instead(setup.journal, save=saved)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(30.0)
            instead(setup.volumes, delete=delete)
            linstor.place("pvc-2", "n2")
            await reconciled(setup, 3)

        assert setup.nodes("pvc-2") == setup.nodes(PV) == {"n2"}
        assert setup.pv()["metadata"]["annotations"]["large"] == "x" * 1000
        assert setup.journal.entries == {}


@pytest.mark.parametrize("error", [Refused, Unreachable])
async def test_an_entry_rewritten_by_another_client_is_not_trusted(
    error: Callable[[str], AffinityEventsError],
) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        create, attempts, given = setup.volumes.create, 0, set[str]()
        wish = manifests.claim("evil")
        wish["spec"]["volumeName"] = PV
        other_claim = cluster.create("persistentvolumeclaims", wish, namespace="default")

        async def created(manifest: Manifest) -> Manifest:
            nonlocal attempts
            given.add(manifest["spec"]["claimRef"]["uid"])
            if cluster.get("persistentvolumes", PV) is None:
                attempts += 1
            if attempts in {1, 2}:
                # Whoever may write ConfigMaps is quicker, and the first attempts fail.
                version, tree = deepcopy(setup.journal.entries[PV])
                ref = tree["wanted"]["spec"]["claimRef"]
                ref |= {"name": "evil", "uid": other_claim["metadata"]["uid"]}
                tree["claim"] = {key: ref[key] for key in ("namespace", "name", "uid")}
                setup.journal.entries[PV] = (version + "0", tree)
                raise error("not now")
            return await create(manifest)

        instead(setup.volumes, create=created)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 5)

        claim = cluster.get("persistentvolumeclaims", "evil", "default")
        assert attempts > 2
        assert other_claim["metadata"]["uid"] not in given
        assert claim is not None
        assert claim["status"].get("phase") != "Bound"


async def test_saved_pvs_of_one_user_do_not_delay_others() -> None:
    """Two are for the same LINSTOR volume, one of them can't be created, and a third is junk."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        linstor.place("mine", "n1")
        saved = {3: "junk"}
        for number in (-1, 0):
            name = f"evil-{number + 1}"
            wish = manifests.claim(name)
            wish["spec"]["volumeName"] = name
            made = cluster.create("persistentvolumeclaims", wish, namespace="default")
            affinity = manifests.on_nodes(["n1"])
            saved[number] = json.dumps(
                manifests.volume(name, claim=made, node_affinity=affinity, handle="mine")
            )
        mine = ResourceName("mine")
        linstor.known[mine] = changed(linstor.known[mine], saved=saved)
        setup = setup_on(cluster, linstor)
        create = setup.volumes.create

        async def created(manifest: Manifest) -> Manifest:
            if manifest["metadata"]["name"] != PV:
                raise Refused("a policy does not allow that")
            return await create(manifest)

        instead(setup.volumes, create=created)
        async with setup.at_work():
            await reconciled(setup, 3)
            assert setup.replacer.unfinished.of(mine)
            before = len(linstor.asked)
            linstor.place(PV, "n1", "n2")
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n1", "n2"), within=30.0)

            assert len(linstor.asked) < before + 200


async def test_an_unusable_entry_and_saved_pv_do_not_delay_a_volume() -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        linstor.known[RD] = changed(linstor.known[RD], saved={3: "junk"})
        setup = setup_on(cluster, linstor)
        setup.journal.entries[EVIL] = entry(volume_for(foreign_claim(cluster), PV), f"{PV}/0")
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n2"), within=60.0)

            assert len(linstor.asked) < 200


async def test_saved_volumes_that_linstor_has_no_longer_are_not_remembered() -> None:
    """Whoever writes to LINSTOR can have them come under ever new names."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        kept = list[int]()
        async with setup.at_work():
            for attempt in range(5):
                names = [ResourceName(f"evil-{attempt}-{number}") for number in range(20)]
                for name in names:
                    linstor.known[name] = Definition(resource=name, saved={0: "x" * 4096})
                await reconciled(setup, 1)
                kept.append(setup.reconciler.remembered())
                for name in names:
                    del linstor.known[name]
                await reconciled(setup, 1)

        assert min(kept) >= 20
        assert max(kept) == kept[0]
        assert setup.reconciler.remembered() == 0


async def test_so_many_refused_saved_volumes_are_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While there are so many, others are not even tried."""
    monkeypatch.setattr(saved_volumes, "MOST_REFUSED", 20)
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        for number in range(50):
            name = ResourceName(f"evil-{number}")
            linstor.known[name] = Definition(resource=name, saved={0: "x"})
        async with setup.at_work():
            await reconciled(setup, 2)
            assert setup.reconciler.remembered() == 20
            assert caplog.text.count("no further ones are read") == 1
            for name in [name for name in linstor.known if name.startswith("evil")][:40]:
                del linstor.known[name]
            await reconciled(setup, 2)

        assert setup.reconciler.remembered() == 10


async def test_saved_volumes_under_ever_new_numbers_are_not_remembered() -> None:
    """Only those count that LINSTOR has: else one definition would keep all others from being
    taken over.
    """
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        name = ResourceName("evil")
        async with setup.at_work():
            for first in range(0, 50, 10):
                saved = {first + number: "x" for number in range(10)}
                linstor.known[name] = Definition(resource=name, saved=saved)
                await reconciled(setup, 1)

            assert setup.reconciler.remembered() == 10


async def test_of_the_placement_of_a_resource_without_volume_nothing_is_kept() -> None:
    """LINSTOR may say that it has a saved volume, and that its replicas change."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        name = ResourceName("evil")
        linstor.place("evil", "n1", flags={"n1": "DELETING"})
        linstor.known[name] = Definition(resource=name, saved={0: "x"})
        async with setup.at_work():
            await reconciled(setup, 1)

            assert setup.reconciler.remembered() == 1


async def test_the_text_of_a_saved_volume_is_not_kept() -> None:
    """It may be long, and there may be many."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        name = ResourceName("evil")
        async with setup.at_work():
            await reconciled(setup, 1)
            tracemalloc.start()
            linstor.known[name] = Definition(resource=name, saved={0: "x" * 1_000_000})
            await reconciled(setup, 1)
            del linstor.known[name]
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()

            assert setup.reconciler.remembered() > 0
            assert used < 500_000


async def test_why_linstor_keeps_a_saved_volume_is_not_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is what LINSTOR says, which may be long, for as many volumes as there are."""
    caplog.set_level(logging.ERROR)  # pytest keeps the text of the warning
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)

        async def refuse(*_: object) -> None:
            raise Refused("x" * 1_000_000)

        instead(setup.linstor, forget_saved=refuse)
        async with setup.at_work():
            await reconciled(setup, 1)
            saved = deepcopy(setup.pv())
            name = ResourceName(PV)
            tracemalloc.start()
            linstor.known[name] = changed(linstor.known[name], saved={0: json.dumps(saved)})
            await reconciled(setup, 1)
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()

            assert setup.reconciler.remembered() > 0
            assert used < 500_000


async def test_a_rewritten_entry_gives_no_other_resource_to_the_claim_of_a_provisioned_volume() -> (
    None
):
    """After a crash nobody has observed the volume, but linstor-csi names a resource after it."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place("decoy", "n1")
        wish = manifests.claim("data")
        uid = cluster.create("persistentvolumeclaims", wish, namespace="default")["metadata"]["uid"]
        name = PvName(f"pvc-{uid}")
        named = {"spec": {"volumeName": name}}
        claim = cluster.patch("persistentvolumeclaims", "data", named, namespace="default")
        setup = setup_on(cluster, linstor)
        forged = volume_for(claim, "decoy")
        forged["metadata"]["name"] = name
        setup.journal.entries[name] = entry(forged, "decoy/0")
        async with setup.at_work():
            await reconciled(setup, 3)

        after = cluster.get("persistentvolumeclaims", "data", "default")
        assert after is not None
        assert after["spec"]["volumeName"] == name
        assert after["status"].get("phase") != "Bound"
        assert setup.pv(name)["status"]["phase"] == "Released"
        assert setup.pv(name)["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


@pytest.mark.parametrize("class_of_claim", ["tuned", manifests.LOCAL_CLASS])
@pytest.mark.parametrize("by", ["an entry", "a property"])
async def test_a_class_gives_its_mount_options_to_its_own_claims_only(
    class_of_claim: str, by: str
) -> None:
    async with cluster_with() as cluster:
        tuned = manifests.storage_class("tuned", {"allowRemoteVolumeAccess": "false"})
        cluster.create("storageclasses", tuned | {"mountOptions": OPTIONS})
        linstor = FakeLinstor("n1", "n2")
        linstor.place("unused", "n1")
        setup = setup_on(cluster, linstor)
        claim = foreign_claim(cluster, storage_class=class_of_claim)
        forged = volume_for(claim, "unused", storage_class="tuned", mountOptions=OPTIONS)
        if by == "an entry":
            setup.journal.entries[EVIL] = entry(forged, "unused/0")
        else:
            name = ResourceName("unused")
            linstor.known[name] = changed(linstor.known[name], saved={0: json.dumps(forged)})
        async with setup.at_work():
            await reconciled(setup, 3)

        after = cluster.get("persistentvolumeclaims", "evil", "default")
        assert after is not None
        assert (after["status"].get("phase") == "Bound") == (class_of_claim == "tuned")
        if by == "a property" and class_of_claim != "tuned":
            assert cluster.get("persistentvolumes", EVIL) is None


def claims_for_one_name(cluster: FakeCluster) -> tuple[Json, Json, str]:
    """A claim of somebody else, one that asks for the volume which csi-provisioner would make for
    it, and the name of that volume.
    """
    claims = "persistentvolumeclaims"
    other = cluster.create(claims, manifests.claim("theirs"), namespace="default")
    name = f"pvc-{other['metadata']['uid']}"
    wish = manifests.claim("evil")
    wish["spec"]["volumeName"] = name
    return other, cluster.create(claims, wish, namespace="default"), name


@pytest.mark.parametrize("for_claim", ["mine", "theirs"])
@pytest.mark.parametrize("by", ["an entry", "a property"])
async def test_no_volume_takes_the_name_for_the_claim_of_another(by: str, for_claim: str) -> None:
    """The claim waits for csi-provisioner, which would find the name taken."""
    async with cluster_with() as cluster:
        other, mine, name = claims_for_one_name(cluster)
        claim = mine if for_claim == "mine" else other
        resource = ResourceName(f"pvc-{claim['metadata']['uid']}")
        linstor = FakeLinstor("n1", "n2")
        linstor.place(resource, "n1")
        setup = setup_on(cluster, linstor)
        nodes = manifests.on_nodes(["n1"])
        forged = manifests.volume(name, claim=claim, node_affinity=nodes, handle=resource)
        if by == "an entry":
            setup.journal.entries[PvName(name)] = entry(forged, f"{resource}/0")
        else:
            known = changed(linstor.known[resource], saved={0: json.dumps(forged)})
            linstor.known[resource] = known
        async with setup.at_work():
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", name) is None
        assert setup.journal.entries.keys() == ({name} if by == "an entry" else set())


async def test_a_property_of_a_resource_without_owner_takes_no_name_of_another() -> None:
    async with cluster_with() as cluster:
        _, mine, name = claims_for_one_name(cluster)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n1")
        setup = setup_on(cluster, linstor)
        nodes = manifests.on_nodes(["n1"])
        forged = manifests.volume(name, claim=mine, node_affinity=nodes, handle=VICTIM)
        linstor.known[VICTIM] = changed(linstor.known[VICTIM], saved={0: json.dumps(forged)})
        async with setup.at_work():
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", name) is None
        assert setup.journal.entries == {}


@pytest.mark.parametrize("by", ["an entry", "a property"])
async def test_a_class_gives_nothing_to_a_claim_annotated_with_another(by: str) -> None:
    """Quotas go by the annotation."""
    async with cluster_with() as cluster:
        tuned = manifests.storage_class("tuned", {}) | {"mountOptions": ["suid"]}
        cluster.create("storageclasses", tuned)
        wish = manifests.claim("evil", storage_class="tuned")
        wish["spec"]["volumeName"] = "evil"
        wish["metadata"]["annotations"] = {"volume.beta.kubernetes.io/storage-class": "plain"}
        claim = cluster.create("persistentvolumeclaims", wish, namespace="default")
        linstor, name = FakeLinstor("n1", "n2"), ResourceName("unused")
        linstor.place(name, "n1")
        setup = setup_on(cluster, linstor)
        forged = volume_for(claim, name, storageClassName="tuned", mountOptions=["suid"])
        if by == "an entry":
            setup.journal.entries[EVIL] = entry(forged, f"{name}/0")
        else:
            linstor.known[name] = changed(linstor.known[name], saved={0: json.dumps(forged)})
        async with setup.at_work():
            await reconciled(setup, 3)

        made = cluster.get("persistentvolumes", EVIL)
        assert made is None or made["spec"]["claimRef"]["name"].startswith("gone-")
        assert (made is None) == (by == "a property")
