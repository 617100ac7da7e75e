"""Values in, manifests out."""

import json
import re
from itertools import product
from typing import Any

import pytest
import yaml

from linstor_affinity_events import __version__
from linstor_affinity_events.adapters.kubernetes.database import GROUP, TABLE, VERBS
from linstor_affinity_events.adapters.kubernetes.journal import LABEL, configmap_name
from linstor_affinity_events.app.permissions import PERMISSIONS, Scope
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.settings import OPTIONS
from tests.chart.helm import CHART, ENDPOINT, Helm, HelmError, Rendered, is_hook

Json = dict[str, Any]

ALONE = [
    *("ClusterRole", "ClusterRoleBinding", "Deployment"),
    *("Role", "RoleBinding", "Service", "ServiceAccount"),
]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
MONITOR = "monitoring.coreos.com/v1/ServiceMonitor"
RULE = "monitoring.coreos.com/v1/PrometheusRule"


def test_helm_lint_reports_nothing(helm: Helm) -> None:
    said = helm.run("lint", str(CHART), "--strict", "--set", f"linstor.endpoint={ENDPOINT}")

    assert "0 chart(s) failed" in said


def test_defaults_are_one_hardened_instance(helm: Helm) -> None:
    rendered = helm.template()

    assert rendered.kinds() == ALONE
    assert rendered.one("Deployment")["spec"]["replicas"] == 1
    assert rendered.container["args"] == [
        "run",
        "--bind-address=[::]:8000",
        "--leader-election=true",
        "--metrics-address=[::]:8000",
    ]
    assert rendered.container["image"] == f"linstor-affinity-events:{__version__}"
    assert rendered.env["LS_CONTROLLERS"] == ENDPOINT
    assert rendered.env["LEASE_LOCK_NAME"] == "rel-linstor-affinity-events"
    assert rendered.pod["securityContext"]["runAsNonRoot"] is True
    assert rendered.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert rendered.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert rendered.container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert rendered.container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    [spread] = rendered.pod["topologySpreadConstraints"]
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway"


def test_memory_is_limited_by_default(helm: Helm) -> None:
    usual = helm.template().container["resources"]
    more = helm.template({"resources": {"limits": {"memory": "1Gi"}}}).container["resources"]
    without = helm.template({"resources": {"limits": None}}).container["resources"]

    assert usual == {
        "requests": {"cpu": "50m", "memory": "100Mi"},
        "limits": {"memory": "512Mi"},
    }
    assert more["limits"] == {"memory": "1Gi"}
    assert without == {"requests": {"cpu": "50m", "memory": "100Mi"}}


def test_the_termination_grace_period_exceeds_that_of_the_service(helm: Helm) -> None:
    [grace] = [option for option in OPTIONS if option.flag == "shutdown-grace"]

    pod = helm.template().pod

    # Beyond the grace it flushes Events and releases its lease.
    assert pod["terminationGracePeriodSeconds"] >= grace.parse(grace.default) + 5


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_every_flag_can_be_set_as_an_option(helm: Helm, option: Any) -> None:
    camel = re.sub(r"-(.)", lambda found: found[1].upper(), option.flag)
    value = {"duration": "7s", "boolean": "false", "whole_number": "3"}.get(
        option.parse.__name__,
        {
            "log-format": "text",
            "watch-linstor-database": "on",
            "status-page": "all",
            "everywhere": "driver",
            "take-over-saved-volumes": "off",
            "bind-address": "0.0.0.0:8080",
            "metrics-address": ":8001",
        }.get(option.flag, "some-text"),
    )

    rendered = helm.template({"options": {camel: value}})

    assert f"--{option.flag}={value}" in rendered.container["args"]


def test_the_schema_has_only_flags_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    kebab = {
        re.sub(r"[A-Z]", lambda found: f"-{found[0].lower()}", key)
        for key in schema["properties"]["options"]["properties"]
    }

    assert kebab == {option.flag for option in OPTIONS}


def test_every_value_is_in_the_schema() -> None:
    def keys(tree: Json, schema: Json, at: str = "") -> list[str]:
        missing = []
        for key, value in tree.items():
            known = schema.get("properties", {})
            if key not in known:
                missing.append(f"{at}{key}")
            elif isinstance(value, dict) and "properties" in known[key]:
                missing += keys(value, known[key], f"{at}{key}.")
        return missing

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    assert keys(values, schema) == []


