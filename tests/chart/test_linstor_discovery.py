"""Where the chart finds LINSTOR and its certificates, asked of the real API server."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.chart.helm import Helm, HelmError
from tests.chart.release import DEPLOYMENTS, FULL_NAME, NAMESPACE, install
from tests.testbed.clusters import Cluster

Json = dict[str, Any]

pytestmark = pytest.mark.real

ELSEWHERE = "elsewhere"
CLUSTERS = "/apis/piraeus.io/v1/linstorclusters"
PLAIN = "http://linstor-controller.storage.svc:3370"
SECURED = "https://linstor-controller.storage.svc:3371"
OUTSIDE = "https://linstor.example.com:3371"


class Piraeus:
    """What Piraeus leaves in a cluster; all of it is taken away again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made: list[str] = []

    async def make(self, path: str, body: Json) -> None:
        await self._cluster.ask("POST", path, body)
        self._made.append(f"{path}/{body['metadata']['name']}")

    async def linstor_cluster(self, spec: Json, *, name: str = "mine") -> None:
        made = {"apiVersion": "piraeus.io/v1", "kind": "LinstorCluster", "spec": spec}
        await self.make(CLUSTERS, {**made, "metadata": {"name": name}})

    async def service(
        self, *, namespace: str = NAMESPACE, of: str = "mine", name: str = "linstor-controller"
    ) -> None:
        labels = {
            "app.kubernetes.io/component": "linstor-controller",
            "app.kubernetes.io/instance": of,
        }
        made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels}}
        spec = {"ports": [{"port": 3370}], "selector": labels}
        await self.make(f"/api/v1/namespaces/{namespace}/services", {**made, "spec": spec})

    async def controller(self, group: str, spec: Json, *, namespace: str = NAMESPACE) -> None:
        """The resource of the operator's first generation."""
        made = {"apiVersion": f"{group}/v1", "kind": "LinstorController", "spec": spec}
        path = f"/apis/{group}/v1/namespaces/{namespace}/linstorcontrollers"
        await self.make(path, {**made, "metadata": {"name": "old"}})

    async def secret(self, name: str, *keys: str) -> None:
        made = {"apiVersion": "v1", "kind": "Secret", "stringData": dict.fromkeys(keys, "PEM")}
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
        await self.make(path, {**made, "metadata": {"name": name}})

    async def leave(self) -> None:
        for path in reversed(self._made):
            await self._cluster.ask("DELETE", path)


@pytest_asyncio.fixture
async def piraeus(there: Helm, cluster: Cluster) -> AsyncIterator[Piraeus]:
    if await cluster.find(f"/api/v1/namespaces/{ELSEWHERE}") is None:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ELSEWHERE}}
        await cluster.ask("POST", "/api/v1/namespaces", namespace)
    made = Piraeus(cluster)
    yield made
    await made.leave()


class Found:
    """What an instance is configured with for LINSTOR."""

    def __init__(self, pod: Json) -> None:
        env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        self.endpoint = env["LS_CONTROLLERS"]
        self.root_ca = env.get("LS_ROOT_CA_FILE")
        self.certificate = env.get("LS_USER_CERTIFICATE_FILE")
        [self.volume] = [v for v in pod["volumes"] if v["name"] == "linstor-client"] or [{}]

    @property
    def secret(self) -> str | None:
        """The Secret that is mounted as it is."""
        name = self.volume.get("secret", {}).get("secretName")
        return None if name is None else str(name)


async def found(there: Helm, cluster: Cluster, linstor: Json) -> Found:
    await install(there, {"linstor": linstor})
    deployment = await cluster.ask("GET", f"{DEPLOYMENTS}/{FULL_NAME}")
    return Found(deployment["spec"]["template"]["spec"])


@pytest.mark.parametrize(
    ("spec", "endpoint", "secret"),
    [
        ({}, PLAIN, None),
        ({"apiTLS": {}}, SECURED, "linstor-client-tls"),
        ({"apiTLS": {"clientSecretName": "own"}}, SECURED, "own"),
        ({"externalController": {"url": "http://10.0.0.7:3370"}}, "http://10.0.0.7:3370", None),
        ({"externalController": {"url": OUTSIDE}, "apiTLS": {}}, OUTSIDE, "linstor-client-tls"),
    ],
    ids=["plain", "tls", "tls-own-secret", "external", "external-tls"],
)
async def test_the_endpoint_comes_from_the_linstor_cluster(
    there: Helm,
    cluster: Cluster,
    piraeus: Piraeus,
    spec: Json,
    endpoint: str,
    secret: str | None,
) -> None:
    await piraeus.linstor_cluster(spec)
    if "externalController" not in spec:
        await piraeus.service()

    output = await found(there, cluster, {})

    assert output.endpoint == endpoint
    assert output.secret == secret


