"""The admission policies on the real API server: attacks fail, and the service does its work."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.chart.accounts import account_with, kubeconfig_of, token_of
from tests.chart.helm import SOMEWHERE, Helm, merged
from tests.chart.release import FULL_NAME, NAMESPACE, install
from tests.e2e.conftest import MakeService, service_on
from tests.e2e.steps import STEPS
from tests.testbed import manifests
from tests.testbed.clusters import ApiError, Cluster, until
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked, Before
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed
from tests.testbed.warm import WarmStarts

__all__ = ["service_on"]

Json = dict[str, Any]

pytestmark = pytest.mark.real

ENTRY = "affinity-journal-pvc-1"
LABELS = {"linstor-affinity-events/journal": "true"}
VOLUMES = "/api/v1/persistentvolumes"
MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
ALLOWED, ABROAD = "secrets-of-a-class", "kube-system"
VALUES: Json = {"rbac": {"admissionPolicy": {"secretNamespaces": [ALLOWED]}}}
WRITES_MAPS = {
    "apiGroups": [""],
    "resources": ["configmaps"],
    "verbs": ["create", "update", "delete", "deletecollection"],
}
WRITES_VOLUMES = {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["create"]}
DELETES_VOLUMES = {**WRITES_VOLUMES, "verbs": ["delete"]}


@dataclass(frozen=True)
class Caller:
    """Somebody with a token, and what the API server responds."""

    cluster: Cluster
    token: str

    async def ask(self, method: str, path: str, body: Json | None = None) -> str:
        """The message of a refusal by one of our policies, or nothing if it was accepted."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        async with self.cluster.session.request(
            method, path, json=body, headers=headers
        ) as response:
            text = await response.text()
        if response.status < 300:
            return ""
        assert response.status == 403, text
        assert "ValidatingAdmissionPolicy" in text, text
        return text


def entry(name: str = ENTRY, labels: Json | None = None, **metadata: Any) -> Json:
    about = {**({"name": name} if name else {}), "labels": labels or {}, **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {"a": "b"}}


def lease(name: str) -> Json:
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}


def volume(name: str = "pv-of-this-test", **spec: Any) -> Json:
    made = manifests.volume(name, claim=None, node_affinity=None)
    made["spec"] |= spec
    return made


def csi(**fields: Any) -> Json:
    return {"driver": manifests.DRIVER, "volumeHandle": "pvc-9", **fields}


@pytest_asyncio.fixture
async def policed(there: Helm, cluster: Cluster) -> AsyncIterator[Cluster]:
    """A cluster in which the policies are in force."""
    await install(there, merged(SOMEWHERE, VALUES))
    await in_force(cluster)
    yield cluster
    for path in (f"{VOLUMES}/theirs", f"{MAPS}/{ENTRY}"):
        try:
            await cluster.ask("PATCH", path, {"metadata": {"finalizers": None}})
            await cluster.ask("DELETE", path)
            # Protection of PersistentVolumes may have come back meanwhile.
            await cluster.ask("PATCH", path, {"metadata": {"finalizers": None}})
        except ApiError as error:
            if error.status != 404:
                raise


async def in_force(cluster: Cluster) -> None:
    """Until the API server has read them."""
    service = Caller(cluster, await token_of(cluster, FULL_NAME))
    intruder = await intruding(cluster)

    async def all_refuse() -> bool:
        refused = [
            await intruder.ask("POST", f"{MAPS}?dryRun=All", entry()),
            await service.ask("POST", f"{VOLUMES}?dryRun=All", volume(csi=csi(driver="other"))),
            await service.ask("POST", f"{LEASES}?dryRun=All", lease("of-others")),
        ]
        return all(refused)

    await until(all_refuse, "the policies are in force")


async def intruding(cluster: Cluster) -> Caller:
    """May write ConfigMaps beside LINSTOR, and no volumes."""
    return Caller(cluster, await account_with(cluster, "intruder", WRITES_MAPS))