@pytest.mark.parametrize(
    ("values", "reported"),
    [
        ({"replicaCount": "two"}, "/replicaCount"),
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"options": {"workrs": 3}}, "additional properties 'workrs' not allowed"),
        ({"options": {"workers": "many"}}, "/options/workers"),
        ({"options": {"reconcileRate": "15 seconds"}}, "/options/reconcileRate"),
        ({"options": {"leaderElection": "yes"}}, "/options/leaderElection"),
        ({"options": {"bindAddress": "8000"}}, "/options/bindAddress"),
        ({"options": {"metricsAddress": "::1:8000"}}, "/options/metricsAddress"),
        (
            {"rbac": {"admissionPolicy": {"secretNamespaces": ["a b"]}}},
            "/rbac/admissionPolicy/secretNamespaces/0",
        ),
        ({"monitoring": {"runbookBaseUrl": "docs/"}}, "/monitoring/runbookBaseUrl"),
        ({"monitoring": {"prometheusOperator": "yes"}}, "/monitoring/prometheusOperator"),
        ({"image": {"pullPolicy": "always"}}, "/image/pullPolicy"),
        ({"mode": "daemonset"}, "/mode"),
        ({"extraEnv": [{"value": "x"}]}, "/extraEnv/0"),
        ({"podLabels": {"a": 1}}, "/podLabels/a"),
        ({"monitoring": True}, "/monitoring"),
        (
            {"podDisruptionBudget": {"unhealthyPodEvictionPolicy": "Always"}},
            "/podDisruptionBudget/unhealthyPodEvictionPolicy",
        ),
        ({"podDisruptionBudget": {"minAvailable": "half"}}, "/podDisruptionBudget/minAvailable"),
        ({"linstor": {"endpont": "x"}}, "additional properties 'endpont' not allowed"),
    ],
    ids=str,
)
def test_mistyped_values_are_rejected_by_name(helm: Helm, values: Json, reported: str) -> None:
    with pytest.raises(HelmError, match=re.escape(reported)):
        helm.template(values)


def test_without_a_linstor_the_error_names_the_remedy(helm: Helm) -> None:
    with pytest.raises(HelmError, match=r"no LINSTOR was found.*linstor\.endpoint"):
        helm.template({"linstor": {"endpoint": ""}})


UID_FIELDS = {"runAsUser", "runAsGroup", "fsGroup"}


def test_no_user_id_is_set_if_the_cluster_may_assign_one(helm: Helm) -> None:
    rendered = helm.template()

    for pod in (rendered.pod, rendered.hook("Pod")["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert UID_FIELDS.isdisjoint(pod["securityContext"])
        assert UID_FIELDS.isdisjoint(pod["containers"][0]["securityContext"])


def test_the_image_has_a_numeric_user() -> None:
    [user] = re.findall(r"^USER (\S+)$", (CHART.parent / "Dockerfile").read_text(), re.MULTILINE)

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_null_values_in_a_security_context_are_omitted(helm: Helm) -> None:
    rendered = helm.template(
        {
            "podSecurityContext": {"runAsUser": None, "seccompProfile": None},
            "securityContext": {"capabilities": None, "runAsUser": None},
        }
    )

    for pod in (rendered.pod, rendered.hook("Pod")["spec"]):
        assert pod["securityContext"] == {"runAsNonRoot": True}
        assert set(pod["containers"][0]["securityContext"]) == {
            "allowPrivilegeEscalation",
            "readOnlyRootFilesystem",
        }


def test_the_values_for_openshift_set_no_ids_and_its_dns_port(helm: Helm) -> None:
    openshift = yaml.safe_load((CHART / "values-openshift.yaml").read_text())

    rendered = helm.template(
        {"podSecurityContext": {"runAsUser": 1000, "fsGroup": 1000}},
        openshift,
        {"networkPolicy": {"enabled": True}},
    )

    assert UID_FIELDS.isdisjoint(rendered.pod["securityContext"])
    ports = [rule["ports"] for rule in rendered.one("NetworkPolicy")["spec"]["egress"]]
    assert [{"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"}] in ports


PROMETHEUS: Json = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [PROMETHEUS]),
        ([{"ipBlock": {"cidr": "10.0.0.0/8"}}], [{"ipBlock": {"cidr": "10.0.0.0/8"}}]),
        ([], None),
    ],
    ids=["default", "given", "everybody"],
)
def test_the_http_port_is_open_to_configured_peers_only(
    helm: Helm, given: list[Json] | None, expected: list[Json] | None
) -> None:
    policy = {"enabled": True, **({} if given is None else {"from": given})}

    rendered = helm.template({"networkPolicy": policy})

    [rule] = rendered.one("NetworkPolicy")["spec"]["ingress"]
    assert rule.get("from") == expected
    assert rule["ports"] == [{"port": 8000, "protocol": "TCP"}]


