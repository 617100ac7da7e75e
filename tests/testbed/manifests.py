"""Volumes, claims and classes as linstor-csi and its sidecars make them."""

import copy
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

DRIVER = "linstor.csi.linbit.com"
HOSTNAME = "linbit.com/hostname"
LOCAL_CLASS, ZONE_CLASS, ANYWHERE_CLASS = "linstor-local", "linstor-zone", "linstor-anywhere"
ZONE = "topology.kubernetes.io/zone"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
SERVER_SET = {"uid", "resourceVersion", "creationTimestamp", "managedFields"}

CLASSES: dict[str, Json] = {
    LOCAL_CLASS: {f"{DRIVER}/allowRemoteVolumeAccess": "false"},
    ZONE_CLASS: {f"{DRIVER}/allowRemoteVolumeAccess": f"- fromSame: [{ZONE}]"},
    ANYWHERE_CLASS: {},
}


def storage_class(name: str, parameters: Json) -> Json:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": DRIVER,
        "parameters": parameters,
        "allowVolumeExpansion": True,
    }


def affinity(*terms: Json) -> Json | None:
    """A node affinity of terms that are labels with one value each; without terms there is none."""
    if not terms:
        return None
    return {
        "required": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": key, "operator": "In", "values": [value]}
                        for key, value in term.items()
                    ]
                }
                for term in terms
            ]
        }
    }


def on_nodes(nodes: Iterable[str]) -> Json | None:
    return affinity(*({HOSTNAME: node} for node in nodes))


def terms_of(volume: Json) -> frozenset[frozenset[tuple[str, str]]]:
    """The terms of a volume's affinity, whatever their order."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required") or {}
    return frozenset(
        frozenset((e["key"], e["values"][0]) for e in term["matchExpressions"])
        for term in required.get("nodeSelectorTerms", ())
    )


def nodes_of(volume: Json) -> frozenset[str]:
    """The host names in a volume's affinity."""
    return frozenset(value for term in terms_of(volume) for key, value in term if key == HOSTNAME)


def preserved(volume: Json) -> Json:
    """What a replacement must not touch, and the phase."""
    rest = copy.deepcopy(volume)
    rest["metadata"] = {k: v for k, v in rest["metadata"].items() if k not in SERVER_SET}
    rest["metadata"]["finalizers"] = sorted(rest["metadata"].get("finalizers", ()))
    rest["spec"].pop("nodeAffinity", None)
    rest["status"].pop("lastPhaseTransitionTime", None)
    return rest


def claim(name: str, *, storage_class: str = LOCAL_CLASS, namespace: str = "default") -> Json:
    """Without a volume's name: the binder fills it in at once when a volume names the claim, but
    looks for a volume that the claim names only every 15 s.
    """
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": storage_class,
            "volumeMode": "Filesystem",
        },
    }


def volume(
    name: str,
    *,
    claim: Json | None,
    node_affinity: Json | None,
    handle: str = "",
    storage_class: str = LOCAL_CLASS,
    policy: str = "Delete",
    annotations: Json | None = None,
    **spec: Any,
) -> Json:
    """As the provisioner makes them; `spec` replaces or adds fields."""
    made: Json = {
        "capacity": {"storage": "1Gi"},
        "csi": {"driver": DRIVER, "volumeHandle": handle or name, "fsType": "ext4"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": policy,
        "storageClassName": storage_class,
        "volumeMode": "Filesystem",
    }
    if claim is not None:
        made["claimRef"] = {
            "kind": "PersistentVolumeClaim",
            "apiVersion": "v1",
            "namespace": claim["metadata"]["namespace"],
            "name": claim["metadata"]["name"],
            "uid": claim["metadata"]["uid"],
            "resourceVersion": claim["metadata"]["resourceVersion"],
        }
    if node_affinity is not None:
        made["nodeAffinity"] = node_affinity
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {"pv.kubernetes.io/provisioned-by": DRIVER, **(annotations or {})},
            "finalizers": [
                "kubernetes.io/pv-protection",
                "external-provisioner.volume.kubernetes.io/finalizer",
            ],
        },
        "spec": {**made, **spec},
    }
