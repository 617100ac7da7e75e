"""What a PersistentVolume asks for beyond holding data, and who may say so for one that is absent.

Whoever can write a journal entry, or a property on LINSTOR, could otherwise have a volume with
options of their choice mounted as root on a node.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from linstor_affinity_events.model.keys import DRIVER, PROVISIONERS
from linstor_affinity_events.model.manifest import (
    Manifest,
    annotations_of,
    claim_of,
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
    """The objects to whose lives it is bound."""

    provisioners: tuple[str, ...] = ()
    """Other drivers' provisioners, which would delete what has its handle among their volumes."""

    secrets: frozenset[str] = frozenset()
    """The namespaces of the Secrets that come along, the one of its claim apart."""


@dataclass(frozen=True, slots=True)
class Original:
    """What was seen of a volume before it was removed, and so need not be confirmed."""

    uid: Uid
    claim: Uid
    """Of the claim that it belonged to; empty if there was none."""

    demands: Demands


def original_of(manifest: Manifest) -> Original:
    named = claim_of(manifest)
    claim = Uid("") if named is None else named.uid
    return Original(uid_of(manifest), claim, demands_of(manifest))


def demands_of(manifest: Manifest) -> Demands:
    """What a volume asks for, whatever is written in these places."""
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
    """The parts of what a volume asks for that neither the original was seen with nor its
    StorageClass gives to all its volumes; for people to read.
    """
    if demands == original:
        return ()
    by_class = _given_by(storage_class)
    parts = {
        "mount options": demands.mount_options in {(), by_class.mount_options}
        and demands.context_options in {(), by_class.context_options},
        "commands for the node": demands.commands in {(), by_class.commands},
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
