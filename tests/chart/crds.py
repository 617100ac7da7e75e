"""Custom resources that others bring, as far as the chart speaks of them."""

from typing import Any

Json = dict[str, Any]

ANYTHING: Json = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TEXT: Json = {"type": "string"}


def _of(properties: Json, *required: str) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list_of(item: Json) -> Json:
    return {"type": "array", "items": item}


def _crd(group: str, version: str, kind: str, spec: Json, *, scope: str = "Namespaced") -> Json:
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _of({"spec": spec})},
                }
            ],
        },
    }


_MONITOR = _of(
    {
        "selector": _of({"matchLabels": {"type": "object", "additionalProperties": TEXT}}),
        "namespaceSelector": _of({"matchNames": _list_of(TEXT)}),
        "endpoints": _list_of(_of({"port": TEXT, "path": TEXT, "interval": TEXT}, "port")),
    },
    *("selector", "endpoints"),
)
_LABELS: Json = {"type": "object", "additionalProperties": TEXT}
_RULE = _of(
    {"alert": TEXT, "expr": TEXT, "for": TEXT, "labels": _LABELS, "annotations": _LABELS},
    *("alert", "expr"),
)
_RULES = _of({"groups": _list_of(_of({"name": TEXT, "rules": _list_of(_RULE)}, "name", "rules"))})

_LINSTOR_CLUSTER = _of(
    {
        "controller": _of({"enabled": {"type": "boolean"}, "podTemplate": ANYTHING}),
        "externalController": _of({"url": TEXT}, "url"),
        "apiTLS": {
            **_of(
                {
                    "apiSecretName": TEXT,
                    "clientSecretName": TEXT,
                    "caReference": _of({"kind": TEXT, "name": TEXT, "key": TEXT}, "name"),
                }
            ),
            "nullable": True,
        },
        "affinityController": _of({"enabled": {"type": "boolean"}}),
        "patches": _list_of(_of({"patch": TEXT, "target": _of({"kind": TEXT, "name": TEXT})})),
    }
)

CRDS = (
    _crd("monitoring.coreos.com", "v1", "ServiceMonitor", _MONITOR),
    _crd("monitoring.coreos.com", "v1", "PrometheusRule", _RULES),
    _crd("piraeus.io", "v1", "LinstorCluster", _LINSTOR_CLUSTER, scope="Cluster"),
    _crd("piraeus.linbit.com", "v1", "LinstorController", ANYTHING),
    _crd("linstor.linbit.com", "v1", "LinstorController", ANYTHING),
)