async def test_journal_entries_are_written_only_by_those_who_may_create_volumes(
    policed: Cluster,
) -> None:
    intruder = await intruding(policed)
    trusted = Caller(
        policed, await account_with(policed, "trusted", WRITES_MAPS, cluster_wide=WRITES_VOLUMES)
    )

    for attack in (
        entry(labels=LABELS),
        entry("any-name", labels=LABELS),
        entry(),
        entry("", generateName="affinity-journal-"),
    ):
        assert "written and deleted only by" in await intruder.ask("POST", MAPS, attack)
    assert await intruder.ask("POST", MAPS, entry("of-intruder")) == ""
    labelled = entry("of-intruder", labels=LABELS)
    assert "written and deleted only by" in await intruder.ask(
        "PUT", f"{MAPS}/of-intruder", labelled
    )
    await policed.ask("DELETE", f"{MAPS}/of-intruder")

    assert await trusted.ask("POST", MAPS, entry(labels=LABELS)) == ""
    for attack in (entry(labels=LABELS), entry()):
        assert "written and deleted only by" in await intruder.ask("PUT", f"{MAPS}/{ENTRY}", attack)


async def test_journal_entries_are_deleted_only_by_those_who_may_write_volumes(
    policed: Cluster,
) -> None:
    intruder = await intruding(policed)
    allowed = [
        await account_with(policed, "trusted", WRITES_MAPS, cluster_wide=WRITES_VOLUMES),
        await account_with(policed, "deleting", WRITES_MAPS, cluster_wide=DELETES_VOLUMES),
        await token_of(policed, FULL_NAME),
        # Otherwise its namespace, or what it belongs to, would never be gone.
        await token_of(policed, "namespace-controller", "kube-system"),
        await token_of(policed, "generic-garbage-collector", "kube-system"),
    ]

    for attempt in (entry(), entry(labels=LABELS), entry("any-name", labels=LABELS)):
        await policed.ask("POST", MAPS, attempt)
        path = f"{MAPS}/{attempt['metadata']['name']}"
        assert "written and deleted only by" in await intruder.ask("DELETE", path)
        assert "written and deleted only by" in await intruder.ask("DELETE", MAPS)
        await policed.ask("DELETE", path)
    await policed.ask("POST", MAPS, entry("of-intruder"))
    assert await intruder.ask("DELETE", f"{MAPS}/of-intruder") == ""

    for token in allowed:
        await policed.ask("POST", MAPS, entry(labels=LABELS))
        assert await Caller(policed, token).ask("DELETE", f"{MAPS}/{ENTRY}") == ""


async def test_the_namespace_of_the_journal_can_be_deleted(policed: Cluster) -> None:
    token = await token_of(policed, "namespace-controller", "kube-system")
    await policed.ask("POST", MAPS, entry(labels=LABELS))

    # What the namespace controller sends for each kind of object in a namespace that goes.
    assert await Caller(policed, token).ask("DELETE", MAPS) == ""

    assert (await policed.ask("GET", MAPS))["items"] == []


@pytest.mark.parametrize(
    "source",
    [
        {"hostPath": {"path": "/"}, "csi": None},
        {"nfs": {"server": "10.0.0.1", "path": "/"}, "csi": None},
        {"csi": csi(driver="other.csi.example.com")},
    ],
    ids=["hostPath", "nfs", "other-driver"],
)
async def test_the_account_writes_volumes_of_linstors_driver_only(
    policed: Cluster, source: Json
) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    foreign = volume(**{key: value for key, value in source.items() if value is not None})
    if source["csi"] is None:
        del foreign["spec"]["csi"]
    foreign["metadata"] = {"name": "theirs", "finalizers": ["example.com/kept"]}

    refusals = [await service.ask("POST", VOLUMES, foreign)]
    await policed.ask("POST", VOLUMES, foreign)
    path = f"{VOLUMES}/theirs"
    refusals.append(await service.ask("PATCH", path, {"metadata": {"finalizers": None}}))
    refusals.append(await service.ask("DELETE", path))

    await policed.ask("PATCH", path, {"metadata": {"finalizers": None}})
    assert ["linstor.csi.linbit.com only" in each for each in refusals] == [True] * 3