def test_dns_ports_are_configurable(helm: Helm) -> None:
    policy = {"enabled": True, "dnsPorts": [53, 5353]}

    rendered = helm.template({"networkPolicy": policy})

    opened = rendered.one("NetworkPolicy")["spec"]["egress"][1]["ports"]
    assert {(each["port"], each["protocol"]) for each in opened} == {
        (port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")
    }


def test_large_numbers_are_rendered_as_integers(helm: Helm) -> None:
    rendered = helm.template({"options": {"workers": 1_000_000}})

    assert "--workers=1000000" in rendered.container["args"]


ALWAYS: Json = {"unhealthyPodEvictionPolicy": "AlwaysAllow"}


@pytest.mark.parametrize(
    ("replicas", "budget", "expected"),
    [
        (1, {}, None),
        (1, {"minAvailable": 1}, None),
        (2, {}, {"maxUnavailable": 1, **ALWAYS}),
        (2, {"minAvailable": 1}, {"minAvailable": 1, **ALWAYS}),
        (3, {"maxUnavailable": "50%"}, {"maxUnavailable": "50%", **ALWAYS}),
        (2, {"unhealthyPodEvictionPolicy": ""}, {"maxUnavailable": 1}),
        (
            2,
            {"unhealthyPodEvictionPolicy": "IfHealthyBudget"},
            {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "IfHealthyBudget"},
        ),
        (3, {"enabled": False}, None),
    ],
    ids=str,
)
def test_a_disruption_budget_never_blocks_draining_the_only_instance(
    helm: Helm, replicas: int, budget: Json, expected: Json | None
) -> None:
    rendered = helm.template({"replicaCount": replicas, "podDisruptionBudget": budget})

    if expected is None:
        assert "PodDisruptionBudget" not in rendered.kinds()
    else:
        spec = rendered.one("PodDisruptionBudget")["spec"]
        assert {key: value for key, value in spec.items() if key != "selector"} == expected


@pytest.mark.parametrize(("version", "known"), [("v1.26.9", False), ("v1.27.0", True)])
def test_an_eviction_policy_is_set_if_kubernetes_supports_it(
    helm: Helm, version: str, known: bool
) -> None:
    rendered = helm.template({"replicaCount": 2}, kube_version=version)

    spec = rendered.one("PodDisruptionBudget")["spec"]
    assert ("unhealthyPodEvictionPolicy" in spec) is known


def test_client_certificates_are_files(helm: Helm) -> None:
    rendered = helm.template({"linstor": {"clientSecret": "mine"}})

    assert rendered.env["LS_USER_CERTIFICATE_FILE"] == "/etc/linstor-client/tls.crt"
    assert rendered.env["LS_USER_KEY_FILE"] == "/etc/linstor-client/tls.key"
    assert rendered.env["LS_ROOT_CA_FILE"] == "/etc/linstor-client/ca.crt"
    assert {"name": "linstor-client", "secret": {"secretName": "mine"}} in rendered.pod["volumes"]
    [mount] = [m for m in rendered.container["volumeMounts"] if m["name"] == "linstor-client"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/linstor-client", True)


def test_a_ca_can_be_configured_without_a_cluster_to_query(helm: Helm) -> None:
    ca = {"kind": "ConfigMap", "name": "trust-root", "key": "root.crt"}

    alone = helm.template({"linstor": {"caReference": ca}})
    both = helm.template({"linstor": {"caReference": ca, "clientSecret": "mine"}})

    source = {"name": "trust-root", "items": [{"key": "root.crt", "path": "ca.crt"}]}
    for rendered, sources in ((alone, 1), (both, 2)):
        assert rendered.env["LS_ROOT_CA_FILE"] == "/etc/linstor-client/ca.crt"
        [volume] = [v for v in rendered.pod["volumes"] if v["name"] == "linstor-client"]
        assert len(volume["projected"]["sources"]) == sources
        assert volume["projected"]["sources"][-1] == {"configMap": source}
    assert "LS_USER_KEY_FILE" not in alone.env
    assert both.env["LS_USER_KEY_FILE"] == "/etc/linstor-client/tls.key"


def test_a_login_comes_from_its_secret(helm: Helm) -> None:
    env = helm.template({"linstor": {"loginSecret": "login"}}).container["env"]
    found = {each["name"]: each.get("valueFrom", {}).get("secretKeyRef") for each in env}

    assert found["LS_USERNAME"] == {"name": "login", "key": "username"}
    assert found["LS_PASSWORD"] == {"name": "login", "key": "password"}


def test_annotations_of_the_account_are_on_the_account_only(helm: Helm) -> None:
    rendered = helm.template({"serviceAccount": {"annotations": {"a": "b"}}})

    assert rendered.one("ServiceAccount")["metadata"]["annotations"] == {"a": "b"}
    for kind in ("ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"):
        assert "annotations" not in rendered.one(kind)["metadata"]


@pytest.mark.parametrize(
    ("monitoring", "served", "extra"),
    [
        ({}, [MONITOR, RULE], []),
        ({"enabled": True}, [], ["ConfigMap"]),
        (
            {"enabled": True},
            [MONITOR, RULE],
            ["ConfigMap", "PrometheusRule", "ServiceMonitor"],
        ),
        ({"enabled": True, "dashboard": False}, [MONITOR], ["ServiceMonitor"]),
        ({"enabled": True, "dashboard": False, "alerts": False}, [MONITOR, RULE], [MONITOR]),
        ({"enabled": True, "prometheusOperator": False}, [MONITOR, RULE], ["ConfigMap"]),
        (
            {"enabled": True, "prometheusOperator": True},
            [],
            ["ConfigMap", "PrometheusRule", "ServiceMonitor"],
        ),
    ],
    ids=str,
)
def test_resources_of_the_prometheus_operator_are_rendered_if_supported_or_enabled(
    helm: Helm, monitoring: Json, served: list[str], extra: list[str]
) -> None:
    rendered = helm.template({"monitoring": monitoring}, api_versions=served)

    kinds = [each.rpartition("/")[2] for each in extra]
    assert rendered.kinds() == sorted([*ALONE, *kinds])


def ports(rendered: Rendered) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in rendered.container.get("ports", ())}


@pytest.mark.parametrize(
    ("options", "expected", "metrics"),
    [
        ({}, {"http": 8000}, 8000),
        ({"metricsAddress": ":8001"}, {"http": 8000, "metrics": 8001}, 8001),
        ({"metricsAddress": "0.0.0.0:8001"}, {"http": 8000, "metrics": 8001}, 8001),
        ({"bindAddress": "[::]:9000"}, {"http": 9000, "metrics": 8000}, 8000),
        ({"bindAddress": ":81", "metricsAddress": "0.0.0.0:81"}, {"http": 81}, 81),
        ({"bindAddress": None}, {"http": 8000}, 8000),
        ({"metricsAddress": ""}, {"http": 8000}, None),
        ({"metricsAddress": None}, {"http": 8000}, None),
        ({"metricsAddress": "127.0.0.1:8001"}, {"http": 8000}, None),
        ({"bindAddress": ""}, {"metrics": 8000}, 8000),
        ({"bindAddress": "", "metricsAddress": ""}, {}, None),
    ],
    ids=str,
)
def test_ports_probes_and_service_follow_the_addresses(
    helm: Helm, options: Json, expected: dict[str, int], metrics: int | None
) -> None:
    rendered = helm.template(
        {"options": options, "networkPolicy": {"enabled": True}, "monitoring": {"enabled": True}},
        api_versions=[MONITOR],
    )

    assert ports(rendered) == expected
    for probe in PROBES:
        if "http" in expected:
            assert rendered.container[probe]["httpGet"]["port"] == "http"
        else:
            assert probe not in rendered.container
    services = [each for each in rendered.manifests if each["kind"] == "Service"]
    assert [each["spec"]["ports"] for each in services] == (
        [[{"name": "metrics", "port": metrics, "targetPort": metrics}]] if metrics else []
    )
    monitors = [each for each in rendered.manifests if each["kind"] == "ServiceMonitor"]
    assert [each["spec"]["endpoints"][0]["port"] for each in monitors] == (
        ["metrics"] if metrics else []
    )
    opened = rendered.one("NetworkPolicy")["spec"].get("ingress", ())
    assert sorted(port["port"] for rule in opened for port in rule["ports"]) == sorted(
        set(expected.values())
    )


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_an_address_that_the_kubelet_cannot_probe_is_rejected(helm: Helm, address: str) -> None:
    with pytest.raises(HelmError, match=r"options\.bindAddress .* is a loopback address"):
        helm.template({"options": {"bindAddress": address}})


def test_scrape_annotations_of_the_reference_name_an_open_port(helm: Helm) -> None:
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "8001"}

    rendered = helm.template(
        {"podAnnotations": annotations, "options": {"metricsAddress": ":8001"}}
    )

    metadata = rendered.one("Deployment")["spec"]["template"]["metadata"]
    assert metadata["annotations"] == annotations
    assert "--metrics-address=:8001" in rendered.container["args"]
    assert ports(rendered)["metrics"] == 8001


