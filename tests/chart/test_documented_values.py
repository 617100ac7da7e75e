"""Each set of values that the documentation names: helm lint finds nothing to say, and the schema
of the API server takes every object that is rendered.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, SOMEWHERE, Helm, merged
from tests.chart.test_install import SERVED, apply
from tests.testbed.clusters import Cluster

Json = dict[str, Any]

TOP = CHART.parent
DOCUMENTS = [TOP / "README.md", CHART / "README.md", *sorted((TOP / "docs").glob("*.md"))]
CLIENT: Json = {"clientSecret": "linstor-client-tls"}
HTTPS = "https://localhost:3371"


def _file(path: Path) -> Json:
    values: Json = yaml.safe_load(path.read_text())
    return values


CASES: dict[str, Json] = {
    # README.md and chart/README.md
    "defaults": {},
    "several": {"replicaCount": 3, "terminationGracePeriodSeconds": 60},
    "tls": {"linstor": {**CLIENT, "endpoint": HTTPS, "namespace": "elsewhere"}},
    "ca": {"linstor": {**CLIENT, "caReference": {"name": "ca", "kind": "ConfigMap"}}},
    "openshift": _file(CHART / "values-openshift.yaml"),
    "reference": _file(Path(__file__).parent / "reference_values.yaml"),
    "reference-on-openshift": merged(
        _file(Path(__file__).parent / "reference_values.yaml"),
        _file(CHART / "values-openshift.yaml"),
        {"networkPolicy": {"enabled": True}},
    ),
    "pace": {"options": {"reconcileRate": "15s"}, "serviceAccount": {"annotations": {"a": "b"}}},
    "budget": {"replicaCount": 2, "podDisruptionBudget": {"minAvailable": 1}},
    # docs/sidecar.md
    "sidecar": {"mode": "sidecar", "sidecar": {"serviceAccountName": "mine"}},
    "sidecar-tls": {
        "mode": "sidecar",
        "linstor": {**CLIENT, "endpoint": HTTPS},
        "extraEnv": [{"name": "LS_TLS_SERVER_NAME", "value": "linstor-controller.storage.svc"}],
    },
    # docs/security.md
    "hardened": {
        # A namespace that every cluster has; the chart does not create the one that is named.
        "options": {"journalNamespace": "default", "takeOverSavedVolumes": "off"},
        "networkPolicy": {"enabled": True},
        "statusPage": "local",
        "linstor": CLIENT,
    },
    "no-admission-policy": {"rbac": {"admissionPolicy": {"enabled": "false"}}},
    # docs/permissions.md
    "secrets-of-classes": {"rbac": {"admissionPolicy": {"secretNamespaces": ["class-secrets"]}}},
    "no-volume-status": {"rbac": {"volumeStatus": False}},
    "no-account-for-check": {"rbac": {"forCheck": False}},
    "no-database": {"watchLinstorDatabase": "off"},
    # docs/operations.md and docs/alerts.md
    "monitoring": {"monitoring": {"enabled": True, "runbookBaseUrl": "https://docs.example.com"}},
    "scraped": {
        "podAnnotations": {"prometheus.io/scrape": "true"},
        "options": {"metricsAddress": ":9100"},
    },
    "login": {"linstor": {"loginSecret": "linstor-login"}},
}


def named_values() -> set[str]:
    """Paths of values that a document names, by what it sets or what it puts between backticks."""
    known = set(yaml.safe_load((CHART / "values.yaml").read_text()))
    named: set[str] = set()
    for document in DOCUMENTS:
        # The table of all values is made from values.yaml, and names no combination.
        text = document.read_text().partition("## Values")[0]
        named |= set(re.findall(r"--set '?([a-zA-Z.]+)", text))
        named |= set(re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)*)(?:[:=][^`]*)?`", text))
    return {name for name in named if name.partition(".")[0] in known}


def paths(tree: Json, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{key}.")


def test_every_documented_value_is_in_a_case() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    real = set(paths(yaml.safe_load((CHART / "values.yaml").read_text())))
    real |= {f"options.{name}" for name in schema["properties"]["options"]["properties"]}
    tried = {path for values in CASES.values() for path in paths(values)}

    # Names of other things, such as the driver linstor.csi.linbit.com, look like paths as well.
    named = named_values() & real

    assert len(named) > 20
    assert named <= tried


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_helm_lints_them_strictly(helm: Helm, values: Json) -> None:
    said = helm.run("lint", str(CHART), "--strict", values=merged(SOMEWHERE, values))

    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said


@pytest.mark.real
@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
async def test_the_api_server_accepts_the_rendered_objects(
    there: Helm, cluster: Cluster, values: Json
) -> None:
    rendered = there.template(values, api_versions=SERVED)

    for manifest in rendered.manifests:
        await apply(cluster, _checked_as(manifest))


def _checked_as(manifest: Json) -> Json:
    """The same object; a pod as a template, since one of its own needs its account to be there."""
    if manifest["kind"] != "Pod":
        return manifest
    template = {key: manifest[key] for key in ("metadata", "spec")}
    return {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {key: manifest["metadata"][key] for key in ("name", "namespace")},
        "template": template,
    }


async def test_a_field_unknown_to_the_schema_is_rejected(cluster: Cluster) -> None:
    odd = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "odd"}, "template": {}}
    odd["metadata"] = {"name": "odd", "namespace": "default"}
    odd["template"] = {"spec": {"containers": [{"name": "a", "image": "b", "imagePulPolicy": "c"}]}}

    with pytest.raises(AssertionError, match="imagePulPolicy"):
        await apply(cluster, odd)