@pytest.mark.parametrize("group", ["piraeus.linbit.com", "linstor.linbit.com"])
@pytest.mark.parametrize("secret", ["", "https-client"])
async def test_the_endpoint_comes_from_the_resource_of_the_first_operator(
    there: Helm, cluster: Cluster, piraeus: Piraeus, group: str, secret: str
) -> None:
    await piraeus.controller(group, {"linstorHttpsClientSecret": secret} if secret else {})

    output = await found(there, cluster, {})

    assert output.endpoint == (
        "https://old.storage.svc:3371" if secret else "http://old.storage.svc:3370"
    )
    assert output.secret == (secret or None)


async def test_a_linstor_cluster_without_a_service_is_an_error_that_says_so(
    there: Helm, piraeus: Piraeus
) -> None:
    await piraeus.linstor_cluster({})

    with pytest.raises(HelmError, match=r"no LINSTOR was found in namespace storage"):
        await install(there, {})


@pytest.mark.parametrize(
    ("endpoint", "secret"),
    [
        (SECURED, "own"),
        ("https://linstor-controller.storage.svc.cluster.local:3371", "own"),
        ("linstor+ssl://linstor-controller", "own"),
        ("linstor-controller.storage", "own"),
        (f"https://10.1.2.3:3371,{SECURED}", "own"),
        (PLAIN, None),
        ("https://linstor.example.com:3371", None),
        ("https://linstor-controller.elsewhere.svc:3371", None),
    ],
)
async def test_the_client_secret_is_detected_for_a_configured_endpoint(
    there: Helm, cluster: Cluster, piraeus: Piraeus, endpoint: str, secret: str | None
) -> None:
    await piraeus.linstor_cluster({"apiTLS": {"clientSecretName": "own"}})
    await piraeus.service()

    output = await found(there, cluster, {"endpoint": endpoint})

    assert output.endpoint == endpoint
    assert output.secret == secret


async def test_the_client_secret_of_an_external_controller_is_detected_by_its_address(
    there: Helm, cluster: Cluster, piraeus: Piraeus
) -> None:
    await piraeus.linstor_cluster({"externalController": {"url": OUTSIDE}, "apiTLS": {}})

    output = await found(there, cluster, {"endpoint": OUTSIDE})

    assert output.secret == "linstor-client-tls"


async def test_a_configured_client_secret_wins(
    there: Helm, cluster: Cluster, piraeus: Piraeus
) -> None:
    await piraeus.linstor_cluster({"apiTLS": {"clientSecretName": "own"}})
    await piraeus.service()

    output = await found(there, cluster, {"clientSecret": "mine"})

    assert (output.endpoint, output.secret) == (SECURED, "mine")


