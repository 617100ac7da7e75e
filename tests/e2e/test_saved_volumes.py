"""What the reference controller leaves on LINSTOR when it is killed, and what others write there.

Every saved volume below is the one that was recorded from its program, for a claim of this cluster.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakeService
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.manifests import nodes_of
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

RECORDED: Json = json.loads(
    (Path(__file__).parents[1] / "data" / "linstor" / "saved-pv-reference-1.5.json").read_text()
)
PV: str = RECORDED["metadata"]["name"]
PATH = f"/api/v1/persistentvolumes/{PV}"
CLAIM = f"/api/v1/namespaces/default/persistentvolumeclaims/claim-{PV}"
PROPERTY = "Aux/affinity-updater-saved-pv"
SKIP_RECLAIM = "linstor.csi.linbit.com/skip-reclaim"
NOT_TAKEN = "saved PersistentVolume in LINSTOR is ignored"
OFTEN = "--reconcile-rate=1s"

UNTOUCHED, MARKED, TERMINATING, ABSENT = "untouched", "marked", "terminating", "absent"


async def a_volume(testbed: Testbed, *, policy: str = "Delete") -> Json:
    """One as the recorded volume was, on n1, and its claim, bound to each other; LINSTOR has its
    data on n2, where the recorded volume is to go.
    """
    testbed.place(PV, ["n2"])
    await testbed.bind(PV, manifests.on_nodes(["n1"]), policy=policy)
    await testbed.until_bound(PV)
    return await testbed.cluster.ask("PATCH", PATH, {"metadata": {"labels": {"keep": "me"}}})


async def saved_for(testbed: Testbed, **claim: Any) -> Json:
    """The recorded volume, for the claim of this cluster or for another."""
    its_claim = await testbed.cluster.ask("GET", CLAIM)
    saved = deepcopy(RECORDED)
    saved["spec"]["claimRef"] |= {
        "namespace": "default",
        "name": its_claim["metadata"]["name"],
        "uid": its_claim["metadata"]["uid"],
        **claim,
    }
    saved["spec"]["storageClassName"] = its_claim["spec"]["storageClassName"]
    return saved


async def left_in(testbed: Testbed, state: str) -> None:
    """Bring the volume to where the reference had it when it was killed."""
    if state == UNTOUCHED:
        return
    retained = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
    marked = {"metadata": {"annotations": {SKIP_RECLAIM: "true"}}, **retained}
    await testbed.cluster.ask("PATCH", PATH, marked)
    if state in {TERMINATING, ABSENT}:
        await testbed.cluster.ask("DELETE", PATH)
    if state == ABSENT:
        await testbed.cluster.ask("PATCH", PATH, {"metadata": {"finalizers": None}})


def keep_on_linstor(testbed: Testbed, saved: Json, level: str) -> None:
    text = json.dumps(saved)
    if level == "volume":
        testbed.world.set_volume_prop(PV, 0, PROPERTY, text)
    else:
        testbed.world.set_definition_prop(PV, PROPERTY, text)


def is_preserved(testbed: Testbed) -> bool:
    definition = testbed.world.definition(PV)
    return PROPERTY in definition.props or PROPERTY in testbed.world.volume(PV, 0).props


async def over(testbed: Testbed) -> bool:
    found = await testbed.cluster.find(PATH)
    right = found is not None and nodes_of(found) == {"n2"}
    return right and not is_preserved(testbed) and not await testbed.entries()


@pytest.mark.parametrize("level", ["volume", "definition"])
@pytest.mark.parametrize("policy", ["Delete", "Retain"])
@pytest.mark.parametrize("state", [UNTOUCHED, MARKED, TERMINATING, ABSENT])
async def test_a_replacement_interrupted_in_the_reference_is_finished(
    testbed: Testbed, service_on: MakeService, state: str, policy: str, level: str
) -> None:
    before = await a_volume(testbed, policy=policy)
    saved = await saved_for(testbed)
    saved["spec"]["persistentVolumeReclaimPolicy"] = policy
    keep_on_linstor(testbed, saved, level)
    await left_in(testbed, state)

    async with running(service_on(testbed, OFTEN)):
        await until(lambda: over(testbed), "the volume is right and nothing is left on LINSTOR")
        # The claim of a volume that was gone is Lost until the controller checks it once more,
        # which it does each 15 s elsewhere, and here when the claim changes.
        await testbed.cluster.ask("PATCH", CLAIM, {"metadata": {"labels": {"look": "again"}}})
        await testbed.until_bound(PV)

    after = await testbed.cluster.ask("GET", PATH)
    assert after["spec"]["persistentVolumeReclaimPolicy"] == policy
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert after["metadata"]["labels"] == {"keep": "me"}
    assert after["spec"]["claimRef"]["uid"] == before["spec"]["claimRef"]["uid"]


async def test_a_saved_pv_of_any_length_is_followed(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    """Only SQL databases limit the characters of a property."""
    testbed, note = fake_testbed, "x" * 100_000
    testbed.world.longest_property = 2 * len(note)
    await a_volume(testbed)
    saved = await saved_for(testbed)
    saved["metadata"].setdefault("annotations", {})["example.com/note"] = note
    keep_on_linstor(testbed, saved, "volume")
    await left_in(testbed, ABSENT)

    async with running(service_on(testbed, OFTEN)):
        await until(lambda: over(testbed), "the volume is right and nothing is left on LINSTOR")

    after = await testbed.cluster.ask("GET", PATH)
    assert after["metadata"]["annotations"]["example.com/note"] == note


async def refused(testbed: Testbed, service: Service, why: str) -> None:
    """See that it is reported once, that nothing is created, and that the property stays."""
    await service.until_said(NOT_TAKEN)
    full_reconciles = await service.metric("linstor_affinity_full_reconcile_seconds_count")

    async def reconciled() -> bool:
        return (
            await service.metric("linstor_affinity_full_reconcile_seconds_count")
            >= full_reconciles + 2
        )

    await until(reconciled, "two more full reconciles ended")
    assert service.said().count(NOT_TAKEN) == 1
    assert why in service.said()
    assert is_preserved(testbed)
    assert await testbed.entries() == []


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param({"uid": "00000000-0000-0000-0000-000000000000"}, id="another-uid"),
        pytest.param({"name": "not-here"}, id="another-name"),
        pytest.param({"namespace": "kube-system"}, id="another-namespace"),
    ],
)
async def test_a_saved_pv_without_claim_here_belongs_to_another_cluster(
    testbed: Testbed, service_on: MakeService, claim: Json
) -> None:
    await a_volume(testbed)
    saved = await saved_for(testbed, **claim)
    await left_in(testbed, ABSENT)
    keep_on_linstor(testbed, saved, "volume")

    async with running(service_on(testbed, OFTEN)) as service:
        await refused(testbed, service, "another Kubernetes cluster that uses this LINSTOR")

    assert await testbed.cluster.find(PATH) is None


async def test_a_saved_pv_for_another_claim_does_not_affect_the_claim_of_that_name(
    testbed: Testbed, service_on: MakeService
) -> None:
    await a_volume(testbed)
    saved = await saved_for(testbed, uid="00000000-0000-0000-0000-000000000000")
    await left_in(testbed, MARKED)
    keep_on_linstor(testbed, saved, "volume")

    async with running(service_on(testbed, OFTEN)) as service:
        await refused(testbed, service, "is for another claim or volume")

    after = await testbed.cluster.ask("GET", PATH)
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Retain"


RETAINED: Json = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
SKIPPED: Json = {"metadata": {"annotations": {SKIP_RECLAIM: "true"}}}


@pytest.mark.parametrize(
    ("policy", "patch"),
    [
        pytest.param("Retain", {}, id="Retain of its own"),
        pytest.param("Delete", RETAINED, id="Retain of a person"),
        pytest.param("Recycle", SKIPPED, id="skip-reclaim alone"),
    ],
)
async def test_a_partly_marked_volume_keeps_policy_and_annotations(
    testbed: Testbed, service_on: MakeService, policy: str, patch: Json
) -> None:
    """Saved with policy Delete, for that very claim and volume."""
    await a_volume(testbed, policy=policy)
    before = await testbed.cluster.ask("PATCH", PATH, patch)
    keep_on_linstor(testbed, await saved_for(testbed), "volume")

    async with running(service_on(testbed, OFTEN)):
        await until(lambda: over(testbed), "the volume is right and nothing is left on LINSTOR")

    after = await testbed.cluster.ask("GET", PATH)
    assert (
        after["spec"]["persistentVolumeReclaimPolicy"]
        == (before["spec"]["persistentVolumeReclaimPolicy"])
    )
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]


async def test_a_saved_pv_with_secrets_of_others_is_rejected(
    testbed: Testbed, service_on: MakeService
) -> None:
    await a_volume(testbed)
    saved = await saved_for(testbed)
    saved["spec"]["csi"]["nodeStageSecretRef"] = {"name": "s", "namespace": "kube-system"}
    await left_in(testbed, ABSENT)
    keep_on_linstor(testbed, saved, "volume")

    async with running(service_on(testbed, OFTEN)) as service:
        await refused(testbed, service, "Secrets of another namespace")

    assert await testbed.cluster.find(PATH) is None


async def test_a_saved_pv_of_another_resource_is_rejected(
    testbed: Testbed, service_on: MakeService
) -> None:
    await a_volume(testbed)
    saved = await saved_for(testbed)
    saved["spec"]["csi"]["volumeHandle"] = "another"
    await left_in(testbed, ABSENT)
    keep_on_linstor(testbed, saved, "volume")

    async with running(service_on(testbed, OFTEN)) as service:
        await refused(testbed, service, "it was found at volume")

    assert await testbed.cluster.find(PATH) is None


async def test_a_linstor_property_gives_no_claim_the_volume_of_another(
    testbed: Testbed, service_on: MakeService
) -> None:
    """Whoever can write to LINSTOR, and owns a claim that asks for a volume that is not there."""
    await a_volume(testbed)
    wish = manifests.claim("evil")
    wish["spec"]["volumeName"] = "evil"
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    evil = await testbed.cluster.ask("POST", claims, wish)
    saved = await saved_for(testbed, name="evil", uid=evil["metadata"]["uid"])
    saved["metadata"]["name"] = "evil"
    keep_on_linstor(testbed, saved, "volume")

    async with running(service_on(testbed, OFTEN)) as service:
        await refused(testbed, service, f"{PV} refers to this LINSTOR volume now")

    assert await testbed.cluster.find("/api/v1/persistentvolumes/evil") is None


async def test_a_volume_provisioned_for_another_claim_is_not_given_away(
    testbed: Testbed, service_on: MakeService
) -> None:
    foreign = "pvc-11111111-2222-4333-8444-555555555555"
    testbed.place(foreign, ["n2"])
    wish = manifests.claim("evil")
    wish["spec"]["volumeName"] = "evil"
    claims = "/api/v1/namespaces/default/persistentvolumeclaims"
    claim = await testbed.cluster.ask("POST", claims, wish)
    evil = manifests.volume("evil", claim=claim, node_affinity=None, handle=foreign)
    testbed.world.set_volume_prop(foreign, 0, PROPERTY, json.dumps(evil))

    async with running(service_on(testbed, OFTEN)) as service:
        await service.until_said(NOT_TAKEN)

    assert "was provisioned for another claim" in service.said()
    assert await testbed.cluster.find("/api/v1/persistentvolumes/evil") is None


async def test_a_saved_pv_that_kubernetes_rejects_is_reported_before_any_entry(
    testbed: Testbed, service_on: MakeService
) -> None:
    await a_volume(testbed)
    saved = await saved_for(testbed)
    saved["spec"]["accessModes"] = ["NoSuchMode"]
    await left_in(testbed, ABSENT)
    keep_on_linstor(testbed, saved, "volume")

    async with running(service_on(testbed, OFTEN)) as service:
        await refused(testbed, service, "Kubernetes would reject it")


async def test_a_saved_object_of_another_kind_is_rejected(
    testbed: Testbed, service_on: MakeService
) -> None:
    await a_volume(testbed)
    evil = manifests.volume("evil", claim=None, node_affinity=None)
    evil["spec"].pop("csi")
    evil["spec"]["hostPath"] = {"path": "/"}
    keep_on_linstor(testbed, evil, "volume")

    async with running(service_on(testbed, OFTEN)) as service:
        await refused(testbed, service, "is not of driver linstor.csi.linbit.com")

    assert await testbed.cluster.find("/api/v1/persistentvolumes/evil") is None


async def test_taking_over_saved_pvs_can_be_disabled(
    testbed: Testbed, service_on: MakeService
) -> None:
    await a_volume(testbed)
    saved = await saved_for(testbed)
    await left_in(testbed, ABSENT)
    keep_on_linstor(testbed, saved, "volume")

    async with running(service_on(testbed, OFTEN, "--take-over-saved-volumes=off")) as service:
        await refused(testbed, service, "--take-over-saved-volumes=off")

    assert await testbed.cluster.find(PATH) is None