SECRET_FIELDS = [
    *("controllerPublishSecretRef", "nodeStageSecretRef", "nodePublishSecretRef"),
    *("controllerExpandSecretRef", "nodeExpandSecretRef"),
]


@pytest.mark.parametrize("field", SECRET_FIELDS)
async def test_the_account_refers_to_no_secrets_of_others(policed: Cluster, field: str) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    claim = {"namespace": "default", "name": "claim", "kind": "PersistentVolumeClaim"}

    async def created(namespace: str) -> str:
        reference = {field: {"name": "passphrase", "namespace": namespace}}
        made = volume(csi=csi(**reference), claimRef=claim)
        return await service.ask("POST", f"{VOLUMES}?dryRun=All", made)

    for namespace in ("default", NAMESPACE, ALLOWED):
        assert await created(namespace) == ""
    refused = await created(ABROAD)
    assert f"{NAMESPACE}, {ALLOWED}, default" in refused
    assert "rbac.admissionPolicy.secretNamespaces" in refused


@pytest.mark.parametrize("field", SECRET_FIELDS)
async def test_the_account_adds_no_reference_to_a_secret(policed: Cluster, field: str) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    name = f"pv-{field.lower()}"
    path = f"{VOLUMES}/{name}"

    await policed.ask("POST", VOLUMES, volume(name))
    other = {"spec": {"csi": {field: {"name": "passphrase", "namespace": "default"}}}}
    try:
        assert await service.ask("PATCH", path, {"metadata": {"annotations": {"a": "b"}}}) == ""
        if field == "controllerExpandSecretRef":
            assert "may not change which Secrets" in await service.ask("PATCH", path, other)
        else:
            # No other can be added later, and none be changed, by anybody.
            with pytest.raises(ApiError, match="immutable after creation"):
                await policed.ask("PATCH", path, other)
    finally:
        await policed.ask("DELETE", path)


DELETION = "volume.kubernetes.io/provisioner-deletion-secret"
MODIFICATION = "volume.kubernetes.io/controller-modify-secret"


def deletion_secret(name: str, namespace: str, *, key: str = DELETION) -> Json:
    return {f"{key}-name": name, f"{key}-namespace": namespace}


@pytest.mark.parametrize("where", ["a field", "the annotations for its deletion"])
async def test_the_account_moves_no_secret_reference_to_another_namespace(
    policed: Cluster, where: str
) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    claim = {"namespace": "default", "name": "claim", "kind": "PersistentVolumeClaim", "uid": "u"}
    secret = {"nodeStageSecretRef": {"name": "passphrase", "namespace": "default"}}
    made = volume("theirs", csi=csi(**secret) if where == "a field" else csi(), claimRef=claim)
    if where != "a field":
        made["metadata"]["annotations"] = deletion_secret("passphrase", "default")
    assert await service.ask("POST", VOLUMES, made) == ""
    path = f"{VOLUMES}/theirs"

    async def detached(reference: Json | None) -> str:
        return await service.ask("PATCH", path, {"spec": {"claimRef": reference}})

    assert "Secrets of these namespaces only" in await detached({"namespace": ABROAD})
    assert "Secrets of these namespaces only" in await detached({"namespace": None})
    assert "Secrets of these namespaces only" in await detached(None)
    assert await detached({"name": "gone-u"}) == ""
    assert await detached({"uid": None}) == ""


async def test_a_claim_ref_without_secrets_may_change_namespace(policed: Cluster) -> None:
    """The service repeats what somebody wrote in the moment in which the volume was removed."""
    service = Caller(policed, await token_of(policed, FULL_NAME))
    claim = {"namespace": "default", "name": "claim", "kind": "PersistentVolumeClaim"}
    general = {"nodeStageSecretRef": {"name": "passphrase", "namespace": ALLOWED}}
    made = volume("theirs", csi=csi(**general), claimRef=claim)
    await policed.ask("POST", VOLUMES, made)

    for reference in ({"namespace": ABROAD}, None):
        patch = {"spec": {"claimRef": reference}}
        assert await service.ask("PATCH", f"{VOLUMES}/theirs", patch) == ""


