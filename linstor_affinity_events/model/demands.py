"""What a PersistentVolume demands beyond holding data, and what confirms that for an absent one.

Otherwise whoever can write a journal entry, or a LINSTOR property, could have a volume mounted as
root on a node with options of their choice.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.keys import (
    ANNOTATED_SECRETS,
    BOUND_BY_CONTROLLER,
    CLASS_ANNOTATION,
    CONTEXT_COMMANDS,
    CONTEXT_OPTIONS,
    CONTEXT_POLICY,
    DRIVER,
    PROVISIONER_IDENTITY,
    PROVISIONERS,
    SKIP_RECLAIM_ANNOTATION,
    USES_CONTEXT,
    VolumeKey,
    parse_handle,
)
from linstor_affinity_events.model.manifest import (
    Manifest,
    annotations_of,
    claim_of,
    reclaim_policy_of,
    secret_namespaces,
    skip_reclaim_of,
    uid_of,
    volume_mode_of,
)
from linstor_affinity_events.model.markers import (
    Before,
    confirmed_values_of,
    has_any_marker,
    is_ours_to_delete,
)
from linstor_affinity_events.model.names import LONGEST_NAME, Uid
from linstor_affinity_events.model.policy import StorageClass
from linstor_affinity_events.model.quantity import memory_of

_HARMLESS = frozenset({USES_CONTEXT, CONTEXT_POLICY, PROVISIONER_IDENTITY})
"""Volume attributes that have nothing mounted or run. Newer drivers know others: with nfs-export,
linstor-csi mounts from the server that the attribute names.
"""

_FILE_SYSTEMS = frozenset({"", "ext4", "xfs"})
"""What linstor-csi formats. It mounts whatever file system the volume names: proc and sysfs too."""

_RESERVED = re.compile(r"(?:.*\.)?(?:kubernetes\.io|k8s\.io|linbit\.com)/.*")
"""Annotations that Kubernetes, its sidecars or the driver may act on, now or in later versions:
with `pv.beta.kubernetes.io/gid`, kubelet adds a group to all pods that use the volume.
"""

_KNOWN_ANNOTATIONS = frozenset(
    {
        BOUND_BY_CONTROLLER,
        # Compared with that of the claim.
        CLASS_ANNOTATION,
        # csi-resizer has it here, for the capacity in the status of the claim.
        "volume.alpha.kubernetes.io/pre-resize-capacity",
        # Keeps the data.
        SKIP_RECLAIM_ANNOTATION,
        # Their values are checked.
        *PROVISIONERS,
        *(f"{secret}-{part}" for secret in ANNOTATED_SECRETS for part in ("name", "namespace")),
    }
)

_DESCRIPTIVE = ("app.kubernetes.io/", "kubectl.kubernetes.io/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """All of these are empty for nearly every volume."""

    mount_options: tuple[str, ...] = ()
    context_options: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    """Other volume attributes."""

    file_system: tuple[str, ...] = ()
    """Unless it is one that linstor-csi formats."""

    owners: tuple[str, ...] = ()
    """Its owner references."""

    provisioners: tuple[str, ...] = ()
    """Other drivers' provisioners, which would delete their own volume with the same handle."""

    annotations: tuple[str, ...] = ()
    """Annotations of Kubernetes and LINSTOR that may give its pods more rights, or are unknown."""

    secrets: frozenset[str] = frozenset()
    """The namespaces of its Secrets, except the namespace of its claim."""


LONGEST_DEMAND = 4096
"""Bytes of memory for one kind of demand. Of a longer one the hash is kept."""


@dataclass(frozen=True, slots=True)
class Original:
    """What was observed of a volume before it was removed, and so needs no confirmation."""

    uid: Uid
    claim: Uid
    """Of the claim that it belonged to; empty if there was none."""

    demands: Demands
    key: VolumeKey | None = None
    """The LINSTOR volume that it was for; None if it was none of LINSTOR's driver."""

    mode: str = ""
    """Filesystem or Block."""

    namespace: str = ""
    """Of its claim, which its Secrets may be in."""

    held: bool = False
    """Whether it had what this service sets before it deletes a volume."""

    before: Before | None = None
    """Its reclaim policy and skip-reclaim without our replacement markers; None if others removed
    some of these.
    """


def original_of(manifest: Manifest) -> Original:
    named, skip = claim_of(manifest), skip_reclaim_of(manifest)
    return Original(
        uid=uid_of(manifest),
        claim=Uid("") if named is None else named.uid,
        demands=demands_of(manifest),
        key=_key_of(manifest),
        mode=volume_mode_of(manifest),
        namespace="" if named is None else named.namespace,
        held=is_ours_to_delete(manifest),
        before=confirmed_values_of(manifest)
        if has_any_marker(manifest)
        else (reclaim_policy_of(manifest), skip and skip[:LONGEST_NAME]),
    )


