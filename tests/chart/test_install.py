"""The chart on a real API server: install, upgrade, roll back, and run with what it grants."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.accounts import kubeconfig_of, token_of
from tests.chart.helm import CHART, SOMEWHERE, Helm, Rendered, is_hook, merged
from tests.chart.release import (
    DEPLOYMENTS,
    FULL_NAME,
    NAMESPACE,
    RELEASE,
    deployed,
    helm,
    install,
)
from tests.e2e.conftest import MakeService, service_on
from tests.testbed.clusters import ApiError, Cluster
from tests.testbed.command import command
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

__all__ = ["service_on"]

Json = dict[str, Any]

pytestmark = pytest.mark.real

SIDECAR_PAGE = CHART.parent / "docs" / "sidecar.md"
REFERENCE_VALUES = Path(__file__).parent / "reference_values.yaml"


EVERYTHING: Json = {
    "replicaCount": 2,
    "monitoring": {"enabled": True},
    "networkPolicy": {"enabled": True, "extraEgress": [{"ports": [{"port": 9999}]}]},
    "autoscaling": {"enabled": True, "minReplicas": 2, "targetMemoryUtilizationPercentage": 70},
    "linstor": {"clientSecret": "mine", "loginSecret": "login"},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "serviceAccount": {"annotations": {"a": "b"}},
    "priorityClassName": "system-cluster-critical",
    "statusPage": False,
}


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="defaults"),
        pytest.param(EVERYTHING, id="everything"),
        pytest.param({"mode": "sidecar", "monitoring": {"enabled": True}}, id="sidecar"),
        pytest.param({"replicaCount": 3, "podDisruptionBudget": {"minAvailable": 2}}, id="budget"),
    ],
)
async def test_the_api_server_accepts_every_object_unchanged(
    there: Helm, cluster: Cluster, values: Json
) -> None:
    rendered = there.template(values, api_versions=SERVED)

    for manifest in rendered.manifests:
        if manifest["kind"] == "Pod":
            continue  # Applied by `helm test` alone.
        await apply(cluster, manifest)


SERVED = [
    "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
]


async def apply(cluster: Cluster, manifest: Json) -> None:
    """Server-side, as a dry run, with every field that is unknown or doubled refused."""
    path = f"{await collection_of(cluster, manifest)}/{manifest['metadata']['name']}"
    query = {"dryRun": "All", "fieldManager": "test", "fieldValidation": "Strict"}
    headers = {"Content-Type": "application/apply-patch+yaml"}
    async with cluster.session.patch(
        path, json=manifest, params=query, headers=headers
    ) as response:
        assert response.status < 300, await response.text()


async def test_a_values_file_of_the_reference_installs_unchanged(
    there: Helm, cluster: Cluster
) -> None:
    values = yaml.safe_load(REFERENCE_VALUES.read_text())

    await install(there, values)

    container = await deployed(cluster, "my-affinity")
    assert container["image"] == "registry.example.com/storage/affinity:v1"
    assert container["args"] == [
        "run",
        "--bind-address=[::]:8000",
        "--leader-election=true",
        "--metrics-address=[::]:8000",
        "--property-namespace=Aux/topology",
        "--reconcile-rate=30s",
        "--resync-rate=10m",
        "--timeout=2m",
        "--v=2",
        "--workers=5",
    ]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert env["LS_CONTROLLERS"] == "https://linstor-controller.piraeus-datastore.svc:3371"
    account = await cluster.find(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/my-account")
    assert account is not None
    assert account["metadata"]["annotations"]["example.com/role"] == "storage"
    for path in (
        f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/my-affinity",
        f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/servicemonitors/my-affinity",
    ):
        assert await cluster.find(path) is not None


async def test_upgrade_and_rollback(there: Helm, cluster: Cluster, tmp_path: Path) -> None:
    await install(there, merged(SOMEWHERE, {"options": {"workers": 3}}))
    newer = tmp_path / "chart"
    await asyncio.to_thread(_copy_as, newer, "0.2.0")

    await helm(there, "upgrade", RELEASE, str(newer), values=merged(SOMEWHERE, EVERYTHING))
    upgraded = await deployed(cluster)
    await helm(there, "rollback", RELEASE, "1")
    back = await deployed(cluster)

    assert upgraded["image"].endswith(":0.2.0")
    assert "--workers=3" not in upgraded["args"]
    assert "--workers=3" in back["args"]
    assert not back["image"].endswith(":0.2.0")
    with pytest.raises(ApiError):
        await cluster.ask(
            "GET",
            f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/servicemonitors/{FULL_NAME}",
        )


def _copy_as(target: Path, version: str) -> None:
    for path in CHART.rglob("*"):
        if path.is_file():
            copy_to = target / path.relative_to(CHART)
            copy_to.parent.mkdir(parents=True, exist_ok=True)
            copy_to.write_bytes(path.read_bytes())
    chart = (target / "Chart.yaml").read_text()
    (target / "Chart.yaml").write_text(
        re.sub(r"(?m)^(version|appVersion): .*", rf"\1: {version}", chart)
    )


@pytest.mark.parametrize("mode", ["deployment", "sidecar"])
async def test_the_service_works_with_the_permissions_of_the_chart(
    there: Helm, cluster: Cluster, tmp_path: Path, service_on: MakeService, mode: str
) -> None:
    await install(there, merged(SOMEWHERE, {"mode": mode}))
    account = "linstor-controller" if mode == "sidecar" else FULL_NAME
    kubeconfig = await kubeconfig_of(cluster, account, tmp_path)

    async with Testbed.of(cluster) as testbed:
        await testbed.clear()
        await testbed.prepare()
        await testbed.add("pvc-1", ["n1"])
        service = service_on(
            testbed,
            f"--kubeconfig={kubeconfig}",
            f"--lease-lock-namespace={NAMESPACE}",
            f"--lease-lock-name={FULL_NAME}",
        )
        async with running(service):
            testbed.world.move("pvc-1", "n1", "n2")
            await testbed.until_on("pvc-1", "n2")
            await service.until_said("volume affinity updated")
            assert await service.metric("linstor_affinity_leader") == 1
            assert await service.stop() == 0
        assert await testbed.entries(NAMESPACE) == []
        assert "cannot" not in service.said()
        assert "forbidden" not in service.said()
        events = await cluster.ask("GET", "/apis/events.k8s.io/v1/namespaces/default/events")
        assert any(e["reason"] == "VolumeAffinityUpdated" for e in events["items"])
        await testbed.clear()


async def test_the_account_may_write_only_its_own_lease(there: Helm, cluster: Cluster) -> None:
    await install(there, merged(SOMEWHERE, {"fullnameOverride": "ours"}))
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    there_now = {
        name: await cluster.ask("POST", leases, {**made, "metadata": {"name": name}})
        for name in ("ours", "of-others")
    }
    token = await token_of(cluster, "ours")

    async def status(name: str, method: str) -> int:
        body = there_now[name] if method == "PUT" else None
        headers = {"Authorization": f"Bearer {token}"}
        async with cluster.session.request(
            method, f"{leases}/{name}", json=body, headers=headers
        ) as response:
            return response.status

    try:
        assert [await status("ours", method) for method in ("GET", "PUT")] == [200, 200]
        assert [await status("of-others", method) for method in ("GET", "PUT")] == [403, 403]
    finally:
        for name in there_now:
            await cluster.ask("DELETE", f"{leases}/{name}")


async def test_check_with_read_permissions_reports_those_of_the_service(
    there: Helm, cluster: Cluster, tmp_path: Path
) -> None:
    await install(there, SOMEWHERE)
    arguments = ("template", RELEASE, str(CHART), "--namespace", NAMESPACE)
    rendered = Rendered.read(await asyncio.to_thread(there.run, *arguments, values=SOMEWHERE))
    account = rendered.hook("ServiceAccount")["metadata"]["name"]
    hooks = [each for each in rendered.manifests if is_hook(each) and each["kind"] != "Pod"]
    for hook in hooks:
        await cluster.ask("POST", await collection_of(cluster, hook), hook)
    try:
        kubeconfig = await kubeconfig_of(cluster, account, tmp_path)
        async with Testbed.of(cluster) as testbed:
            await testbed.clear()
            await testbed.prepare()
            await testbed.add("pvc-1", ["n1"])
            given = (
                "check",
                f"--service-account={NAMESPACE}/{FULL_NAME}",
                f"--kubeconfig={kubeconfig}",
                f"--lease-lock-namespace={NAMESPACE}",
                f"--lease-lock-name={FULL_NAME}",
                *("-o", "json"),
            )
            good = await command(testbed, *given)
            binding = f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{FULL_NAME}"
            preserved = await cluster.ask("GET", binding)
            await cluster.ask("DELETE", binding)
            bad = await command(testbed, *given)
            del preserved["metadata"]["resourceVersion"], preserved["metadata"]["uid"]
            await cluster.ask("POST", binding.rpartition("/")[0], preserved)
            await testbed.clear()
    finally:
        for hook in hooks:
            path = f"{await collection_of(cluster, hook)}/{hook['metadata']['name']}"
            await cluster.ask("DELETE", path)

    checks = {each["check"]: each for each in good.json}
    assert good.code == 0, good.out
    assert checks["permissions"]["detail"] == "all 20 permissions are granted"
    # Which nodes others left in this cluster does not matter here, but that they could be listed.
    detail = checks["nodes"]["detail"]
    assert "only in LINSTOR" in detail or "have the same" in detail
    assert checks["conflicting-controller"]["status"] == checks["leader"]["status"] == "ok"
    assert checks["leftovers"]["status"] == checks["in-place"]["status"] == "ok"
    assert "not tested" in checks["in-place"]["detail"]
    lacking = {each["check"]: each for each in bad.json}["permissions"]
    assert lacking["status"] == "fail"
    assert f"{NAMESPACE}/{FULL_NAME} is not allowed to" in lacking["detail"]
    assert "delete persistentvolumes" in lacking["detail"]


async def collection_of(cluster: Cluster, manifest: Json) -> str:
    """Where an object of this kind is created."""
    group = manifest["apiVersion"]
    base = f"/apis/{group}" if "/" in group else f"/api/{group}"
    resources = (await cluster.ask("GET", base))["resources"]
    [kind] = [r for r in resources if r["kind"] == manifest["kind"] and "/" not in r["name"]]
    namespace = manifest["metadata"].get("namespace", NAMESPACE)
    where = f"/namespaces/{namespace}" if kind["namespaced"] else ""
    return f"{base}{where}/{kind['name']}"


async def test_the_patches_in_the_install_notes_add_a_sidecar_to_the_controller(
    there: Helm, cluster: Cluster
) -> None:
    said = await install(there, {"mode": "sidecar"})
    linstor_cluster, patch = patches_in(said)

    await apply(cluster, linstor_cluster)
    assert linstor_cluster["spec"]["controller"]["podTemplate"] == patch["spec"]["template"]
    sidecar = await sidecar_in_a_controller(cluster, patch)
    env = {each["name"]: each.get("value") for each in sidecar["env"]}
    assert env["LS_CONTROLLERS"] == "http://localhost:3370"
    assert "readinessProbe" not in sidecar


async def test_the_documented_patch_has_the_same_effect(there: Helm, cluster: Cluster) -> None:
    text = SIDECAR_PAGE.read_text()
    linstor_cluster = yaml.safe_load(text.split("```yaml")[1].split("```")[0])

    await apply(cluster, linstor_cluster)
    template = linstor_cluster["spec"]["controller"]["podTemplate"]
    sidecar = await sidecar_in_a_controller(cluster, {"spec": {"template": template}})
    env = {each["name"]: each.get("value") for each in sidecar["env"]}
    assert env["LS_CONTROLLERS"] == "http://localhost:3370"


async def sidecar_in_a_controller(cluster: Cluster, patch: Json) -> Json:
    """The sidecar that a patch puts into the pod of a LINSTOR controller, beside LINSTOR."""
    await cluster.ask(
        "POST",
        DEPLOYMENTS,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "linstor-controller"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "linstor-controller", "image": "linstor"}]},
                },
            },
        },
    )
    path = f"{DEPLOYMENTS}/linstor-controller"
    try:
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        query = {"fieldValidation": "Strict"}
        async with cluster.session.patch(
            path, json=patch, headers=headers, params=query
        ) as response:
            assert response.status == 200, await response.text()
            patched = (await response.json())["spec"]["template"]["spec"]
    finally:
        await cluster.ask("DELETE", path)

    assert {each["name"] for each in patched["containers"]} == {
        "linstor-controller",
        "linstor-affinity-events",
    }
    [sidecar] = [c for c in patched["containers"] if c["name"] == "linstor-affinity-events"]
    assert isinstance(sidecar, dict)
    return sidecar


def patches_in(said: str) -> tuple[Json, Json]:
    """The two documents that the notes print."""
    entries = said[said.index("NOTES:") :]
    whole = entries[entries.index("apiVersion: piraeus.io/v1") : entries.index("\n2. ")]
    patch = entries[entries.index("\nspec:\n  template:") :]
    return yaml.safe_load(whole), yaml.safe_load(patch)


async def test_the_install_notes_name_both_ways_to_remove_the_other_controller(
    there: Helm, cluster: Cluster
) -> None:
    said = await install(there, SOMEWHERE)
    entries = said[said.index("NOTES:") :]
    switch = entries.index("\nspec:\n  affinityController:")
    older = entries.index("\nspec:\n  patches:")

    # The switch comes first; `patches` is for operators that do not have it.
    assert switch < older
    switched = yaml.safe_load(entries[switch:].split("\n\n")[0])
    assert switched == {"spec": {"affinityController": {"enabled": False}}}
    spec = yaml.safe_load(entries[older:].split("\n\nThere is")[0])
    for each in (switched, spec):
        piraeus = {"apiVersion": "piraeus.io/v1", "kind": "LinstorCluster", **each}
        await apply(cluster, {**piraeus, "metadata": {"name": "linstorcluster"}})
    [patch] = spec["spec"]["patches"]
    assert yaml.safe_load(patch["patch"])["$patch"] == "delete"
    assert patch["target"] == {"kind": "Deployment", "name": "linstor-affinity-controller"}


def test_rendered_manifests_have_a_namespace(helm: Helm) -> None:
    cluster_wide = {"ClusterRole", "ClusterRoleBinding"}

    for manifest in Rendered.read(
        helm.run(*TEMPLATE, values=merged(SOMEWHERE, EVERYTHING))
    ).manifests:
        assert (manifest["kind"] in cluster_wide) is ("namespace" not in manifest["metadata"])


TEMPLATE = ("template", "rel", str(CHART), "--namespace", "elsewhere")
