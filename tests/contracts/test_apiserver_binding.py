"""What the binding controllers make of volumes and claims, be they fake or real."""

from dataclasses import dataclass
from typing import Any

from tests.contracts.kube_client import CLAIMS, VOLUMES, Json, KubeClient
from tests.contracts.manifests import OURS, affinity, claim, claim_ref, volume

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"


@dataclass(frozen=True, slots=True)
class Pair:
    """A volume and its claim, bound to each other and left alone by now."""

    volume: Json
    claim: Json
    volume_path: str
    claim_path: str


async def bound_pair(kube: KubeClient, name: str, **spec: Any) -> Pair:
    """As a provisioner makes them: a claim waits, and a volume comes that names it.

    A claim that names its volume itself is bound too, but by the real one only when its resync
    comes again, which takes up to 15 s.
    """
    volume_path, claim_path = f"{VOLUMES}/{name}", f"{CLAIMS}/{name}"
    pending = await kube.post(CLAIMS, claim(name))
    reference = claim_ref(name, pending.metadata["uid"])
    made = await kube.post(VOLUMES, volume(name, claimRef=reference, **spec))
    assert (pending.status, made.status) == (201, 201)
    claim_now = await kube.until_phase(claim_path, "Bound")
    volume_now = await kube.until_phase(volume_path, "Bound")
    return Pair(volume_now, claim_now, volume_path, claim_path)


async def removed(kube: KubeClient, path: str) -> None:
    """Delete it and take whatever finalizers it has."""
    await kube.delete(path)
    await kube.patch(path, {"metadata": {"finalizers": None}})
    await kube.until_gone(path)


def again(was: Json, **spec: Any) -> Json:
    """The manifest of the same volume in its next life."""
    preserved = {"name": was["metadata"]["name"]}
    preserved |= {"annotations": was["metadata"].get("annotations", {})}
    return {**was, "metadata": preserved, "spec": {**was["spec"], **spec}}


async def test_an_unclaimed_volume_is_available(kube: KubeClient, name: str) -> None:
    await kube.post(VOLUMES, volume(name))

    observed = await kube.until_phase(f"{VOLUMES}/{name}", "Available")

    assert "lastPhaseTransitionTime" in observed["status"]


def of_binding(status: dict[str, Any]) -> dict[str, Any]:
    """A claim's status but for its conditions: from 1.37 on one says that no pod uses it."""
    return {key: value for key, value in status.items() if key != "conditions"}