@pytest.mark.parametrize("key", [DELETION, MODIFICATION])
async def test_the_account_names_no_secret_of_others_in_annotations(
    policed: Cluster, key: str
) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    claim = {"namespace": "default", "name": "claim", "kind": "PersistentVolumeClaim"}
    path = f"{VOLUMES}/theirs"

    def secret(name: str, namespace: str) -> Json:
        return deletion_secret(name, namespace, key=key)

    async def created(annotations: Json) -> str:
        made = volume("theirs", csi=csi(), claimRef=claim)
        made["metadata"]["annotations"] = annotations
        return await service.ask("POST", f"{VOLUMES}?dryRun=All", made)

    async def patched(annotations: Json) -> str:
        return await service.ask("PATCH", path, {"metadata": {"annotations": annotations}})

    assert "Secrets of these namespaces only" in await created(secret("s", ABROAD))
    # As linstor-csi's provisioner leaves them where a class names none.
    for annotations in (secret("s", ALLOWED), secret("", "")):
        assert await created(annotations) == ""

    await policed.ask("POST", VOLUMES, volume("theirs", csi=csi(), claimRef=claim))
    assert "Secrets of these namespaces only" in await patched(secret("s", ABROAD))
    assert await patched(secret("s", "default")) == ""
    assert "Secrets of these" in await patched({f"{key}-namespace": ABROAD})
    foreign = {"metadata": {"annotations": secret("s", ABROAD)}}
    await policed.ask("PATCH", path, foreign)
    assert await patched({"other": "x"}) == ""
    assert "Secrets of these" in await patched({f"{key}-name": "another"})
    assert await patched(secret("s", "default")) == ""


@pytest.mark.parametrize("key", ["provisioned-by", "migrated-to"])
async def test_the_account_hands_no_deletion_to_another_driver(policed: Cluster, key: str) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    path, annotation = f"{VOLUMES}/theirs", f"pv.kubernetes.io/{key}"

    async def created(driver: str) -> str:
        made = volume("theirs")
        made["metadata"]["annotations"] = {annotation: driver}
        return await service.ask("POST", f"{VOLUMES}?dryRun=All", made)

    assert "delete what is behind" in await created("ebs.csi.aws.com")
    assert await created(manifests.DRIVER) == ""
    await policed.ask("POST", VOLUMES, volume("theirs"))
    other = {"metadata": {"annotations": {annotation: "ebs.csi.aws.com"}}}
    assert "delete what is behind" in await service.ask("PATCH", path, other)
    await policed.ask("PATCH", path, other)
    assert await service.ask("PATCH", path, {"metadata": {"annotations": {"a": "b"}}}) == ""


