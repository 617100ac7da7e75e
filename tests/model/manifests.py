"""A volume and its claim as a real API server shows them, and ways to change them."""

from copy import deepcopy
from typing import Any

from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import MARKER_ANNOTATION, OURSELVES, VolumeKey
from linstor_affinity_events.model.manifest import tombstone_name
from linstor_affinity_events.model.markers import mark_patch
from linstor_affinity_events.model.names import PvName, ResourceName, Uid
from tests.fakes.kube_server.patches import MERGE, patched

Json = dict[str, Any]

PROTECTION = "kubernetes.io/pv-protection"
PROVISIONER = "external-provisioner.volume.kubernetes.io/finalizer"
HOSTNAME = "linbit.com/hostname"
PV, KEY = PvName("pvc-1"), VolumeKey(ResourceName("pvc-1"))
PV_UID, CLAIM_UID = Uid("pv-uid-1"), Uid("claim-uid-1")


def on_node(name: str) -> NodeAffinity:
    return NodeAffinity.of([frozenset({(HOSTNAME, name)})])


def volume(*, metadata: Json | None = None, **spec: Any) -> Json:
    """Bound, on node-a, policy Delete; `None` leaves a field out."""
    body = {
        "capacity": {"storage": "1Gi"},
        "csi": {"driver": "linstor.csi.linbit.com", "volumeHandle": "pvc-1", "fsType": "ext4"},
        "accessModes": ["ReadWriteOnce"],
        "claimRef": {
            "kind": "PersistentVolumeClaim",
            "namespace": "default",
            "name": "data",
            "uid": CLAIM_UID,
            "apiVersion": "v1",
            "resourceVersion": "203",
        },
        "persistentVolumeReclaimPolicy": "Delete",
        "storageClassName": "linstor",
        "volumeMode": "Filesystem",
        "nodeAffinity": on_node("node-a").manifest(),
        **spec,
    }
    return {
        "kind": "PersistentVolume",
        "apiVersion": "v1",
        "metadata": {
            "name": PV,
            "uid": PV_UID,
            "resourceVersion": "1606",
            "creationTimestamp": "2026-11-23T05:08:09Z",
            "labels": {"team": "blue"},
            "annotations": {"pv.kubernetes.io/provisioned-by": "linstor.csi.linbit.com"},
            "finalizers": [PROTECTION, PROVISIONER],
            "managedFields": [{"manager": "csi-provisioner", "operation": "Update"}],
            **(metadata or {}),
        },
        "spec": {key: value for key, value in body.items() if value is not None},
        "status": {"phase": "Bound"},
    }


def claim(*, metadata: Json | None = None, status: Json | None = None, **spec: Any) -> Json:
    """The claim of `volume`, bound to it."""
    return {
        "kind": "PersistentVolumeClaim",
        "apiVersion": "v1",
        "metadata": {
            "name": "data",
            "namespace": "default",
            "uid": CLAIM_UID,
            "resourceVersion": "1609",
            **(metadata or {}),
        },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "linstor",
            "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": PV,
            **spec,
        },
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, **(status or {})},
    }


def applied(pv: Json, patch: Json) -> Json:
    """The object after a merge patch, as the API server would make it."""
    changed: Json = patched(MERGE, deepcopy(pv), patch)
    changed["metadata"]["resourceVersion"] = str(int(pv["metadata"]["resourceVersion"]) + 1)
    return changed


def marked(pv: Json) -> Json:
    """Marked by us, and so entered among those who manage its fields."""
    return managed(applied(pv, mark_patch(pv)))


def managed(pv: Json, *, manager: str = OURSELVES) -> Json:
    """With an entry that says who wrote the annotation of our markers."""
    fields: Json = {"f:metadata": {"f:annotations": {f"f:{MARKER_ANNOTATION}": {}}}}
    entry = {"manager": manager, "operation": "Update", "fieldsV1": fields}
    others = [e for e in pv["metadata"].get("managedFields", ()) if e.get("fieldsV1") != fields]
    return with_metadata(pv, managedFields=[*others, entry])


def with_metadata(pv: Json, **changes: Any) -> Json:
    """The same with other metadata; `None` drops a field."""
    metadata = {**pv["metadata"], **changes}
    return {**pv, "metadata": {k: v for k, v in metadata.items() if v is not None}}


def with_spec(pv: Json, **changes: Any) -> Json:
    """The same with another spec; `None` drops a field."""
    spec = {**pv["spec"], **changes}
    return {**pv, "spec": {k: v for k, v in spec.items() if v is not None}}


def in_phase(pv: Json, phase: str) -> Json:
    return {**pv, "status": {"phase": phase}}


def terminating(pv: Json) -> Json:
    return with_metadata(pv, deletionTimestamp="2026-11-23T06:00:00Z", deletionGracePeriodSeconds=0)


def with_tombstone(pv: Json) -> Json:
    return with_spec(pv, claimRef={**pv["spec"]["claimRef"], "name": tombstone_name(pv)})


def begun(pv: Json, *, holder: str = "pod-1") -> JournalEntry:
    """The entry of a replacement that takes the volume to node-b."""
    return JournalEntry.begin(pv, KEY, on_node("node-b"), holder=holder)