async def test_a_claim_and_the_volume_made_for_it_are_bound(kube: KubeClient, name: str) -> None:
    pair = await bound_pair(kube, name)

    annotations = {BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"}
    assert pair.claim["metadata"]["annotations"] == annotations
    assert pair.claim["spec"]["volumeName"] == name
    assert of_binding(pair.claim["status"]) == {
        "phase": "Bound",
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"},
    }
    assert BOUND_BY_CONTROLLER not in pair.volume["metadata"].get("annotations", {})
    assert pair.volume["spec"]["claimRef"]["uid"] == pair.claim["metadata"]["uid"]


async def test_a_reservation_without_uid_is_completed(kube: KubeClient, name: str) -> None:
    await kube.post(VOLUMES, volume(name, claimRef=claim_ref(name)))
    await kube.until_phase(f"{VOLUMES}/{name}", "Available")
    pending = await kube.post(CLAIMS, claim(name, volume_name=name))

    await kube.until_phase(f"{CLAIMS}/{name}", "Bound")

    observed = (await kube.get(f"{VOLUMES}/{name}")).body
    assert observed["spec"]["claimRef"]["uid"] == pending.metadata["uid"]
    assert observed["spec"]["claimRef"]["resourceVersion"]
    assert BOUND_BY_CONTROLLER not in observed["metadata"].get("annotations", {})


async def test_a_claim_binds_to_an_available_volume_of_its_class(
    kube: KubeClient, name: str
) -> None:
    await kube.post(
        VOLUMES, volume(f"{name}-large", storageClassName=name, capacity={"storage": "5Gi"})
    )
    await kube.post(
        VOLUMES, volume(f"{name}-fits", storageClassName=name, capacity={"storage": "2Gi"})
    )
    for each in ("large", "fits"):
        await kube.until_phase(f"{VOLUMES}/{name}-{each}", "Available")

    await kube.post(CLAIMS, claim(name, storage_class=name))

    observed = await kube.until_phase(f"{CLAIMS}/{name}", "Bound")
    taken = (await kube.get(f"{VOLUMES}/{name}-fits")).body
    assert observed["spec"]["volumeName"] == f"{name}-fits"
    assert observed["status"]["capacity"] == {"storage": "2Gi"}
    assert observed["metadata"]["annotations"][BOUND_BY_CONTROLLER] == "yes"
    assert taken["metadata"]["annotations"][BOUND_BY_CONTROLLER] == "yes"


async def test_a_volume_is_released_when_its_claim_is_deleted(kube: KubeClient, name: str) -> None:
    pair = await bound_pair(kube, name)

    deleted = await kube.delete(pair.claim_path)

    assert deleted.status == 200
    await kube.until_gone(pair.claim_path)
    observed = await kube.until_phase(pair.volume_path, "Released")
    assert observed["spec"]["claimRef"]["uid"] == pair.claim["metadata"]["uid"]


async def test_a_volume_whose_claim_was_recreated_is_released(kube: KubeClient, name: str) -> None:
    await kube.post(CLAIMS, claim(name, volume_name=name))

    await kube.post(VOLUMES, volume(name, claimRef=claim_ref(name, "of-another-life")))

    await kube.until_phase(f"{VOLUMES}/{name}", "Released")
    assert (await kube.get(f"{CLAIMS}/{name}")).body["status"]["phase"] == "Pending"


async def test_a_claim_is_lost_without_its_volume_and_bound_with_it(
    kube: KubeClient, name: str
) -> None:
    pair = await bound_pair(kube, name)

    await removed(kube, pair.volume_path)
    lost = await kube.until_phase(pair.claim_path, "Lost")
    await kube.post(VOLUMES, again(pair.volume))
    found = await kube.until_phase(pair.claim_path, "Bound")

    assert of_binding(lost["status"]) == {"phase": "Lost"}
    assert found["status"]["capacity"] == {"storage": "1Gi"}
    await kube.until_phase(pair.volume_path, "Bound")


async def test_a_claim_is_lost_when_its_volume_is_bound_to_another(
    kube: KubeClient, name: str
) -> None:
    pair = await bound_pair(kube, name)
    other = claim_ref(f"{name}-other", "of-another")

    await removed(kube, pair.volume_path)
    await kube.post(VOLUMES, again(pair.volume, claimRef=other))

    await kube.until_phase(pair.claim_path, "Lost")
    await kube.until_phase(pair.volume_path, "Released")


async def test_a_volume_is_protected_while_it_is_bound(kube: KubeClient, name: str) -> None:
    pair = await bound_pair(kube, name)

    await kube.delete(pair.volume_path)
    await kube.delete(pair.claim_path)

    # Only when the claim is gone does the volume leave Bound, and then the cluster.
    await kube.until_gone(pair.claim_path)
    await kube.until_gone(pair.volume_path)


async def test_a_detached_claim_ref_releases_a_terminating_volume(
    kube: KubeClient, name: str
) -> None:
    pair = await bound_pair(kube, name, nodeAffinity=affinity("a"))
    await kube.patch(pair.volume_path, {"metadata": {"finalizers": [OURS]}})
    await kube.delete(pair.volume_path)

    tombstone = {"spec": {"claimRef": {"name": f"{name}-tombstone"}}}
    while True:
        await kube.patch(pair.volume_path, tombstone)
        observed = await kube.until(pair.volume_path, lambda pv: released_or_restored(pv, name))
        if observed["status"]["phase"] == "Released":
            break
    assert observed["spec"]["claimRef"]["uid"] == pair.claim["metadata"]["uid"]
    assert (await kube.get(pair.claim_path)).body["status"]["phase"] == "Bound"


def released_or_restored(observed: Json, claim: str) -> bool:
    """A resync of the binder may restore the claimRef."""
    restored: bool = observed["spec"]["claimRef"]["name"] == claim
    return restored or observed["status"]["phase"] == "Released"


async def test_with_a_tombstone_a_claim_is_never_lost_during_a_replacement(
    kube: KubeClient, name: str
) -> None:
    pair = await bound_pair(kube, name, nodeAffinity=affinity("a"))
    version = pair.claim["metadata"]["resourceVersion"]
    await kube.patch(pair.volume_path, {"metadata": {"finalizers": [OURS]}})
    await kube.delete(pair.volume_path)

    await let_go_behind_a_tombstone(kube, pair.volume_path, f"{name}-tombstone")
    made = await kube.post(VOLUMES, again(pair.volume, nodeAffinity=affinity("b")))

    assert made.status == 201
    await kube.until_phase(pair.volume_path, "Bound")
    assert await phases_since(kube, pair.claim_path, version) == {"Bound"}


async def let_go_behind_a_tombstone(kube: KubeClient, path: str, tombstone: str) -> None:
    """Empty the finalizers in the very version in which the binder accepted the tombstone.

    Another version means to recheck: the owner's resync may have bent the reference back.
    """
    while (found := await kube.get(path)).status == 200:
        if found.body["spec"]["claimRef"]["name"] != tombstone:
            await kube.patch(path, {"spec": {"claimRef": {"name": tombstone}}})
        elif found.body["status"]["phase"] == "Released":
            without_finalizers = {**found.metadata, "finalizers": []}
            reply = await kube.put(path, {**found.body, "metadata": without_finalizers})
            assert reply.status in {200, 409}


async def phases_since(kube: KubeClient, path: str, version: str) -> set[str]:
    """All phases that a claim went through, up to a mark that is set on it now."""
    await kube.patch(path, {"metadata": {"labels": {"mark": "now"}}})
    collection, _, name = path.rpartition("/")
    async with kube.watch(
        collection, resourceVersion=version, fieldSelector=f"metadata.name={name}"
    ) as lines:
        events = await lines.until(
            lambda event: "mark" in event["object"]["metadata"].get("labels", {})
        )
    return {event["object"]["status"]["phase"] for event in events}


async def test_the_spec_of_a_bound_claim_is_immutable(kube: KubeClient, name: str) -> None:
    pair = await bound_pair(kube, name)

    other_class = await kube.patch(pair.claim_path, {"spec": {"storageClassName": "other"}})
    larger = await kube.patch(
        pair.claim_path, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    )
    status = await kube.patch(f"{pair.claim_path}/status", {"status": {"conditions": []}})

    assert (other_class.status, other_class.causes) == (422, [("FieldValueForbidden", "spec")])
    assert (larger.status, larger.reason) == (403, "Forbidden")
    assert status.status == 200


async def test_an_incomplete_claim_is_rejected(kube: KubeClient, name: str) -> None:
    reply = await kube.post(CLAIMS, {**claim(name), "spec": {}})

    assert reply.status == 422
    assert reply.causes == [
        ("FieldValueRequired", "spec.accessModes"),
        ("FieldValueRequired", "spec.resources[storage]"),
    ]
