"""Reads single values from complete PersistentVolume manifests.

Complete, because what is recreated must equal what was deleted, including fields that are newer
than this code. Typed client models would drop those.
"""

import sys
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.keys import (
    ANNOTATED_SECRETS,
    CLASS_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.names import LONGEST_NAME, ClaimName, PvName, Uid

Manifest = Mapping[str, Any]
"""The JSON of a Kubernetes object, as read. Never changed in place."""


Patch = dict[str, Any]
"""A JSON merge patch (RFC 7386)."""


RETAIN = "Retain"


def name_of(manifest: Manifest) -> PvName:
    return PvName(manifest["metadata"]["name"])


def uid_of(manifest: Manifest) -> Uid:
    return Uid(manifest["metadata"].get("uid", ""))


def version_of(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("resourceVersion", ""))


def is_terminating(manifest: Manifest) -> bool:
    return "deletionTimestamp" in manifest["metadata"]


def finalizers_of(manifest: Manifest) -> list[str]:
    return list(manifest["metadata"].get("finalizers") or ())


def annotations_of(manifest: Manifest) -> dict[str, str]:
    return dict(manifest["metadata"].get("annotations") or {})


def reclaim_policy_of(manifest: Manifest) -> str:
    return str(manifest["spec"].get("persistentVolumeReclaimPolicy", RETAIN))


def is_later(version: str, than: str) -> bool:
    """Whether a version of an object is later than another one, be it of an object of the same kind
    and name. Versions are numbers that grow, as Kubernetes promises since 1.35. Source: KEP-5504.
    """
    numbers = all(each.isdecimal() and len(each) < 20 for each in (version, than))
    return numbers and int(version) > int(than)


def volume_mode_of(manifest: Manifest) -> str:
    """Of a volume or a claim."""
    return str(manifest["spec"].get("volumeMode") or "Filesystem")


def class_of(manifest: Manifest) -> str | None:
    """The StorageClass of a volume or claim, empty if it has none; None if its annotation and its
    spec name different ones: the API server accepts that, and goes by the annotation in quotas.
    """
    named = (
        annotations_of(manifest).get(CLASS_ANNOTATION),
        manifest["spec"].get("storageClassName"),
    )
    classes = {name for name in named if name is not None}
    return None if len(classes) > 1 else next(iter(classes), "")


def phase_of(manifest: Manifest) -> str:
    return sys.intern(str((manifest.get("status") or {}).get("phase", "")))


def claim_of(manifest: Manifest) -> ClaimName | None:
    """The claim that a PersistentVolume names in its claimRef. Neither name nor uid is longer than
    those of claims, and each of different ones stays different: the API server accepts any.
    """
    ref = manifest["spec"].get("claimRef")
    if not ref:
        return None
    return ClaimName(
        namespace=sys.intern(bounded(str(ref.get("namespace", "")))),
        name=bounded(str(ref.get("name", ""))),
        uid=Uid(bounded(str(ref.get("uid", "")))),
    )


def bounded(text: str) -> str:
    """Return a text that is too long for a name by its beginning and its hash. No object, claim or
    LINSTOR resource can have that as its name.
    """
    if len(text) <= LONGEST_NAME:
        return text
    return f"{text[:40]}…{sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def secret_namespaces(manifest: Manifest) -> frozenset[str]:
    """The namespaces of all Secrets that the driver gets for the volume, its deletion, or a change
    of its VolumeAttributesClass.
    """
    refs = (
        value
        for key, value in (manifest["spec"].get("csi") or {}).items()
        if key.endswith("SecretRef") and value
    )
    found = {str(ref.get("namespace", "")) if isinstance(ref, Mapping) else "" for ref in refs}
    annotations = annotations_of(manifest)
    for secret in ANNOTATED_SECRETS:
        if annotations.get(f"{secret}-name"):
            found.add(annotations.get(f"{secret}-namespace", ""))
    return frozenset(found)


def tombstone_name(manifest: Manifest) -> str:
    return tombstone_for(uid_of(manifest))


def tombstone_for(uid: Uid) -> str:
    """The name of a claim that does not exist, for the volume of this uid."""
    return f"gone-{uid}"


def guarded(manifest: Manifest, patch: Patch) -> Patch:
    """The patch, valid only for exactly this incarnation and version."""
    guard = {"uid": uid_of(manifest), "resourceVersion": version_of(manifest)}
    return {**patch, "metadata": {**patch.get("metadata", {}), **guard}}


def affinity_patch(manifest: Manifest, affinity: NodeAffinity) -> Patch:
    return guarded(manifest, {"spec": {"nodeAffinity": affinity.manifest()}})


def bound_patch(manifest: Manifest) -> Patch:
    """Sets the phase, which is in the subresource `status`."""
    return guarded(manifest, {"status": {"phase": "Bound"}})


def skip_reclaim_of(manifest: Manifest) -> str | None:
    return annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION)