def test_a_disabled_address_is_passed_to_the_service(helm: Helm) -> None:
    rendered = helm.template({"options": {"bindAddress": "", "metricsAddress": ""}})

    assert {"--bind-address=", "--metrics-address="} <= set(rendered.container["args"])


def granted(rules: list[Json]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group, resource, verb in product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def used(scope: Scope) -> set[tuple[str, str, str]]:
    return {
        (each.group, each.resource, verb)
        for each in PERMISSIONS
        if each.scope is scope
        for verb in each.verbs
    }


@pytest.mark.parametrize("mode", ["deployment", "sidecar"])
def test_the_roles_grant_exactly_the_used_permissions(helm: Helm, mode: str) -> None:
    minimal = {"mode": mode, "watchLinstorDatabase": "off"}
    rendered = helm.template(minimal)
    with_database = helm.template({**minimal, "watchLinstorDatabase": "auto"})

    cluster_wide = granted(rendered.one("ClusterRole")["rules"])
    assert cluster_wide == used(Scope.CLUSTER)
    own = granted(rendered.one("Role")["rules"])
    assert own == used(Scope.JOURNAL) | used(Scope.LEASE)
    assert granted(with_database.one("ClusterRole")["rules"]) - cluster_wide == {
        (GROUP, TABLE, verb) for verb in VERBS
    }


def test_the_optional_permission_may_be_left_out(helm: Helm) -> None:
    rendered = helm.template({"rbac": {"volumeStatus": False}}, api_versions=[POLICY])

    optional = {
        (each.group, each.resource, verb)
        for each in PERMISSIONS
        if each.optional
        for verb in each.verbs
    }
    assert granted(rendered.one("ClusterRole")["rules"]) & optional == set()
    assert optional == {("", "persistentvolumes/status", "patch")}
    assert policies(rendered) == {"journal", "volumes", "account"}


def test_the_test_pod_has_a_read_only_account(helm: Helm) -> None:
    rendered = helm.template()

    pod = rendered.hook("Pod")["spec"]
    account = rendered.hook("ServiceAccount")["metadata"]["name"]
    assert pod["serviceAccountName"] == account != rendered.pod["serviceAccountName"]
    service = f"--service-account=storage/{rendered.pod['serviceAccountName']}"
    assert pod["containers"][0]["args"][:2] == ["check", service]
    reviews = ("authorization.k8s.io", "subjectaccessreviews", "create")
    assert granted(rendered.hook("ClusterRole")["rules"]) == {
        ("", "persistentvolumes", "list"),
        ("storage.k8s.io", "storageclasses", "list"),
        ("", "nodes", "list"),
        ("apps", "deployments", "list"),
        reviews,
    }
    assert granted(rendered.hook("Role")["rules"]) == {
        ("", "configmaps", "list"),
        ("coordination.k8s.io", "leases", "get"),
    }
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        assert [each["name"] for each in rendered.hook(kind)["subjects"]] == [account]


def test_dependencies_of_the_test_pod_are_created_before_and_deleted_after_it(helm: Helm) -> None:
    hooks = [each for each in helm.template().manifests if is_hook(each)]

    weights = {
        each["kind"]: int(each["metadata"]["annotations"].get("helm.sh/hook-weight", 0))
        for each in hooks
    }
    assert weights["ServiceAccount"] == weights["ClusterRole"] == weights["Role"]
    assert weights["Role"] < weights["RoleBinding"] == weights["ClusterRoleBinding"] < 0
    assert weights["Pod"] == 0
    for each in hooks:
        policy = each["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert ("hook-succeeded" in policy) is (each["kind"] != "Pod")


@pytest.mark.parametrize("rbac", [{"forCheck": False}, {"create": False}], ids=str)
def test_the_test_pod_can_use_the_account_of_the_service(helm: Helm, rbac: Json) -> None:
    rendered = helm.template({"rbac": rbac})

    assert [each["kind"] for each in rendered.manifests if is_hook(each)] == ["Pod"]
    pod = rendered.hook("Pod")["spec"]
    assert pod["serviceAccountName"] == rendered.pod["serviceAccountName"]
    assert not [arg for arg in pod["containers"][0]["args"] if "service-account" in arg]


def test_the_test_pod_can_read_a_separate_journal_namespace(helm: Helm) -> None:
    rendered = helm.template({"options": {"journalNamespace": "journal"}})

    found = {
        each["metadata"]["namespace"]: granted(each["rules"])
        for each in rendered.manifests
        if each["kind"] == "Role" and is_hook(each)
    }
    assert found == {
        "journal": {("", "configmaps", "list")},
        "storage": {("coordination.k8s.io", "leases", "get")},
    }


def roles(rendered: Rendered) -> dict[str, list[Json]]:
    """The rules of Roles, by namespace."""
    found = [each for each in rendered.manifests if each["kind"] == "Role" and not is_hook(each)]
    return {each["metadata"]["namespace"]: each["rules"] for each in found}


@pytest.mark.parametrize("name", ["", "shared"])
def test_only_one_lease_may_be_written(helm: Helm, name: str) -> None:
    rendered = helm.template({"options": {"leaseLockName": name}})

    rules = [rule for rule in roles(rendered)["storage"] if rule["resources"] == ["leases"]]
    by_name = {verb: rule.get("resourceNames") for rule in rules for verb in rule["verbs"]}
    expected = [name or "rel-linstor-affinity-events"]
    # RBAC can't restrict by name what is not there yet.
    assert by_name == {"get": expected, "update": expected, "create": None}


@pytest.mark.parametrize("off", [False, "false"])
def test_without_leader_election_no_lease_may_be_written(helm: Helm, off: Any) -> None:
    rendered = helm.template({"options": {"leaderElection": off}})

    rules = roles(rendered)["storage"]
    assert granted(rules) == used(Scope.JOURNAL)


def test_journal_and_lease_can_have_separate_namespaces(helm: Helm) -> None:
    rendered = helm.template(
        {"options": {"journalNamespace": "journal", "leaseLockNamespace": "leases"}}
    )

    rules = roles(rendered)
    assert granted(rules["journal"]) == used(Scope.JOURNAL)
    assert granted(rules["leases"]) == used(Scope.LEASE)
    assert rules.keys() == {"journal", "leases"}
    bindings = [each for each in rendered.manifests if each["kind"] == "RoleBinding"]
    assert {each["metadata"]["namespace"] for each in bindings} == rules.keys()
    for each in bindings:
        assert each["subjects"][0]["namespace"] == "storage"


POLICY = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"


def policies(rendered: Rendered) -> set[str]:
    """The names of admission policies, all of which are bound and deny."""
    kind = "ValidatingAdmissionPolicy"
    made = {each["metadata"]["name"] for each in rendered.manifests if each["kind"] == kind}
    bound = [each["spec"] for each in rendered.manifests if each["kind"] == f"{kind}Binding"]
    assert {each["policyName"] for each in bound} == made
    assert all(each["validationActions"] == ["Deny"] for each in bound)
    return {name.removeprefix("rel-linstor-affinity-events-") for name in made}


@pytest.mark.parametrize(
    ("enabled", "served", "expected"),
    [
        ("auto", [], set()),
        ("auto", [POLICY], {"journal", "volumes", "status", "account"}),
        (True, [], {"journal", "volumes", "status", "account"}),
        (False, [POLICY], set()),
        ("false", [POLICY], set()),
    ],
)
def test_admission_policies_are_rendered_if_supported_or_enabled(
    helm: Helm, enabled: Any, served: list[str], expected: set[str]
) -> None:
    values = {"rbac": {"admissionPolicy": {"enabled": enabled}}}

    assert policies(helm.template(values, api_versions=served)) == expected


@pytest.mark.parametrize(
    ("values", "user"),
    [
        ({"mode": "sidecar"}, "system:serviceaccount:storage:linstor-controller"),
        (
            {"serviceAccount": {"create": False, "name": "shared"}},
            "system:serviceaccount:storage:shared",
        ),
    ],
    ids=["sidecar", "shared"],
)
def test_a_shared_account_is_restricted_for_volumes_only(
    helm: Helm, values: Json, user: str
) -> None:
    rendered = helm.template(values, api_versions=[POLICY])

    assert policies(rendered) == {"journal", "volumes", "status"}
    for each in rendered.manifests:
        if each["kind"] == "ValidatingAdmissionPolicy":
            assert f'"{user}"' in json.dumps(each["spec"]).replace("\\", "")


def test_policies_apply_to_the_namespaces_of_journal_and_lease(helm: Helm) -> None:
    rendered = helm.template(
        {
            "options": {
                "journalNamespace": "journal",
                "leaseLockNamespace": "leases",
                "leaseLockName": "leader",
            }
        },
        api_versions=[POLICY],
    )

    specs = {
        each["metadata"]["name"].rpartition("-")[2]: each["spec"]
        for each in rendered.manifests
        if each["kind"] == "ValidatingAdmissionPolicy"
    }
    selected = specs["journal"]["matchConstraints"]["namespaceSelector"]["matchLabels"]
    assert selected == {"kubernetes.io/metadata.name": "journal"}
    maps, leases = (each["expression"] for each in specs["account"]["validations"])
    assert 'request.namespace == "journal"' in maps
    assert 'request.namespace == "leases"' in leases
    assert 'variables.name == "leader"' in leases


def test_policies_match_entries_as_the_service_writes_them(helm: Helm) -> None:
    rendered = helm.template(api_versions=[POLICY])

    spoken = [
        json.dumps(each["spec"]).replace("\\", "")
        for each in rendered.manifests
        if each["kind"] == "ValidatingAdmissionPolicy"
        and each["metadata"]["name"].endswith(("-journal", "-account"))
    ]
    for each in spoken:
        assert f'"{configmap_name(PvName(""))}"' in each
        assert f'"{LABEL}"' in each


def test_a_sidecar_gets_roles_and_no_workload(helm: Helm) -> None:
    rendered = helm.template({"mode": "sidecar"})

    assert rendered.kinds() == ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        assert rendered.one(kind)["subjects"] == [
            {"kind": "ServiceAccount", "name": "linstor-controller", "namespace": "storage"}
        ]


def test_rbac_and_account_can_be_left_to_the_user(helm: Helm) -> None:
    rendered = helm.template(
        {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "theirs"}}
    )

    assert rendered.kinds() == ["Deployment", "Service"]
    assert rendered.pod["serviceAccountName"] == "theirs"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"priorityClassName": "high"}, {"priorityClassName": "high"}),
        ({"nodeSelector": {"a": "b"}}, {"nodeSelector": {"a": "b"}}),
        ({"tolerations": [{"key": "x"}]}, {"tolerations": [{"key": "x"}]}),
        ({"affinity": {"podAffinity": {}}}, {"affinity": {"podAffinity": {}}}),
        ({"imagePullSecrets": [{"name": "s"}]}, {"imagePullSecrets": [{"name": "s"}]}),
        ({"terminationGracePeriodSeconds": 60}, {"terminationGracePeriodSeconds": 60}),
        ({"topologySpreadConstraints": []}, {"topologySpreadConstraints": None}),
        ({"topologySpreadConstraints": [{"a": 1}]}, {"topologySpreadConstraints": [{"a": 1}]}),
    ],
    ids=str,
)
def test_pod_values_are_in_the_pod_template(helm: Helm, values: Json, found: Json) -> None:
    pod = helm.template(values).pod

    assert {key: pod.get(key) for key in found} == found