@pytest.mark.parametrize(
    ("reference", "source"),
    [
        (
            {"name": "trust-root", "kind": "ConfigMap", "key": "root.crt"},
            {"configMap": {"name": "trust-root", "items": [{"key": "root.crt", "path": "ca.crt"}]}},
        ),
        (
            {"name": "trust-root"},
            {"secret": {"name": "trust-root", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ),
    ],
    ids=["ConfigMap", "Secret"],
)
async def test_the_ca_is_mounted_from_the_source_in_the_linstor_cluster(
    there: Helm, cluster: Cluster, piraeus: Piraeus, reference: Json, source: Json
) -> None:
    await piraeus.linstor_cluster({"apiTLS": {"caReference": reference}})
    await piraeus.service()

    output = await found(there, cluster, {})

    pair = [{"key": key, "path": key} for key in ("tls.crt", "tls.key")]
    assert output.volume["projected"]["sources"] == [
        {"secret": {"name": "linstor-client-tls", "items": pair}},
        source,
    ]
    assert output.root_ca == "/etc/linstor-client/ca.crt"
    assert output.certificate == "/etc/linstor-client/tls.crt"


@pytest.mark.parametrize("keys", [("tls.crt", "tls.key"), ("tls.crt", "tls.key", "ca.crt"), ()])
async def test_a_client_secret_without_a_ca_uses_the_system_cas(
    there: Helm, cluster: Cluster, piraeus: Piraeus, keys: tuple[str, ...]
) -> None:
    await piraeus.linstor_cluster({"apiTLS": {}})
    await piraeus.service()
    if keys:
        await piraeus.secret("linstor-client-tls", *keys)

    output = await found(there, cluster, {})

    # A Secret that is not there yet, as before cert-manager made it, is taken to have one.
    lacks_ca = keys and "ca.crt" not in keys
    assert output.root_ca == (None if lacks_ca else "/etc/linstor-client/ca.crt")
    assert output.certificate == "/etc/linstor-client/tls.crt"


async def test_a_linstor_in_another_namespace_is_ignored(
    there: Helm, cluster: Cluster, piraeus: Piraeus
) -> None:
    await piraeus.linstor_cluster({})
    await piraeus.service(namespace=ELSEWHERE)
    await piraeus.controller("piraeus.linbit.com", {}, namespace=ELSEWHERE)

    with pytest.raises(HelmError, match=r"no LINSTOR was found in namespace storage"):
        await install(there, {})


async def test_a_service_of_another_release_is_ignored(
    there: Helm, cluster: Cluster, piraeus: Piraeus
) -> None:
    await piraeus.linstor_cluster({})
    await piraeus.service(namespace=ELSEWHERE)
    await piraeus.service()

    output = await found(there, cluster, {})

    assert output.endpoint == PLAIN


async def test_a_configured_namespace_is_searched(
    there: Helm, cluster: Cluster, piraeus: Piraeus
) -> None:
    await piraeus.linstor_cluster({})
    await piraeus.service(namespace=ELSEWHERE)

    output = await found(there, cluster, {"namespace": ELSEWHERE})

    assert output.endpoint == "http://linstor-controller.elsewhere.svc:3370"


async def test_several_linstors_are_an_error_that_names_them(there: Helm, piraeus: Piraeus) -> None:
    await piraeus.linstor_cluster({})
    await piraeus.service()
    await piraeus.linstor_cluster({"externalController": {"url": OUTSIDE}}, name="outside")
    await piraeus.controller("piraeus.linbit.com", {})

    with pytest.raises(HelmError, match="several LINSTORs were found") as refusal:
        await install(there, {})

    for name in (
        f"LinstorCluster mine at {PLAIN}",
        f"LinstorCluster outside at {OUTSIDE}",
        "LinstorController old at http://old.storage.svc:3370",
    ):
        assert name in str(refusal.value)


async def test_several_linstors_are_no_error_if_one_is_named(
    there: Helm, cluster: Cluster, piraeus: Piraeus
) -> None:
    await piraeus.linstor_cluster({"apiTLS": {}})
    await piraeus.service()
    await piraeus.linstor_cluster(
        {"externalController": {"url": OUTSIDE}, "apiTLS": {"clientSecretName": "other"}},
        name="outside",
    )

    output = await found(there, cluster, {"endpoint": OUTSIDE})

    assert (output.endpoint, output.secret) == (OUTSIDE, "other")


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        ({}, {}, {"LS_CONTROLLERS": "http://localhost:3370"}),
        (
            {"apiTLS": {}},
            {},
            {
                "LS_CONTROLLERS": "https://localhost:3371",
                "LS_TLS_SERVER_NAME": "linstor-controller.storage.svc",
                "LS_USER_KEY_FILE": "/etc/linstor-client/tls.key",
                "LS_ROOT_CA_FILE": "/etc/linstor-client/ca.crt",
            },
        ),
        (
            {"apiTLS": {}},
            {"endpoint": "https://localhost:9999", "clientSecret": "mine"},
            {
                "LS_CONTROLLERS": "https://localhost:9999",
                "LS_USER_KEY_FILE": "/etc/linstor-client/tls.key",
                "LS_ROOT_CA_FILE": "/etc/linstor-client/ca.crt",
            },
        ),
    ],
    ids=["plain", "tls", "given"],
)
async def test_a_sidecar_is_configured_to_reach_its_own_controller(
    there: Helm, piraeus: Piraeus, spec: Json, given: Json, expected: Json
) -> None:
    await piraeus.linstor_cluster(spec)
    await piraeus.service()

    said = await install(there, {"mode": "sidecar", "linstor": given})

    patch = yaml.safe_load(said[said.index("\nspec:\n  template:") :])
    pod = patch["spec"]["template"]["spec"]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    output = {name: value for name, value in env.items() if name.startswith("LS_")}
    output.pop("LS_USER_CERTIFICATE_FILE", None)
    assert output == expected
    mounted = [each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each]
    secret = given.get("clientSecret", "linstor-client-tls")
    assert mounted == ([secret] if "LS_USER_KEY_FILE" in expected else [])
