"""PersistentVolumes and StorageClasses: what decisions need of their JSON.

JSON has a string of its own at each place. What is kept for each volume of the cluster shares
them: what repeats is interned, and where the handle is the volume's name it is that very string.
"""

import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from linstor_affinity_events.adapters.policy_yaml import parse_policy
from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.affinity import Affinity, read_affinity
from linstor_affinity_events.model.keys import (
    CONTEXT_POLICY,
    DRIVER,
    OVERRIDE_PREFIX,
    SKIP_ANNOTATION,
    USES_CONTEXT,
    VolumeKey,
    parse_handle,
)
from linstor_affinity_events.model.manifest import annotations_of, claim_of, phase_of, wears_marks
from linstor_affinity_events.model.names import PvName, Uid
from linstor_affinity_events.model.policy import (
    MOST_RULES,
    PolicyReading,
    StorageClass,
    Unreadable,
    widest,
)
from linstor_affinity_events.model.replacement import made_by_us
from linstor_affinity_events.model.volume import Volume

_POOL_SIZE = 10_000
_affinities: dict[Affinity, Affinity] = {}


def _shared(affinity: Affinity) -> Affinity:
    """The same affinity as one object for all volumes that have it; there are few of them."""
    if len(_affinities) > _POOL_SIZE:
        _affinities.clear()
    return _affinities.setdefault(affinity, affinity)


def describe(manifest: Mapping[str, Any]) -> Volume | None:
    """A PersistentVolume as decisions see it; None if it is not of our driver."""
    metadata, spec = manifest["metadata"], manifest["spec"]
    csi = spec.get("csi")
    if not csi or csi.get("driver") != DRIVER:
        return None
    name, handle = PvName(metadata["name"]), str(csi.get("volumeHandle", ""))
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
        marked=wears_marks(manifest),
        made_by_us=made_by_us(manifest),
        skip=bool(annotations.get(SKIP_ANNOTATION)),
        claim=claim_of(manifest),
        storage_class=sys.intern(str(spec.get("storageClassName") or "")),
        override=_override(annotations),
        override_names=_override_names(annotations),
        context=_context(csi.get("volumeAttributes") or {}),
    )


def _key(handle: str) -> VolumeKey | None:
    try:
        return parse_handle(handle)
    except BadHandle:
        return None


def _seconds(timestamp: str | None) -> float:
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0


def _override_names(annotations: Mapping[str, str]) -> tuple[str, ...]:
    names = sorted(name for name in annotations if name.startswith(OVERRIDE_PREFIX))
    return tuple(map(sys.intern, names))


def _override(annotations: Mapping[str, str]) -> PolicyReading | None:
    """The widest of all, should there be several: Piraeus' operator adds one of its own while it
    evacuates a node, beside those that users have.
    """
    names = _override_names(annotations)
    if len(names) > MOST_RULES:
        return Unreadable("", f"more than {MOST_RULES} override annotations")
    return widest(parse_policy(annotations[name]) for name in names) if names else None


def _context(attributes: Mapping[str, str]) -> PolicyReading | None:
    """The policy that linstor-csi noted, if it says that it did; an empty one is none."""
    text = attributes.get(CONTEXT_POLICY, "") if USES_CONTEXT in attributes else ""
    return parse_policy(text) if text else None


def storage_class(manifest: Mapping[str, Any]) -> StorageClass:
    return StorageClass.read(
        manifest["metadata"]["name"],
        manifest.get("parameters") or {},
        parse_policy,
        is_ours=manifest.get("provisioner") == DRIVER,
        mount_options=manifest.get("mountOptions") or (),
    )