def _key_of(manifest: Manifest) -> VolumeKey | None:
    csi = manifest["spec"].get("csi") or {}
    try:
        return parse_handle(csi["volumeHandle"]) if csi.get("driver") == DRIVER else None
    except BadHandle:
        return None


def demands_of(manifest: Manifest) -> Demands:
    """What a volume demands, for any content of these fields."""
    csi = manifest["spec"].get("csi") or {}
    attributes: Mapping[str, str] = csi.get("volumeAttributes") or {}
    known = _HARMLESS | {CONTEXT_OPTIONS, CONTEXT_COMMANDS}
    file_system = _texts(csi.get("fsType"))
    claim = manifest["spec"].get("claimRef") or {}
    annotations = annotations_of(manifest)
    return Demands(
        mount_options=_texts(manifest["spec"].get("mountOptions")),
        context_options=_texts(attributes.get(CONTEXT_OPTIONS)),
        commands=_texts(attributes.get(CONTEXT_COMMANDS)),
        attributes=_compact(f"{k}={v}" for k, v in sorted(attributes.items()) if k not in known),
        file_system=() if _FILE_SYSTEMS.issuperset(file_system) else file_system,
        owners=_texts(manifest["metadata"].get("ownerReferences")),
        provisioners=_compact(
            annotations[key] for key in PROVISIONERS if annotations.get(key, DRIVER) != DRIVER
        ),
        annotations=_compact(
            f"{key}={annotations[key]}"
            for key in sorted(annotations.keys() - _KNOWN_ANNOTATIONS)
            if _RESERVED.fullmatch(key) and not key.startswith(_DESCRIPTIVE)
        ),
        secrets=frozenset(
            _compact(sorted(secret_namespaces(manifest) - {str(claim.get("namespace", ""))}))
        ),
    )


def _texts(value: object) -> tuple[str, ...]:
    if not value:
        return ()
    items = value if isinstance(value, list) else [value]
    if all(isinstance(each, str) for each in items):
        return _compact(map(str, items))
    # At once: thousands of small texts take longer than a large one.
    return _compact([json.dumps(items, sort_keys=True)])


def _compact(texts: Iterable[str]) -> tuple[str, ...]:
    """The same texts or, if they are very long, their hash: what is kept of a volume is only
    compared.
    """
    found = tuple(texts)
    if memory_of(found) <= LONGEST_DEMAND:
        return found
    digest = sha256()
    for text in found:
        encoded = text.encode(errors="surrogatepass")
        digest.update(b"%d:%b" % (len(encoded), encoded))
    return (f"sha256 {digest.hexdigest()}",)


def unconfirmed(
    demands: Demands, *, original: Demands | None, storage_class: StorageClass | None
) -> tuple[str, ...]:
    """The demands of a volume that neither its original had nor its StorageClass sets on all its
    volumes; as text for users.
    """
    if demands == original:
        return ()
    by_class = _given_by(storage_class)
    parts = {
        "mount options": demands.mount_options in {(), by_class.mount_options}
        and demands.context_options in {(), by_class.context_options},
        "commands to run on the node": demands.commands in {(), by_class.commands},
        "unknown attributes": not demands.attributes,
        "another file system": demands.file_system in {(), by_class.file_system},
        "an owner": not demands.owners,
        "the provisioner of another driver": not demands.provisioners,
        "unknown annotations of Kubernetes or LINSTOR": not demands.annotations,
        "Secrets of another namespace": not demands.secrets,
    }
    return tuple(part for part, confirmed in parts.items() if not confirmed)


def _given_by(storage_class: StorageClass | None) -> Demands:
    if storage_class is None or not storage_class.is_ours:
        return Demands()
    return Demands(
        mount_options=_compact(storage_class.mount_options),
        context_options=_texts(storage_class.context_options),
        commands=_texts(storage_class.commands),
        file_system=_texts(storage_class.file_system),
    )


def with_volume_context(manifest: Manifest, storage_class: StorageClass | None) -> Manifest:
    """The same volume, with the options and commands of its StorageClass in its attributes if
    linstor-csi wrote none there. It would take them from a property on LINSTOR, where versions
    before volume contexts put those of the StorageClass, and anybody may put others.
    """
    csi = manifest["spec"]["csi"]
    attributes = csi.get("volumeAttributes") or {}
    if USES_CONTEXT in attributes:
        return manifest
    ours = storage_class if storage_class is not None and storage_class.is_ours else None
    context = {
        USES_CONTEXT: "true",
        CONTEXT_OPTIONS: "" if ours is None else ours.context_options,
        CONTEXT_COMMANDS: "" if ours is None else ours.commands,
    }
    volume = {**csi, "volumeAttributes": {**context, **attributes}}
    return {**manifest, "spec": {**manifest["spec"], "csi": volume}}
