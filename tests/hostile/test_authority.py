"""Those who may write a ConfigMap or an annotation, and would have the service do the rest."""

import json
from copy import deepcopy
from typing import Any

import pytest

from tests.e2e.conftest import MakeService
from tests.fakes.sidecars import HttpApi, Sidecars
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.manifests import CLAIMS, nodes_of, preserved
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked, Before, Instead
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

VOLUMES = "/api/v1/persistentvolumes"
PV = f"{VOLUMES}/pvc-1"
ENTRIES = "/api/v1/namespaces/default/configmaps"
ENTRY = f"{ENTRIES}/affinity-journal-pvc-1"
MARK = "linstor-affinity-events/replacing"
SKIP_RECLAIM = "linstor.csi.linbit.com/skip-reclaim"
OFTEN = "--reconcile-rate=1s"
GIVES_UP_AFTER = 6
"""So many conflicts end a run."""


def entry_for(pv: Json, *, state: str = "deleting", uid: str = "uid-1", **spec: Any) -> Json:
    """A journal entry as the service itself would write it, for whatever volume."""
    wanted = deepcopy(pv)
    wanted.pop("status", None)
    for key in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        wanted["metadata"].pop(key, None)
    wanted["spec"] |= spec
    ref, handle = wanted["spec"].get("claimRef"), wanted["spec"]["csi"]["volumeHandle"]
    claim = ref and {key: ref.get(key, "") for key in ("namespace", "name", "uid")}
    entry = {
        "format": 1,
        "pv": wanted["metadata"]["name"],
        "volume": f"{handle}/0",
        "uid": uid,
        "claim": claim,
        "state": state,
        "holder": "",
        "wanted": wanted,
    }
    name = wanted["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"affinity-journal-{name}",
            "labels": {"linstor-affinity-events/journal": "true"},
        },
        "data": {"entry.json": json.dumps(entry)},
    }


async def dropped(testbed: Testbed) -> bool:
    return not await testbed.entries()


async def rewrite_entry(testbed: Testbed, changes: Json, *, immutable: bool = False) -> None:
    """Write something else into the entry of pvc-1, as others may."""
    found = await testbed.cluster.ask("GET", ENTRY)
    entry = json.loads(found["data"]["entry.json"]) | changes
    found["data"] = {"entry.json": json.dumps(entry)}
    await testbed.cluster.ask("PUT", ENTRY, found | ({"immutable": True} if immutable else {}))


@pytest.mark.parametrize("state", ["prepared", "deleting"])
async def test_an_entry_does_not_change_retain_to_delete(
    testbed: Testbed, service_on: MakeService, state: str
) -> None:
    await testbed.add("pvc-1", ["n1"], policy="Retain", annotations={SKIP_RECLAIM: "true"})
    before = await testbed.cluster.ask("GET", PV)
    uid = before["metadata"]["uid"]
    forged = entry_for(before, state=state, uid=uid, persistentVolumeReclaimPolicy="Delete")
    await testbed.cluster.ask("POST", ENTRIES, forged)

    async with running(service_on(testbed, OFTEN)):
        await until(lambda: dropped(testbed), "the entry is dropped")

    assert preserved(await testbed.cluster.ask("GET", PV)) == preserved(before)


async def test_an_entry_for_a_volume_being_replaced_does_not_change_retain_to_delete(
    testbed: Testbed, service_on: MakeService
) -> None:
    """As an instance leaves it that was killed before it deleted the volume."""
    await testbed.add("pvc-1", ["n1"], policy="Retain")
    before = await testbed.cluster.ask("GET", PV)
    reported = json.dumps({"reclaimPolicy": "Retain", "skipReclaim": None})
    marks = {
        "finalizers": [*before["metadata"]["finalizers"], MARK],
        "annotations": {MARK: reported, SKIP_RECLAIM: "true"},
    }
    await testbed.cluster.ask(
        "PATCH", PV, {"metadata": marks}, fieldManager="linstor-affinity-events"
    )
    uid = before["metadata"]["uid"]
    forged = entry_for(before, uid=uid, persistentVolumeReclaimPolicy="Delete")
    await testbed.cluster.ask("POST", ENTRIES, forged)

    async with running(service_on(testbed, OFTEN)):
        await until(lambda: dropped(testbed), "the entry is dropped")

    assert preserved(await testbed.cluster.ask("GET", PV)) == preserved(before)