def test_extras_are_added(helm: Helm) -> None:
    rendered = helm.template(
        {
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "extraArgs": ["--log-format=json"],
            "extraVolumes": [{"name": "more", "emptyDir": {}}],
            "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
            "podLabels": {"team": "storage"},
            "podAnnotations": {"seen": "yes"},
            "resources": {"limits": {"memory": "200Mi"}},
            "statusPage": False,
        }
    )

    assert rendered.env["TZ"] == "UTC"
    assert rendered.env["LINSTOR_AFFINITY_STATUS_PAGE"] == "false"
    assert rendered.container["args"][-1] == "--log-format=json"
    assert {"name": "more", "emptyDir": {}} in rendered.pod["volumes"]
    assert {"name": "more", "mountPath": "/more"} in rendered.container["volumeMounts"]
    assert rendered.container["resources"]["limits"] == {"memory": "200Mi"}
    metadata = rendered.one("Deployment")["spec"]["template"]["metadata"]
    assert metadata["labels"]["team"] == "storage"
    assert metadata["annotations"] == {"seen": "yes"}


def test_an_autoscaler_removes_replicas_from_the_deployment(helm: Helm) -> None:
    rendered = helm.template({"autoscaling": {"enabled": True, "minReplicas": 2}})

    assert "replicas" not in rendered.one("Deployment")["spec"]
    assert rendered.one("HorizontalPodAutoscaler")["spec"]["minReplicas"] == 2
    assert "PodDisruptionBudget" in rendered.kinds()


