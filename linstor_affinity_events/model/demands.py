"""What a PersistentVolume demands beyond holding data, and what confirms that for an absent one.

Otherwise whoever can write a journal entry, or a LINSTOR property, could have a volume mounted as
root on a node with options of their choice.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.keys import DRIVER, PROVISIONERS, VolumeKey, parse_handle
from linstor_affinity_events.model.manifest import (
    Manifest,
    annotations_of,
    claim_of,
    is_ours_to_delete,
    secret_namespaces,
    uid_of,
)
from linstor_affinity_events.model.names import Uid
from linstor_affinity_events.model.policy import StorageClass

_CONTEXT_OPTIONS, _COMMANDS = "/mount-options", "/post-mount-xfs-opts"
"""How the keys of linstor-csi's volume context end: further mount options, and commands that it has
xfs_io run on the node.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """All of these are empty for nearly every volume."""

    mount_options: tuple[str, ...] = ()
    context_options: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    """Its owner references."""

    provisioners: tuple[str, ...] = ()
    """Other drivers' provisioners, which would delete their own volume with the same handle."""

    secrets: frozenset[str] = frozenset()
    """The namespaces of its Secrets, except the namespace of its claim."""


@dataclass(frozen=True, slots=True)
class Original:
    """What was observed of a volume before it was removed, and so needs no confirmation."""

    uid: Uid
    claim: Uid
    """Of the claim that it belonged to; empty if there was none."""

    demands: Demands
    key: VolumeKey | None = None
    """The LINSTOR volume that it was for; None if it was none of LINSTOR's driver."""

    held: bool = False
    """Whether it had what this service sets before it deletes a volume."""


def original_of(manifest: Manifest) -> Original:
    named = claim_of(manifest)
    return Original(
        uid=uid_of(manifest),
        claim=Uid("") if named is None else named.uid,
        demands=demands_of(manifest),
        key=_key_of(manifest),
        held=is_ours_to_delete(manifest),
    )


def _key_of(manifest: Manifest) -> VolumeKey | None:
    csi = manifest["spec"].get("csi") or {}
    try:
        return parse_handle(csi["volumeHandle"]) if csi.get("driver") == DRIVER else None
    except BadHandle:
        return None


def demands_of(manifest: Manifest) -> Demands:
    """What a volume demands, for any content of these fields."""
    attributes = (manifest["spec"].get("csi") or {}).get("volumeAttributes") or {}
    claim = manifest["spec"].get("claimRef") or {}
    annotations = annotations_of(manifest)
    return Demands(
        mount_options=_texts(manifest["spec"].get("mountOptions")),
        context_options=_attributes(attributes, _CONTEXT_OPTIONS),
        commands=_attributes(attributes, _COMMANDS),
        owners=_texts(manifest["metadata"].get("ownerReferences")),
        provisioners=tuple(
            annotations[key] for key in PROVISIONERS if annotations.get(key, DRIVER) != DRIVER
        ),
        secrets=secret_namespaces(manifest) - {str(claim.get("namespace", ""))},
    )


def _attributes(attributes: Mapping[str, str], ending: str) -> tuple[str, ...]:
    return tuple(
        value for key, value in sorted(attributes.items()) if key.lower().endswith(ending) and value
    )


def _texts(value: object) -> tuple[str, ...]:
    if not value:
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(
        each if isinstance(each, str) else json.dumps(each, sort_keys=True) for each in items
    )


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
        "an owner": not demands.owners,
        "the provisioner of another driver": not demands.provisioners,
        "Secrets of another namespace": not demands.secrets,
    }
    return tuple(part for part, confirmed in parts.items() if not confirmed)


def _given_by(storage_class: StorageClass | None) -> Demands:
    if storage_class is None or not storage_class.is_ours:
        return Demands()
    return Demands(
        mount_options=storage_class.mount_options,
        context_options=_texts(storage_class.context_options),
        commands=_texts(storage_class.commands),
    )