async def test_the_account_only_sets_new_volumes_to_bound(policed: Cluster) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))

    async def refusal(name: str, phase: str) -> str:
        path = f"{VOLUMES}/{name}/status?dryRun=All"
        return await service.ask("PATCH", path, {"status": {"phase": phase}})

    other = volume("of-another-driver")
    other["spec"]["csi"]["driver"] = "ebs.csi.aws.com"
    # Its claim is gone: the binder sets such a volume to Released, and leaves it there.
    gone = {"namespace": "default", "name": "gone", "uid": "00000000-0000-0000-0000-000000000009"}
    released = volume("released", claimRef=gone)
    for made in (volume("new"), other, released):
        await policed.ask("POST", VOLUMES, made)

    async def in_force() -> bool:
        return await refusal("new", "Released") != ""

    await until(in_force, "the policy for the status is in force")
    assert await refusal("new", "Bound") == ""
    for phase in ("Released", "Failed", "Available"):
        assert "is Bound" in await refusal("new", phase)
    assert "is Bound" in await refusal("of-another-driver", "Bound")

    async def set_to_released() -> bool:
        found = await policed.ask("GET", f"{VOLUMES}/released")
        return bool(found["status"].get("phase") == "Released")

    await until(set_to_released, "the binder has set the volume to Released")
    assert "is Bound" in await refusal("released", "Bound")

    for name in ("new", "of-another-driver", "released"):
        await policed.ask("DELETE", f"{VOLUMES}/{name}")


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"annotations": {"pv.kubernetes.io/provisioned-by": "ebs"}}, id="driver"),
        pytest.param({"labels": {"a": "b"}}, id="labels"),
        pytest.param({"finalizers": ["example.com/kept"]}, id="finalizers"),
        pytest.param(
            {
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "y"}
                ]
            },
            id="owners",
        ),
    ],
)
async def test_the_account_changes_no_metadata_by_the_status(
    policed: Cluster, metadata: Json
) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    await policed.ask("POST", VOLUMES, volume("theirs"))
    path, bound = f"{VOLUMES}/theirs/status?dryRun=All", {"status": {"phase": "Bound"}}

    async def in_force() -> bool:
        return await service.ask("PATCH", path, {"status": {"phase": "Released"}}) != ""

    await until(in_force, "the policy for the status is in force")
    assert await service.ask("PATCH", path, bound) == ""
    assert "metadata" in await service.ask("PATCH", path, bound | {"metadata": metadata})
    await policed.ask("DELETE", f"{VOLUMES}/theirs")