def test_the_test_hook_is_not_selected_as_an_instance(helm: Helm) -> None:
    rendered = helm.template()
    hook = rendered.hook("Pod")
    selector = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]

    assert hook["spec"]["containers"][0]["args"][0] == "check"
    assert not selector.items() <= hook["metadata"]["labels"].items()


def test_the_test_pod_has_its_own_labels_annotations_and_resources(helm: Helm) -> None:
    given = {
        "annotations": {"sidecar.istio.io/inject": "false", "helm.sh/hook": "pre-install"},
        "labels": {"team": "storage", "app.kubernetes.io/name": "linstor-affinity-events"},
        "resources": {"limits": {"memory": "300Mi"}},
    }

    pod = helm.template({"test": given}).hook("Pod")

    assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["metadata"]["labels"]["team"] == "storage"
    # Or a Service would take it for an instance.
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "linstor-affinity-events-check"
    assert pod["spec"]["containers"][0]["resources"] == {"limits": {"memory": "300Mi"}}


def test_the_test_pod_requests_the_resources_of_an_instance(helm: Helm) -> None:
    rendered = helm.template()

    [container] = rendered.hook("Pod")["spec"]["containers"]
    assert container["resources"] == rendered.container["resources"]


def test_the_log_of_the_test_pod_is_available_after_success(helm: Helm) -> None:
    annotations = helm.template().hook("Pod")["metadata"]["annotations"]

    # Helm deletes a pod with hook-succeeded before `helm test --logs` reads its log:
    # https://github.com/helm/helm/issues/9098
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation"


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_readme_of_the_chart_is_up_to_date(helm_binaries: Any, helm: Helm) -> None:
    docs = Helm(helm_binaries / "helm-docs", helm.home)

    written = docs.run(f"--chart-search-root={CHART}", "--dry-run", "--log-level=error")

    assert (CHART / "README.md").read_text().strip() == written.strip()


def test_names_can_be_overridden(helm: Helm) -> None:
    named = helm.template({"nameOverride": "short"}).one("Deployment")
    whole = helm.template({"fullnameOverride": "mine"}).one("Deployment")

    assert named["metadata"]["name"] == "rel-short"
    assert whole["metadata"]["name"] == "mine"


def test_empty_documents_of_rendered_yaml_are_skipped() -> None:
    assert Rendered.read("---\n---\nkind: A\nmetadata: {}\n").kinds() == ["A"]


@pytest.mark.parametrize("name", ["007", "null", "true", "off"])
def test_a_namespace_may_have_a_name_that_is_another_value_in_yaml(helm: Helm, name: str) -> None:
    rendered = helm.template({"options": {"journalNamespace": name}}, api_versions=[POLICY])

    [selector] = [
        each["spec"]["matchConstraints"]["namespaceSelector"]
        for each in rendered.manifests
        if each["metadata"]["name"] == "rel-linstor-affinity-events-journal"
        and each["kind"] == "ValidatingAdmissionPolicy"
    ]
    assert selector["matchLabels"] == {"kubernetes.io/metadata.name": name}
    assert granted(roles(rendered)[name]) == used(Scope.JOURNAL)
