"""The smallest objects worth sending."""

from typing import Any

Json = dict[str, Any]

OURS = "linstor-affinity-events/test"
"""A finalizer that no controller knows, so that nothing but a test removes it."""


def affinity(node: str) -> Json:
    expression = {"key": "linbit.com/hostname", "operator": "In", "values": [node]}
    return {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}


def volume(name: str, *, metadata: Json | None = None, **spec: Any) -> Json:
    """A volume of a class that no other test's claims ask for; None leaves a field out."""
    full = {
        "capacity": {"storage": "1Gi"},
        "csi": {"driver": "linstor.csi.linbit.com", "volumeHandle": name},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": name,
        **spec,
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, **(metadata or {})},
        "spec": {key: value for key, value in full.items() if value is not None},
    }


def claim(name: str, *, volume_name: str | None = None, storage_class: str | None = None) -> Json:
    spec: Json = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": storage_class or name,
    }
    if volume_name is not None:
        spec["volumeName"] = volume_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def claim_ref(name: str, uid: str | None = None) -> Json:
    reference = {"kind": "PersistentVolumeClaim", "apiVersion": "v1"}
    reference |= {"namespace": "default", "name": name}
    return reference if uid is None else {**reference, "uid": uid}


def event(name: str, **changes: Any) -> Json:
    full = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "linstor-affinity-events",
        "reportingInstance": "pod-1",
        "action": "Replace",
        "reason": "Replaced",
        "type": "Normal",
        "note": "moved",
        "regarding": {"apiVersion": "v1", "kind": "PersistentVolume", "name": "pvc-1"},
        **changes,
    }
    return {key: value for key, value in full.items() if value is not None}


def lease(name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {
            "holderIdentity": "a",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:00.000000Z",
            "leaseTransitions": 0,
            **spec,
        },
    }
