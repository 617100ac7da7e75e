"""Others write to entries and volumes while these are replaced, or are being deleted."""

import asyncio
import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from linstor_affinity_events.errors import Refused, Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import (
    BOUND_BY_CONTROLLER,
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.markers import mark_patch
from linstor_affinity_events.model.names import PvName, ResourceName
from tests.engine.forged_entries import (
    EVIL,
    FORGED,
    VICTIM,
    entry,
    foreign_claim,
    is_on,
    left_absent,
    reconciled,
    volume_for,
)
from tests.engine.setup import (
    PV,
    RD,
    Setup,
    bind,
    cluster_with,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

Json = dict[str, Any]


@pytest.mark.parametrize("finalizer", [None, "backup.example.com/hold"])
@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@pytest.mark.parametrize("skipped", [False, True])
async def test_an_entry_reverts_no_deletion_by_others(
    finalizer: str | None, policy: str, skipped: bool
) -> None:
    """It goes when its claim does, or as its owner wants, with the policy that it has."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        bind(cluster, PV, "n1", policy=policy)
        setup = setup_on(cluster, linstor)
        await until(lambda: setup.pv()["status"].get("phase") == "Bound")
        held = [*setup.pv()["metadata"].get("finalizers", []), *filter(None, [finalizer])]
        skip = {SKIP_RECLAIM_ANNOTATION: "true"} if skipped else {}
        cluster.patch(
            "persistentvolumes", PV, {"metadata": {"finalizers": held, "annotations": skip}}
        )
        cluster.delete("persistentvolumes", PV)
        before = setup.pv()
        forged = manifests.volume(
            PV, claim=setup.claim(), node_affinity=manifests.on_nodes(["n1"]), policy="Delete"
        )
        version, tree = entry(forged, f"{PV}/0")
        setup.journal.entries[PV] = (version, {**tree, "uid": before["metadata"]["uid"]})
        async with setup.at_work():
            await reconciled(setup, 3)

        assert "deletionTimestamp" in before["metadata"]
        assert setup.pv() == before


async def test_a_volume_deleted_by_us_is_recreated_whatever_is_removed_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        patch, stripped = setup.volumes.patch, False

        async def patched(name: PvName, change: Json) -> Manifest:
            nonlocal stripped
            metadata = setup.pv()["metadata"]
            if not stripped and "deletionTimestamp" in metadata:
                stripped = True
                others = [each for each in metadata["finalizers"] if each != FINALIZER]
                assert others
                without_markers = {"finalizers": others, "annotations": {MARKER_ANNOTATION: None}}
                cluster.patch("persistentvolumes", PV, {"metadata": without_markers})
            return await patch(name, change)

        instead(setup.volumes, patch=patched)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n2"), within=60.0)

        assert stripped
        assert "unexpected error" not in caplog.text
        assert "left alone" not in caplog.text


@pytest.mark.parametrize("victim", ["pvc-11111111-2222-4333-8444-555555555555", "victim"])
async def test_an_entry_rewritten_meanwhile_gives_no_claim_another_linstor_volume(
    victim: str,
) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        linstor.place(victim, "n1")
        bind(cluster, "victim", "n1", handle=victim)
        setup = setup_on(cluster, linstor)
        create, attempts = setup.volumes.create, 0

        async def created(manifest: Manifest) -> Manifest:
            nonlocal attempts
            gone = cluster.get("persistentvolumes", PV) is None
            attempts += gone
            if attempts < 3:
                if gone:
                    version, tree = deepcopy(setup.journal.entries[PV])
                    tree["wanted"]["spec"]["csi"]["volumeHandle"] = victim
                    setup.journal.entries[PV] = (version + "0", {**tree, "volume": f"{victim}/0"})
                raise Unreachable("not now")
            return await create(manifest)

        instead(setup.volumes, create=created)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 5)

        assert attempts > 0
        assert setup.pv()["spec"]["csi"]["volumeHandle"] == PV
        assert is_on(cluster, "n2")
        assert setup.journal.entries == {}


async def test_a_rewritten_entry_of_an_unobserved_volume_gives_no_claim_another_linstor_volume(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever writes the entry changes it after it was read first."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place("unused", "n1")
        linstor.place("victim", "n1")
        bind(cluster, PV, "n1", handle="victim")
        await asyncio.sleep(1.0)
        setup = setup_on(cluster, linstor)
        claim = foreign_claim(cluster)
        setup.journal.entries[EVIL] = entry(volume_for(claim, "unused"), "unused/0")
        create, attempts = setup.volumes.create, 0

        async def created(manifest: Manifest) -> Manifest:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                _, tree = entry(volume_for(claim, "victim"), "victim/0")
                setup.journal.entries[EVIL] = ("77", tree)
                raise Unreachable("not now")
            return await create(manifest)

        instead(setup.volumes, create=created)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert attempts == 1
        assert cluster.get("persistentvolumes", EVIL) is None
        assert "left alone" in caplog.text


@pytest.mark.parametrize("how", ["another uid", "no valid entry first", "deleted first"])
@pytest.mark.parametrize("moment", ["while it is away", "while it is tried"])
async def test_an_entry_rewritten_for_another_uid_gives_no_claim_the_volume(
    how: str, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        wish = manifests.claim("evil")
        wish["spec"]["volumeName"] = PV
        other_claim = cluster.create("persistentvolumeclaims", wish, namespace="default")
        create, attempts = setup.volumes.create, 0
        forged = dict[PvName, tuple[str, Json]]()

        def rewrite() -> None:
            version, tree = deepcopy(setup.journal.entries[PV])
            ref = tree["wanted"]["spec"]["claimRef"]
            ref |= {"name": "evil", "uid": other_claim["metadata"]["uid"]}
            claim = {key: ref[key] for key in ("namespace", "name", "uid")}
            forged[PV] = (version + "00", {**tree, "uid": "nobody", "claim": claim})
            if how == "another uid":
                setup.journal.entries |= forged
                return
            bad = (version + "0", {"format": 0, "volume": f"{VICTIM}/0"})
            setup.journal.entries[PV] = bad
            if how == "deleted first":
                del setup.journal.entries[PV]

        async def created(manifest: Manifest) -> Manifest:
            nonlocal attempts
            attempts += cluster.get("persistentvolumes", PV) is None
            if attempts in {1, 2}:
                if not forged:
                    rewrite()
                raise Unreachable("not now")
            return await create(manifest)

        if moment == "while it is away":
            await left_absent(setup, cluster)
            rewrite()
        else:
            instead(setup.volumes, create=created)
        async with setup.at_work():
            setup.queue.add(VICTIM, source="promotion")
            await asyncio.sleep(1.0)
            await reconciled(setup, 3)
            setup.journal.entries |= forged
            await reconciled(setup, 3)

        claim = cluster.get("persistentvolumeclaims", "evil", "default")
        assert forged
        assert claim is not None
        assert claim["status"].get("phase") != "Bound"
        pv = cluster.get("persistentvolumes", PV)
        if moment == "while it is tried":
            # The run that deleted it knows whose it is.
            assert pv is not None
            assert pv["spec"]["claimRef"]["name"] == f"claim-{PV}"
            assert is_on(cluster, "n2")
        else:
            assert pv is None
            assert "left alone" in caplog.text


async def test_observations_of_a_volume_are_dropped_once_it_exists_again() -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        await left_absent(setup, cluster)
        _, tree = setup.journal.entries.pop(PV)
        async with setup.at_work():
            await reconciled(setup, 2)
            assert setup.replacer.unfinished.originals.has_any([PV])
            cluster.create("persistentvolumes", tree["wanted"])
            await reconciled(setup, 2)

            assert not setup.replacer.unfinished.originals.has_any([PV])


async def test_observations_before_another_leader_do_not_block_later_entries() -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        other = setup_on(cluster, linstor, journal=setup.journal, holder="other")
        await left_absent(setup, cluster)
        setup.leadership.leading = False
        setup.engine.leadership_changed(leading=False)
        async with other.at_work():
            await reconciled(other, 2)
        assert is_on(cluster, "n2")
        linstor.place(VICTIM, "n3")
        other.queue.closed = False
        await left_absent(other, cluster)
        setup.leadership.leading = True
        async with setup.at_work():
            await reconciled(setup, 2)

        assert is_on(cluster, "n3")


KEEPS = "example.com/keeps-it"


@pytest.mark.parametrize("finalizer", [KEEPS, "external-attacher/nobody-at-all"])
@pytest.mark.parametrize("crash", [False, True])
async def test_an_entry_gives_a_volume_no_unknown_finalizer(crash: bool, finalizer: str) -> None:
    """It could never be deleted."""
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        delete, lost = setup.volumes.delete, False

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal lost
            response = await delete(manifest)
            if lost:
                return response
            lost = True
            version, tree = deepcopy(setup.journal.entries[PV])
            tree["wanted"]["metadata"]["finalizers"].append(finalizer)
            setup.journal.entries[PV] = (version + "0", tree)
            raise Unreachable("the answer is lost")

        instead(setup.volumes, delete=deleted)
        if crash:
            await left_absent(setup, cluster)
            setup = setup_on(cluster, linstor, journal=setup.journal)
        async with setup.at_work():
            setup.queue.add(VICTIM, source="promotion")
            await reconciled(setup, 2)

        assert lost
        assert is_on(cluster, "n2")
        assert finalizer not in setup.pv()["metadata"]["finalizers"]


async def test_an_allowed_finalizer_is_on_the_new_volume_after_a_crash() -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor, allowed_finalizers=("example.com/*",))
        held = [*setup.pv()["metadata"]["finalizers"], KEEPS]
        cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": held}})
        await left_absent(setup, cluster)
        after = setup_on(
            cluster, linstor, journal=setup.journal, allowed_finalizers=("example.com/*",)
        )
        async with after.at_work():
            await reconciled(after, 2)

        assert is_on(cluster, "n2")
        assert KEEPS in after.pv()["metadata"]["finalizers"]


MEANWHILE = {
    "provisioner": {"annotations": {"pv.kubernetes.io/migrated-to": "ebs.csi.aws.com"}},
    "secret": {
        "annotations": {
            "volume.kubernetes.io/provisioner-deletion-secret-name": "root",
            "volume.kubernetes.io/provisioner-deletion-secret-namespace": "kube-system",
        }
    },
    "label": {"labels": {"tier": "not-allowed"}},
}


@pytest.mark.parametrize("change", MEANWHILE.values(), ids=MEANWHILE)
async def test_writes_of_others_during_a_replacement_prevent_no_recreation(
    change: Json,
) -> None:
    """Policies of the chart, or of the cluster, may refuse to create what is annotated so."""
    async with cluster_with(PV, "pvc-2") as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        linstor.place("pvc-2", "n1")
        setup = setup_on(cluster, linstor)
        delete, create = setup.volumes.delete, setup.volumes.create

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            cluster.patch("persistentvolumes", manifest["metadata"]["name"], {"metadata": change})
            return response

        async def created(manifest: Manifest) -> Manifest:
            for part, texts in change.items():
                if not texts.items().isdisjoint((manifest["metadata"].get(part) or {}).items()):
                    raise Refused("a policy does not allow that")
            return await create(manifest)

        instead(setup.volumes, delete=deleted, create=created)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n2"), within=60.0)
            linstor.place("pvc-2", "n2")
            setup.queue.add(ResourceName("pvc-2"), source="promotion")
            await until(lambda: setup.nodes("pvc-2") == {"n2"}, within=60.0)

        assert setup.replacer.unfinished.absent.blocking == set()


@pytest.mark.parametrize("part", ["labels", "annotations"])
async def test_a_rejected_change_of_others_discards_no_other_change(
    part: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        delete, create, patch = setup.volumes.delete, setup.volumes.create, setup.volumes.patch

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            cluster.patch("persistentvolumes", PV, {"metadata": {part: {"evil": "x"}}})
            others = {"spec": {"capacity": {"storage": "5Gi"}}, "metadata": {part: {"team": "red"}}}
            cluster.patch("persistentvolumes", PV, others)
            return response

        def check(manifest: Manifest) -> None:
            if "evil" in ((manifest.get("metadata") or {}).get(part) or {}):
                raise Refused("a policy does not allow that")

        async def created(manifest: Manifest) -> Manifest:
            check(manifest)
            return await create(manifest)

        async def patched(name: PvName, change: Json) -> Manifest:
            check(change)
            return await patch(name, change)

        instead(setup.volumes, delete=deleted, create=created, patch=patched)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n2"), within=60.0)
            await asyncio.sleep(5.0)

        assert setup.pv()["spec"]["capacity"] == {"storage": "5Gi"}
        assert setup.pv()["metadata"][part]["team"] == "red"
        assert "evil" not in setup.pv()["metadata"][part]
        reported = [
            each for each in caplog.records if "Kubernetes rejected that change" in each.message
        ]
        assert [each.levelname for each in reported] == ["ERROR"]


async def test_a_rejected_claim_ref_blocks_no_other_volume() -> None:
    async with cluster_with(PV, "pvc-2") as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        linstor.place("pvc-2", "n1")
        setup = setup_on(cluster, linstor)
        delete, create = setup.volumes.delete, setup.volumes.create

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            claim = {"namespace": "elsewhere", "name": "other", "uid": "other"}
            cluster.patch("persistentvolumes", PV, {"spec": {"claimRef": claim}})
            return response

        async def created(manifest: Manifest) -> Manifest:
            if manifest["spec"]["claimRef"]["namespace"] == "elsewhere":
                raise Refused("its Secrets are not of that namespace")
            return await create(manifest)

        instead(setup.volumes, delete=deleted, create=created)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: PV in setup.replacer.unfinished.absent.stuck, within=60.0)
            instead(setup.volumes, delete=delete)
            linstor.place("pvc-2", "n2")
            setup.queue.add(ResourceName("pvc-2"), source="promotion")
            await until(lambda: setup.nodes("pvc-2") == {"n2"}, within=60.0)


RESTORED = json.dumps({"reclaimPolicy": "Delete", "skipReclaim": None})
MARKERS = {
    "both": {"finalizers": [FINALIZER], "annotations": {MARKER_ANNOTATION: RESTORED}},
    "the finalizer": {"finalizers": [FINALIZER]},
    "the annotation": {"annotations": {MARKER_ANNOTATION: RESTORED}},
}


@pytest.mark.parametrize("markers", MARKERS.values(), ids=MARKERS)
async def test_an_entry_with_replacement_markers_has_no_volume_made(
    markers: Json, caplog: pytest.LogCaptureFixture
) -> None:
    """Its policy would become Delete once the markers are removed by a second entry."""
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1")
        linstor.place("unused", "n1")
        setup = setup_on(cluster, linstor)
        forged = volume_for(None, "unused")
        forged["metadata"] |= {"finalizers": markers.get("finalizers", [])}
        forged["metadata"]["annotations"] |= {
            SKIP_RECLAIM_ANNOTATION: "true",
            **markers.get("annotations", {}),
        }
        setup.journal.entries[EVIL] = entry(forged, "unused/0")
        create = setup.volumes.create

        async def created(manifest: Manifest) -> Manifest:
            made = await create(manifest)
            _, tree = entry(forged, "unused/0")
            tree |= {"uid": made["metadata"]["uid"], "state": "prepared"}
            setup.journal.entries[EVIL] = ("77", tree)
            return made

        instead(setup.volumes, create=created)
        async with setup.at_work():
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", EVIL) is None
        assert "journal entry is not valid" in caplog.text


@pytest.mark.parametrize("nodes", [("n2",), ("n1", "n2")], ids=["urgent", "one choice more"])
async def test_entries_for_volumes_that_exist_make_no_change_wait(nodes: tuple[str, ...]) -> None:
    """This instance recreated them once, and their entries name a claim that is never bound."""
    own = [f"own-{number}" for number in range(60)]
    async with cluster_with(PV, *own) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        for name in own:
            linstor.place(name, "n2")
        setup = setup_on(cluster, linstor)
        claim = foreign_claim(cluster)
        async with setup.at_work():
            await reconciled(setup, 3)
            assert all(setup.nodes(name) == {"n2"} for name in own)
            for name in own:
                forged = manifests.volume(
                    name, claim=claim, node_affinity=manifests.on_nodes(["n2"])
                )
                setup.journal.entries[PvName(name)] = entry(forged, f"{name}/0")
            await setup.full_reconciler.reconcile_all("period")
            linstor.place(PV, *nodes)
            begun = asyncio.get_running_loop().time()
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, *nodes))
            took = asyncio.get_running_loop().time() - begun
            await reconciled(setup, 1)

        assert took < 5.0
        assert setup.journal.entries == {}


async def see_other_volume_replaced(*, forgotten: bool, **rewritten: Any) -> None:
    """Kubernetes rejects the creation of a volume for a moment, while its entry is rewritten and
    another volume moves. `forgotten` is for a run that does not go on with what it wrote itself.
    """
    async with cluster_with(PV, "pvc-2") as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        linstor.place("pvc-2", "n1")
        setup = setup_on(cluster, linstor)
        setup.faults.refuse("create")
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: setup.replacer.unfinished.absent.blocking)
            if forgotten:
                setup.replacer._interrupted.ended(PV)
            version, tree = deepcopy(setup.journal.entries[PV])
            setup.journal.entries[PV] = (version + "0", {**tree, **rewritten})
            setup.faults.allow("create")
            linstor.place("pvc-2", "n2")
            await reconciled(setup, 5)

        assert setup.nodes("pvc-2") == {"n2"}


async def test_an_entry_that_is_left_alone_blocks_no_other_replacement(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A webhook rejected the volume for a moment, and its entry is not to be trusted any more."""
    await see_other_volume_replaced(forgotten=True, uid="nobody")

    assert "left alone" in caplog.text


async def test_an_entry_that_is_made_unreadable_blocks_no_other_replacement() -> None:
    await see_other_volume_replaced(forgotten=False, format=0)


def rewritten_once(setup: Setup, rewrite: Callable[[Json], None]) -> None:
    """Another client rewrites the entry while the volume is being marked."""
    save, done = setup.journal.save, False

    async def saved(entry: JournalEntry) -> JournalEntry:
        nonlocal done
        if not done:
            done = True
            _, tree = deepcopy(setup.journal.entries[PV])
            rewrite(tree)
            setup.journal.entries[PV] = "rewritten", tree
        return await save(entry)

    instead(setup.journal, save=saved)


def for_another_claim(tree: Json) -> None:
    for ref in (tree["claim"], tree["wanted"]["spec"]["claimRef"]):
        ref["name"] = "another"


def for_another_resource(tree: Json) -> None:
    tree["volume"], tree["wanted"]["spec"]["csi"]["volumeHandle"] = "another/0", "another"


def for_another_incarnation(tree: Json) -> None:
    tree["uid"] = "another"


def unreadable(tree: Json) -> None:
    tree["format"] = 0


def with_retain(tree: Json) -> None:
    tree["wanted"]["spec"]["persistentVolumeReclaimPolicy"] = "Retain"


def with_skip_reclaim(tree: Json) -> None:
    tree["wanted"]["metadata"]["annotations"][SKIP_RECLAIM_ANNOTATION] = "true"


@pytest.mark.parametrize(
    "rewrite",
    [
        for_another_claim,
        for_another_resource,
        for_another_incarnation,
        unreadable,
        with_retain,
        with_skip_reclaim,
    ],
)
async def test_an_entry_rewritten_while_its_volume_is_marked_leaves_no_retain(
    rewrite: Callable[[Json], None],
) -> None:
    async with one_setup("n2") as setup:
        rewritten_once(setup, rewrite)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(30.0)
            await reconciled(setup, 5)

        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert (
            setup.pv()["metadata"]["annotations"]
            .keys()
            .isdisjoint({SKIP_RECLAIM_ANNOTATION, MARKER_ANNOTATION, ORIGINAL_POLICY_ANNOTATION})
        )
        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
        if rewrite not in {for_another_resource, unreadable}:
            assert setup.nodes() == {"n2"}
            assert setup.journal.entries == {}


def for_other_nodes(tree: Json) -> None:
    tree["wanted"]["spec"]["nodeAffinity"] = manifests.on_nodes(["n9"])


def for_any_node(tree: Json) -> None:
    del tree["wanted"]["spec"]["nodeAffinity"]


def bound_by_the_binder(tree: Json) -> None:
    """It would remove the claimRef."""
    tree["wanted"]["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes"


def for_a_claim_of_another_kind(tree: Json) -> None:
    tree["wanted"]["spec"]["claimRef"]["kind"] = "Pod"


@pytest.mark.parametrize(
    "rewrite", [for_other_nodes, for_any_node, bound_by_the_binder, for_a_claim_of_another_kind]
)
async def test_an_entry_rewritten_while_its_volume_is_marked_is_not_followed(
    rewrite: Callable[[Json], None],
) -> None:
    async with one_setup("n2") as setup:
        before, create = setup.pv(), setup.volumes.create
        rewritten_once(setup, rewrite)
        asked_for = list[Manifest]()

        async def created(manifest: Manifest) -> Manifest:
            asked_for.append(manifest)
            return await create(manifest)

        instead(setup.volumes, create=created)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 2)

        assert all(manifests.nodes_of(dict(each)) == {"n2"} for each in asked_for)
        assert setup.nodes() == {"n2"}
        assert setup.pv()["metadata"]["annotations"] == before["metadata"]["annotations"]
        assert setup.pv()["spec"]["claimRef"] == before["spec"]["claimRef"]
        assert setup.journal.entries == {}


@pytest.mark.parametrize(
    "then",
    [
        "nothing else",
        "the annotation is removed",
        "the entry is put back",
    ],
)
@pytest.mark.parametrize("elected", [True, False])
async def test_a_volume_that_another_instance_marked_meanwhile_keeps_its_policy(
    then: str, *, elected: bool
) -> None:
    """It dropped the entry and began again, after an administrator had set Retain. Both lead,
    without election or until the Lease is read again.
    """
    async with one_setup("n2") as setup:
        setup.leadership.exclusive = elected
        setup.leadership.lease_is_another = elected

        def marked_by_another(tree: Json) -> None:
            retain = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
            setup.cluster.patch("persistentvolumes", PV, retain)
            by_another = mark_patch(setup.pv(), "another")
            setup.cluster.patch("persistentvolumes", PV, by_another, writer=FORGED)
            if then == "the annotation is removed":
                removed = {"metadata": {"annotations": {MARKER_ANNOTATION: None}}}
                setup.cluster.patch("persistentvolumes", PV, removed)
            if then != "the entry is put back":
                for_other_nodes(tree)
                with_retain(tree)
                tree["holder"] = "another"

        patch = setup.volumes.patch

        async def patched(name: PvName, change: Json) -> Manifest:
            # The entry, and the other instance's marks, come first.
            await asyncio.sleep(0.1)
            return await patch(name, change)

        instead(setup.volumes, patch=patched)
        rewritten_once(setup, marked_by_another)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 5)

        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
        assert setup.nodes() == {"n2"}


def without_protection(tree: Json) -> None:
    tree["wanted"]["metadata"]["annotations"].pop(SKIP_RECLAIM_ANNOTATION)
    tree["wanted"]["spec"]["persistentVolumeReclaimPolicy"] = "Delete"


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@pytest.mark.parametrize("when", ["while it is marked", "while it is absent"])
async def test_a_rewritten_entry_takes_no_protection_off_its_volume(when: str, policy: str) -> None:
    """The instance that resumes the replacement has observed what it had."""
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", policy=policy)
        await asyncio.sleep(1.0)
        protected = {"metadata": {"annotations": {SKIP_RECLAIM_ANNOTATION: "true"}}}
        cluster.patch("persistentvolumes", PV, protected)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        if when == "while it is marked":
            rewritten_once(setup, without_protection)
        else:
            setup.faults.refuse("create", Unreachable)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            if when == "while it is absent":
                await until(lambda: cluster.get("persistentvolumes", PV) is None)
                _, tree = deepcopy(setup.journal.entries[PV])
                without_protection(tree)
                setup.journal.entries[PV] = "rewritten", tree
                setup.faults.allow("create")
            await until(lambda: is_on(cluster, "n2"), within=60.0)
            await reconciled(setup, 2)

        assert setup.pv()["metadata"]["annotations"][SKIP_RECLAIM_ANNOTATION] == "true"
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == policy
        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.journal.entries == {}


async def test_a_volume_of_a_claim_is_free_for_no_other_though_its_entry_names_none() -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", handle=VICTIM)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        await left_absent(setup, cluster)
        version, tree = deepcopy(setup.journal.entries[PV])
        del tree["wanted"]["spec"]["claimRef"]
        setup.journal.entries[PV] = (version + "0", {**tree, "claim": None})
        async with setup.at_work():
            await reconciled(setup, 3)

        ref = setup.pv()["spec"]["claimRef"]
        assert ref["uid"].startswith("gone-")
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


async def test_an_entry_of_another_instance_that_is_gone_is_not_followed_any_more() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1"))
        setup.journal.entries[PV] = "1", {"format": 0, "volume": f"{PV}/0"}
        await setup.replacer.load()
        assert PV in setup.replacer.unfinished.pending

        del setup.journal.entries[PV]
        await setup.replacer.load()

        assert PV not in setup.replacer.unfinished.pending


async def test_a_replacement_set_back_to_before_its_deletion_is_left_alone() -> None:
    """Otherwise the next instance took the deletion for the owner's, and let the volume go."""
    async with one_setup("n2") as first:

        async def crash(_: Manifest) -> Manifest | None:
            raise asyncio.CancelledError

        instead(first.volumes, remove=crash, create=crash)
        async with first.volumes.watching():
            await asyncio.wait([asyncio.create_task(replace(first, "n2"))])
        assert "deletionTimestamp" in first.pv()["metadata"]
        version, tree = first.journal.entries[PvName(PV)]
        first.journal.entries[PvName(PV)] = (f"{version}-rewritten", {**tree, "state": "prepared"})
        second = setup_on(first.cluster, first.linstor, journal=first.journal, holder="another")

        async with second.at_work():
            await reconciled(second, 3)

        assert "deletionTimestamp" in second.pv()["metadata"]
        assert FINALIZER in second.pv()["metadata"]["finalizers"]
        assert PV in second.journal.entries