async def test_an_annotation_alone_changes_no_reclaim_policy(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"], policy="Retain")
    before = await testbed.cluster.ask("GET", PV)
    reported = json.dumps({"reclaimPolicy": "Delete", "skipReclaim": None})
    await testbed.cluster.ask("PATCH", PV, {"metadata": {"annotations": {MARK: reported}}})

    async def taken_off() -> bool:
        return MARK not in (await testbed.cluster.ask("GET", PV))["metadata"]["annotations"]

    async with running(service_on(testbed, OFTEN)):
        await until(taken_off, "the annotation is taken off")

    assert preserved(await testbed.cluster.ask("GET", PV)) == preserved(before)


async def a_foreign_claim(testbed: Testbed) -> Json:
    """One that asks for a volume which is not there."""
    wish = manifests.claim("evil")
    wish["spec"]["volumeName"] = "evil"
    return await testbed.cluster.ask("POST", CLAIMS, wish)


def volume_for(claim: Json | None, handle: str) -> Json:
    return manifests.volume(
        "evil", claim=claim, node_affinity=manifests.on_nodes(["n1"]), handle=handle
    )


@pytest.mark.parametrize("labelled", ["pvc-1/0", "unused/0"])
@pytest.mark.parametrize("uid", ["nobody", ""], ids=["of nobody", "of their own"])
async def test_an_entry_does_not_give_away_a_volume_in_use(
    testbed: Testbed, service_on: MakeService, uid: str, labelled: str
) -> None:
    await testbed.add("pvc-1", ["n1"])
    foreign = await a_foreign_claim(testbed)
    claim = {
        **foreign,
        "metadata": {**foreign["metadata"], "uid": uid or foreign["metadata"]["uid"]},
    }
    forged = entry_for(volume_for(claim, "pvc-1"))
    forged["metadata"]["annotations"] = {
        "linstor-affinity-events/persistent-volume": "evil",
        "linstor-affinity-events/linstor-volume": labelled,
    }
    await testbed.cluster.ask("POST", ENTRIES, forged)

    async with running(service_on(testbed, OFTEN)) as service:
        await service.until_said("unfinished replacement left alone")

    assert await testbed.cluster.find(f"{VOLUMES}/evil") is None


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
async def test_an_entry_reverts_no_deletion_by_others(
    testbed: Testbed, service_on: MakeService, policy: str
) -> None:
    await testbed.add("pvc-1", ["n1"], policy=policy)
    await testbed.until_bound("pvc-1")
    before = await testbed.cluster.ask("DELETE", PV)
    claim = await testbed.cluster.ask("GET", f"{CLAIMS}/{before['spec']['claimRef']['name']}")
    wanted = manifests.volume(
        "pvc-1", claim=claim, node_affinity=manifests.on_nodes(["n1"]), policy="Delete"
    )
    forged = entry_for(wanted, uid=before["metadata"]["uid"])
    await testbed.cluster.ask("POST", ENTRIES, forged)

    async with running(service_on(testbed, OFTEN)) as service:
        await service.until_said("unfinished replacement left alone")

    after = await testbed.cluster.ask("GET", PV)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert "deletionTimestamp" in after["metadata"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"uid": ""}, id="by-name"),
        pytest.param(None, id="to-anybody"),
        pytest.param({"name": "pending"}, id="a-claim-that-does-not-name-it"),
    ],
)
async def test_an_entry_gives_a_deleted_volume_to_no_claim(
    testbed: Testbed, service_on: MakeService, change: Json | None
) -> None:
    testbed.place("unused", ["n1"])
    pending = await testbed.cluster.ask("POST", CLAIMS, manifests.claim("pending"))
    foreign = await a_foreign_claim(testbed)
    forged = volume_for(foreign, "unused")
    if change is None:
        del forged["spec"]["claimRef"]
    else:
        forged["spec"]["claimRef"] |= change
        if "name" in change:
            forged["spec"]["claimRef"]["uid"] = pending["metadata"]["uid"]
    await testbed.cluster.ask("POST", ENTRIES, entry_for(forged))

    async with running(service_on(testbed, OFTEN)) as service:
        await service.until_said("volume has reclaim policy Retain now")
        await until(lambda: dropped(testbed), "the entry is dropped")

        async def released() -> bool:
            found = await testbed.cluster.ask("GET", f"{VOLUMES}/evil")
            return bool(found["status"].get("phase") == "Released")

        await until(released, "the volume is Released")

    for name in ("evil", "pending"):
        claim = await testbed.cluster.ask("GET", f"{CLAIMS}/{name}")
        assert claim["status"].get("phase") != "Bound"
    left = await testbed.cluster.ask("GET", f"{VOLUMES}/evil")
    assert left["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


PROVISIONED = "pvc-11111111-2222-4333-8444-555555555555"


@pytest.mark.parametrize("by", ["a resource of another claim", "another name", "no uid"])
async def test_a_claim_with_a_forged_binding_gets_no_volume_from_an_entry(
    testbed: Testbed, service_on: MakeService, by: str
) -> None:
    """Such a claim is bound to whatever volume has its uid in its claimRef."""
    wish = manifests.claim("evil")
    wish["spec"]["volumeName"] = "evil"
    wish["metadata"]["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
    foreign = await testbed.cluster.ask("POST", CLAIMS, wish)
    resource = PROVISIONED if by == "a resource of another claim" else "unused"
    testbed.place(resource, ["n1"])
    wanted = volume_for(foreign, resource)
    if by == "another name":
        wanted["spec"]["claimRef"]["name"] = "not-here"
    if by == "no uid":
        del wanted["spec"]["claimRef"]["uid"]
    uid = foreign["metadata"]["uid"]
    await testbed.cluster.ask("POST", ENTRIES, entry_for(wanted, uid=uid))

    async with running(service_on(testbed, OFTEN)):
        await until(lambda: dropped(testbed), "the entry is dropped")

    # The PersistentVolume controller checks it now, and at the others after it.
    await testbed.cluster.ask(
        "PATCH", f"{CLAIMS}/evil", {"metadata": {"labels": {"look": "again"}}}
    )
    await testbed.add("pvc-1", ["n1"])
    claim = await testbed.cluster.ask("GET", f"{CLAIMS}/evil")
    assert claim["status"].get("phase") != "Bound"


async def test_an_entry_does_not_give_a_claim_what_was_provisioned_for_another(
    testbed: Testbed, service_on: MakeService
) -> None:
    resource = "pvc-11111111-2222-4333-8444-555555555555"
    testbed.place(resource, ["n1"])
    foreign = await a_foreign_claim(testbed)
    await testbed.cluster.ask("POST", ENTRIES, entry_for(volume_for(foreign, resource)))

    async with running(service_on(testbed, OFTEN)) as service:
        await service.until_said("volume has reclaim policy Retain now")
        await until(lambda: dropped(testbed), "the entry is dropped")

    claim = await testbed.cluster.ask("GET", f"{CLAIMS}/evil")
    assert claim["status"].get("phase") != "Bound"
    left = await testbed.cluster.ask("GET", f"{VOLUMES}/evil")
    assert left["spec"]["claimRef"]["name"].startswith("gone-")


@pytest.mark.parametrize("given", [True, False], ids=["by the class", "by the entry"])
async def test_mount_options_come_from_the_class_or_not_at_all(
    testbed: Testbed, service_on: MakeService, given: bool
) -> None:
    """As after a crash: the volume is gone, and only the entry says what it was."""
    name, options = f"tuned-{given}".lower(), ["noatime", "discard"]
    made = manifests.storage_class(name, {"allowRemoteVolumeAccess": "false"})
    if given:
        made["mountOptions"] = options
    classes = "/apis/storage.k8s.io/v1/storageclasses"
    if await testbed.cluster.find(f"{classes}/{name}") is None:
        await testbed.cluster.ask("POST", classes, made)
    testbed.place("unused", ["n1"])
    wish = manifests.claim("evil", storage_class=name)
    wish["spec"]["volumeName"] = "evil"
    claim = await testbed.cluster.ask("POST", CLAIMS, wish)
    wanted = volume_for(claim, "unused")
    wanted["spec"] |= {"storageClassName": name, "mountOptions": options}
    await testbed.cluster.ask("POST", ENTRIES, entry_for(wanted))

    async with running(service_on(testbed, OFTEN)):
        await until(lambda: dropped(testbed), "the entry is dropped")

    after = await testbed.cluster.ask("GET", f"{VOLUMES}/evil")
    assert after["spec"]["mountOptions"] == options
    named = after["spec"]["claimRef"]
    assert named["name"].startswith("evil" if given else "gone-")
    assert after["spec"]["persistentVolumeReclaimPolicy"] == ("Delete" if given else "Retain")


async def test_an_unusable_entry_blocks_no_other_volume(
    testbed: Testbed, service_on: MakeService
) -> None:
    """Its volume was never ours, and Kubernetes refuses to create it."""
    await testbed.add("pvc-1", ["n1"])
    foreign = await a_foreign_claim(testbed)
    other_claim = {**foreign, "metadata": {**foreign["metadata"], "uid": "nobody"}}
    forged = volume_for(other_claim, "unused")
    forged["spec"]["accessModes"] = ["NoSuchMode"]
    await testbed.cluster.ask("POST", ENTRIES, entry_for(forged))

    async with running(service_on(testbed, OFTEN)) as service:
        await service.until_said(
            "PersistentVolume is missing: it was deleted to change its node affinity"
        )
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await testbed.until_bound("pvc-1")

    assert nodes_of(await testbed.cluster.ask("GET", PV)) == {"n2"}


async def test_an_entry_with_replacement_markers_has_no_data_deleted(
    testbed: Testbed, service_on: MakeService
) -> None:
    """No claim ever used the data here; a volume with policy Delete would take it along."""
    testbed.place(PROVISIONED, ["n1"])
    forged = volume_for(None, PROVISIONED)
    forged["metadata"]["finalizers"] = [MARK]
    forged["metadata"]["annotations"] |= {
        SKIP_RECLAIM: "true",
        MARK: json.dumps({"reclaimPolicy": "Delete", "skipReclaim": None}),
    }
    await testbed.cluster.ask("POST", ENTRIES, entry_for(forged))

    async with Sidecars(HttpApi(testbed.cluster)) as sidecars:
        async with running(service_on(testbed, OFTEN)) as service:
            await service.until_said("journal entry is not valid and is ignored")

        assert await testbed.cluster.find(f"{VOLUMES}/evil") is None
        assert sidecars.reclaimed == []


@pytest.mark.parametrize("to", ["another LINSTOR volume", "another claim"])
@pytest.mark.parametrize("created", [True, False], ids=["created at once", "tried again"])
async def test_an_entry_that_is_rewritten_meanwhile_gives_nobody_another_volume(
    proxied: ProxiedTestbed, to: str, created: bool
) -> None:
    testbed = proxied.testbed
    await testbed.add("pvc-1", ["n1"])
    await testbed.add("pvc-2", ["n1"])
    others = await testbed.cluster.ask("GET", f"{VOLUMES}/pvc-2")
    wish = manifests.claim("evil")
    wish["spec"]["volumeName"] = "pvc-1"
    evil = await testbed.cluster.ask("POST", CLAIMS, wish)

    async def absent() -> bool:
        return await testbed.cluster.find(PV) is None

    async def rewrite(_: Asked) -> None:
        await until(absent, "the volume is absent")
        found = await testbed.cluster.ask("GET", ENTRY)
        entry = json.loads(found["data"]["entry.json"])
        spec = entry["wanted"]["spec"]
        if to == "another claim":
            spec["claimRef"] |= {"name": "evil", "uid": evil["metadata"]["uid"]}
            entry["claim"] |= {"name": "evil", "uid": evil["metadata"]["uid"]}
        else:
            entry["volume"] = "pvc-2/0"
            spec["csi"]["volumeHandle"] = "pvc-2"
        found["data"] = {"entry.json": json.dumps(entry)}
        await testbed.cluster.ask("PUT", ENTRY, found)

    # An entry is read again only once the creation has failed twice.
    action, times = (Before(rewrite), 1) if created else (Instead(rewrite), 2)
    proxied.kubernetes.on("create persistentvolumes", action, times=times)
    async with running(proxied.service(OFTEN)):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await until(lambda: dropped(testbed), "the entry is dropped")
        await testbed.until_bound("pvc-1")

    assert preserved(await testbed.cluster.ask("GET", f"{VOLUMES}/pvc-2")) == preserved(others)
    there = (await testbed.cluster.ask("GET", VOLUMES))["items"]
    assert len(there) == 2
    ever = [each.manifest for states in testbed.observer.history.values() for each in states]
    assert all(pv["metadata"]["name"] == pv["spec"]["csi"]["volumeHandle"] for pv in ever)
    assert evil["metadata"]["uid"] not in {pv["spec"]["claimRef"].get("uid") for pv in ever}


@pytest.mark.parametrize("end", ["deleted", "left"])
@pytest.mark.parametrize("state", ["prepared", "deleting"])
async def test_an_entry_that_is_rewritten_until_the_run_gives_up_does_no_harm(
    proxied: ProxiedTestbed, state: str, end: str
) -> None:
    testbed, writes = proxied.testbed, 0
    await testbed.add("pvc-1", ["n1"], policy="Delete")
    before = await testbed.cluster.ask("GET", PV)

    async def rewrite(_: Asked) -> None:
        nonlocal writes
        writes += 1
        if end == "deleted" and writes == GIVES_UP_AFTER + 1:
            await testbed.cluster.ask("DELETE", ENTRY)
            return
        await rewrite_entry(testbed, {"holder": f"{writes}", "state": state})

    proxied.kubernetes.on("update configmaps", Before(rewrite), times=GIVES_UP_AFTER + 1)
    async with (
        Sidecars(HttpApi(testbed.cluster)) as sidecars,
        running(proxied.service(OFTEN)),
    ):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await until(lambda: dropped(testbed), "the entry is dropped")
        await testbed.until_bound("pvc-1")

    assert preserved(await testbed.cluster.ask("GET", PV)) == preserved(before)
    assert writes >= GIVES_UP_AFTER
    assert sidecars.reclaimed == []
    assert testbed.observer.lost == []


async def test_an_entry_that_is_made_immutable_leaves_the_volume_as_it_was(
    proxied: ProxiedTestbed,
) -> None:
    """The API server rejects every update of it. The owner of the volume deletes it later."""
    testbed = proxied.testbed
    await testbed.add("pvc-1", ["n1"], policy="Delete")
    before = await testbed.cluster.ask("GET", PV)
    rewritten = False

    async def rewrite(_: Asked) -> None:
        nonlocal rewritten
        await rewrite_entry(testbed, {"holder": "x", "state": "deleting"}, immutable=True)
        rewritten = True

    async def unmarked() -> bool:
        found = await testbed.cluster.ask("GET", PV)
        return rewritten and MARK not in found["metadata"]["finalizers"]

    proxied.kubernetes.on("update configmaps", Before(rewrite))
    async with running(proxied.service(OFTEN)):
        testbed.world.move("pvc-1", "n1", "n2")
        await until(unmarked, "the markers are taken off")
        await testbed.until_on("pvc-1", "n2")
        await until(lambda: dropped(testbed), "the entry is dropped")
        await testbed.until_bound("pvc-1")

    assert preserved(await testbed.cluster.ask("GET", PV)) == preserved(before)
    assert testbed.observer.lost == []