async def test_the_account_writes_its_own_entries_and_lease_only(policed: Cluster) -> None:
    service = Caller(policed, await token_of(policed, FULL_NAME))
    await policed.ask("POST", MAPS, entry("of-others"))
    # Where RBAC is wider than the chart's: a name is no obstacle there.
    every_lease = {**WRITES_MAPS, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    await account_with(policed, FULL_NAME, every_lease, role="wider")
    await policed.ask("POST", LEASES, lease("of-others"))

    others = await policed.ask("GET", f"{LEASES}/of-others")
    refusals = [
        await service.ask("POST", MAPS, entry("new")),
        await service.ask("POST", MAPS, entry("new", labels=LABELS)),
        await service.ask("POST", MAPS, entry()),
        await service.ask("PUT", f"{MAPS}/of-others", entry("of-others", labels=LABELS)),
        await service.ask("DELETE", f"{MAPS}/of-others"),
        await service.ask("POST", LEASES, lease("new")),
        await service.ask("PUT", f"{LEASES}/of-others", others),
    ]
    accepted = [
        await service.ask("POST", MAPS, entry(labels=LABELS)),
        await service.ask("PUT", f"{MAPS}/{ENTRY}", entry(labels=LABELS)),
        await service.ask("DELETE", f"{MAPS}/{ENTRY}"),
    ]

    await policed.ask("DELETE", f"{MAPS}/of-others")
    await policed.ask("DELETE", f"{LEASES}/of-others")
    assert ["only" in each for each in refusals] == [True] * 7
    assert accepted == ["", "", ""]


@pytest_asyncio.fixture
async def testbed(policed: Cluster) -> AsyncIterator[Testbed]:
    async with Testbed.of(policed) as made:
        await made.clear()
        await made.prepare()
        yield made
        await made.clear()


@pytest_asyncio.fixture
async def service(
    testbed: Testbed, tmp_path: Path, service_on: MakeService
) -> AsyncIterator[Service]:
    """One that runs with the account of the chart, and what the chart grants."""
    kubeconfig = await kubeconfig_of(testbed.cluster, FULL_NAME, tmp_path)
    made = service_on(
        testbed,
        f"--kubeconfig={kubeconfig}",
        f"--lease-lock-namespace={NAMESPACE}",
        f"--lease-lock-name={FULL_NAME}",
    )
    async with running(made):
        yield made


def encrypted(namespace: str) -> Json:
    """A volume whose passphrase is in a Secret, for each of the calls of CSI."""
    reference = {"name": "passphrase", "namespace": namespace}
    fields = dict.fromkeys(SECRET_FIELDS, reference)
    return {"csi": {"driver": manifests.DRIVER, "volumeHandle": "pvc-1", **fields}}


async def test_the_service_works_under_the_policies(testbed: Testbed, service: Service) -> None:
    annotations = deletion_secret("passphrase", "default")
    await testbed.add("pvc-1", ["n1"], annotations=annotations, **encrypted("default"))
    testbed.world.move("pvc-1", "n1", "n2")
    await testbed.until_on("pvc-1", "n2")
    await testbed.until_bound("pvc-1")

    # As csi-resizer does, and the kubelet after it.
    larger = {"capacity": {"storage": "2Gi"}}
    claim = "/api/v1/namespaces/default/persistentvolumeclaims/claim-pvc-1"
    await testbed.cluster.ask(
        "PATCH", claim, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    )
    await testbed.cluster.ask("PATCH", f"{VOLUMES}/pvc-1", {"spec": larger})
    await testbed.cluster.ask("PATCH", f"{claim}/status", {"status": larger})
    testbed.world.move("pvc-1", "n2", "n3")
    await testbed.until_on("pvc-1", "n3")
    await testbed.until_bound("pvc-1")
    await service.until_said("volume affinity updated", times=2)

    after = await testbed.cluster.ask("GET", f"{VOLUMES}/pvc-1")
    assert after["spec"]["csi"] == {**encrypted("default")["csi"]}
    assert after["spec"]["capacity"] == {"storage": "2Gi"}
    assert annotations.items() <= after["metadata"]["annotations"].items()
    assert await service.stop() == 0
    assert "not allowed" not in service.said()
    assert await testbed.entries(NAMESPACE) == []


async def test_a_volume_with_secrets_of_others_is_unchanged_and_reported(
    testbed: Testbed, service: Service
) -> None:
    await testbed.add("pvc-1", ["n1"], **encrypted(ABROAD))
    before = await testbed.cluster.ask("GET", f"{VOLUMES}/pvc-1")

    testbed.world.move("pvc-1", "n1", "n2")
    await service.until_said("rbac.admissionPolicy.secretNamespaces")

    after = await testbed.cluster.ask("GET", f"{VOLUMES}/pvc-1")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert "deletionTimestamp" not in after["metadata"]
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert await testbed.entries(NAMESPACE) == []


@pytest.mark.parametrize(
    "annotations",
    [{"pv.kubernetes.io/migrated-to": "ebs.csi.aws.com"}, deletion_secret("root", ABROAD)],
    ids=["provisioner", "secret"],
)
async def test_an_annotation_during_a_replacement_prevents_no_recreation(
    testbed: Testbed, tmp_path: Path, warm_starts: WarmStarts, annotations: Json
) -> None:
    """One with which the policies let the service create no volume."""
    await testbed.add("pvc-1", ["n1"])
    await testbed.add("pvc-2", ["n1"])
    token = await token_of(testbed.cluster, FULL_NAME)

    met = False

    async def annotated(_: Asked) -> None:
        nonlocal met
        met = True
        change = {"metadata": {"annotations": annotations}}
        await testbed.cluster.ask("PATCH", f"{VOLUMES}/pvc-1", change)

    async def nothing_unfinished() -> bool:
        return not await testbed.entries(NAMESPACE)

    async with ProxiedTestbed.of(testbed, tmp_path, warm_starts) as proxied:
        kubeconfig = proxied.kubernetes.write_kubeconfig(tmp_path / "account", token=token)
        label, nth = STEPS["detach"]
        proxied.on(label, Before(annotated), nth=nth)
        flags = f"--journal-namespace={NAMESPACE}"
        async with running(proxied.service(flags, kubeconfig=kubeconfig)):
            for name in ("pvc-1", "pvc-2"):
                testbed.world.move(name, "n1", "n2")
                await testbed.until_on(name, "n2")
                await testbed.until_bound(name)
            await until(nothing_unfinished, "no entry is left")

    assert met
    assert testbed.observer.lost == []
