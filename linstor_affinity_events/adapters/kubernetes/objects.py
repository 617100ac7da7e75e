"""Decodes PersistentVolumes and StorageClasses into model types.

Decoded JSON has a separate string object at each place. Volumes in memory share them: repeated
values are interned, equal affinities are one object, and so are a handle and the volume's name if
they are equal.
"""

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary, ref

from linstor_affinity_events.adapters.kubernetes.policy_yaml import parse_policy
from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.affinity import Affinity, read_affinity
from linstor_affinity_events.model.keys import (
    CLASS_ANNOTATION,
    CONTEXT_POLICY,
    DRIVER,
    OVERRIDE_PREFIX,
    SKIP_ANNOTATION,
    USES_CONTEXT,
    VolumeKey,
    parse_handle,
)
from linstor_affinity_events.model.manifest import (
    Manifest,
    annotations_of,
    bounded,
    claim_of,
    phase_of,
)
from linstor_affinity_events.model.markers import is_unfinished, owned_fields
from linstor_affinity_events.model.names import PvName, Uid
from linstor_affinity_events.model.ownership import made_by_us
from linstor_affinity_events.model.policy import (
    MAX_RULES,
    MAX_TEXT,
    PolicyReading,
    StorageClass,
    Unreadable,
    widest,
)
from linstor_affinity_events.model.volume import Volume

_affinities: WeakKeyDictionary[Affinity, ref[Affinity]] = WeakKeyDictionary()
"""Those that volumes have. Others are not kept: whoever may set affinities can set many large ones,
one after the other.
"""


def _shared(affinity: Affinity) -> Affinity:
    """Return one shared object for equal affinities; there are few different ones."""
    there = _affinities.get(affinity)
    known = None if there is None else there()
    if known is None:
        _affinities[affinity] = ref(affinity)
        return affinity
    return known


def describe(manifest: Mapping[str, Any]) -> Volume | None:
    """Return what decisions need of a PersistentVolume; None if it is not of the driver."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    csi = spec.get("csi")
    if not csi or csi.get("driver") != DRIVER:
        return None
    name, handle = PvName(metadata["name"]), bounded(str(csi.get("volumeHandle", "")))
    if handle == name:
        handle = name
    annotations = annotations_of(manifest)
    return Volume(
        name=name,
        uid=Uid(metadata.get("uid", "")),
        handle=handle,
        key=_key(handle),
        affinity=_shared(read_affinity(spec)),
        created_at=_seconds(metadata.get("creationTimestamp")),
        phase=phase_of(manifest),
        terminating="deletionTimestamp" in metadata,
        marked=is_unfinished(manifest),
        made_by_us=made_by_us(manifest),
        skip=bool(annotations.get(SKIP_ANNOTATION)),
        claim=claim_of(manifest),
        storage_class=sys.intern(bounded(str(spec.get("storageClassName") or ""))),
        override=_override(annotations),
        # Of more, whoever may annotate the volume can write thousands.
        override_names=tuple(map(sys.intern, _override_names(annotations)[: MAX_RULES + 1])),
        context=_context(csi.get("volumeAttributes") or {}),
    )


def _key(handle: str) -> VolumeKey | None:
    try:
        return parse_handle(handle)
    except BadHandle:
        return None


def _seconds(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0


def _override_names(annotations: Mapping[str, str]) -> list[str]:
    return sorted(name for name in annotations if name.startswith(OVERRIDE_PREFIX))


def _override(annotations: Mapping[str, str]) -> PolicyReading | None:
    """Return the widest of all override policies. There may be several: Piraeus' operator adds its
    own to the users' while it evacuates a node.
    """
    names = _override_names(annotations)
    if len(names) > MAX_RULES:
        return Unreadable("", f"more than {MAX_RULES} override annotations")
    if sum(len(annotations[name]) for name in names) > MAX_TEXT:
        return Unreadable("", f"override annotations of more than {MAX_TEXT} characters")
    return widest(parse_policy(annotations[name]) for name in names) if names else None


def _context(attributes: Mapping[str, str]) -> PolicyReading | None:
    """Return the policy that linstor-csi wrote, if it says that it did; empty means None."""
    text = attributes.get(CONTEXT_POLICY, "") if USES_CONTEXT in attributes else ""
    return parse_policy(text) if text else None


def reduced_claim(manifest: Mapping[str, Any]) -> Manifest:
    """What replacements need of a claim, which they keep until they end. Its owner may give it a
    megabyte of labels, which takes twenty times as much memory.
    """
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    annotations = annotations_of(manifest)
    return {
        "metadata": {
            **_only(metadata, ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp")),
            "annotations": _only(annotations, (CLASS_ANNOTATION,)),
            "managedFields": [
                {"time": entry.get("time"), "fieldsV1": {"f:status": {"f:phase": {}}}}
                for entry in metadata.get("managedFields") or ()
                if isinstance(entry, Mapping) and "f:phase" in owned_fields(entry, "f:status")
            ],
        },
        "spec": {
            **_only(
                spec,
                ("volumeName", "volumeMode", "storageClassName", "volumeAttributesClassName"),
            ),
            "resources": {"requests": _storage((spec.get("resources") or {}).get("requests"))},
        },
        "status": {
            **_only(status, ("phase", "modifyVolumeStatus", "currentVolumeAttributesClassName")),
            **{
                key: _storage(status[key])
                for key in ("capacity", "allocatedResources", "allocatedResourceStatuses")
                if status.get(key)
            },
        },
    }


def _only(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def _storage(resources: Mapping[str, Any] | None) -> dict[str, Any]:
    return _only(resources or {}, ("storage",))


def storage_class(manifest: Mapping[str, Any]) -> StorageClass:
    return StorageClass.read(
        manifest["metadata"]["name"],
        manifest.get("parameters") or {},
        parse_policy,
        is_ours=manifest.get("provisioner") == DRIVER,
        mount_options=manifest.get("mountOptions") or (),
    )
