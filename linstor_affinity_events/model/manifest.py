"""Whole PersistentVolume manifests: the like of one, the marks on one, changes taken over.

Whole, because what is created again must equal what was deleted, including fields that are
newer than this code. Typed client models would drop those.
"""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from linstor_affinity_events.model.affinity import NodeAffinity, read_affinity
from linstor_affinity_events.model.keys import (
    BOUND_BY_CONTROLLER,
    FINALIZER,
    MARK_ANNOTATION,
    ORIGINAL_CLAIM_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    OURSELVES,
    OVERRIDE_PREFIX,
    PROVISIONER_FINALIZER,
    SKIP_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.names import ClaimName, PvName, Uid

Manifest = Mapping[str, Any]
"""The JSON of a Kubernetes object, as read. Never changed in place."""

Patch = dict[str, Any]
"""A JSON merge patch (RFC 7386)."""

SERVER_SET = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
RETAIN = "Retain"
_MARK_FIELD = f"f:{MARK_ANNOTATION}"


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


def phase_of(manifest: Manifest) -> str:
    return sys.intern(str((manifest.get("status") or {}).get("phase", "")))


def claim_of(manifest: Manifest) -> ClaimName | None:
    """The claim that a PersistentVolume names in its claimRef."""
    ref = manifest["spec"].get("claimRef")
    if not ref:
        return None
    return ClaimName(
        namespace=sys.intern(str(ref.get("namespace", ""))),
        name=str(ref.get("name", "")),
        uid=Uid(str(ref.get("uid", ""))),
    )


_DELETION_ANNOTATION = "volume.kubernetes.io/provisioner-deletion-secret-"


def secret_namespaces(manifest: Manifest) -> frozenset[str]:
    """The namespaces of all Secrets that the driver is given with the volume, or its deletion."""
    refs = (
        value
        for key, value in (manifest["spec"].get("csi") or {}).items()
        if key.endswith("SecretRef") and value
    )
    found = {str(ref.get("namespace", "")) if isinstance(ref, Mapping) else "" for ref in refs}
    annotations = annotations_of(manifest)
    if annotations.get(f"{_DELETION_ANNOTATION}name"):
        found.add(annotations.get(f"{_DELETION_ANNOTATION}namespace", ""))
    return frozenset(found)


def recreated(manifest: Manifest, affinity: NodeAffinity) -> dict[str, Any]:
    """The manifest to create once this one is gone: same volume, other affinity."""
    body = like(manifest)
    wanted = affinity.manifest()
    if wanted is None:
        body["spec"].pop("nodeAffinity", None)
    else:
        body["spec"]["nodeAffinity"] = wanted
    return body


def like(manifest: Manifest) -> dict[str, Any]:
    """All of a manifest but what the server sets and what marks it as being replaced by us.

    It shares what lies deeper with the manifest: nothing is ever changed in place, and a
    replacement makes about ten of these.
    """
    body = {key: value for key, value in manifest.items() if key != "status"}
    body["spec"] = dict(body["spec"])
    body["metadata"] = {k: v for k, v in body["metadata"].items() if k not in SERVER_SET}
    _put(body["metadata"], "finalizers", [f for f in finalizers_of(manifest) if f != FINALIZER])
    _put(
        body["metadata"],
        "annotations",
        {k: v for k, v in annotations_of(manifest).items() if k != MARK_ANNOTATION},
    )
    return body


def _put(where: dict[str, Any], key: str, value: list[str] | dict[str, str]) -> None:
    if value:
        where[key] = value
    else:
        where.pop(key, None)


def disowned(body: Manifest, uid: Uid) -> dict[str, Any]:
    """The same volume, `kept`, with a claimRef whose uid no claim has. A claim that says that it is
    bound already is bound to the volume that has its uid there, whatever the names are. `uid` is
    that of the volume which it stands for.
    """
    retained = kept(body)
    claim = {**body["spec"]["claimRef"], "uid": tombstone_for(uid)}
    return {**retained, "spec": {**retained["spec"], "claimRef": claim}}


def detached(body: Manifest, uid: Uid) -> dict[str, Any]:
    """The same volume, `kept`, with a claimRef that no claim can ever meet, and the claim that it
    named in an annotation: so nobody gets it without a person having looked. `uid` is that of the
    volume which it stands for.
    """
    retained = kept(body)
    ref = body["spec"].get("claimRef") or {}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": ref.get("namespace") or "default",
        "name": tombstone_for(uid),
        "uid": tombstone_for(uid),
    }
    annotations = annotations_of(retained)
    if ref:
        annotations[ORIGINAL_CLAIM_ANNOTATION] = f"{ref.get('namespace')}/{ref.get('name')}"
    return {
        **retained,
        "metadata": {**retained["metadata"], "annotations": annotations},
        "spec": {**retained["spec"], "claimRef": claim},
    }


def kept(body: Manifest) -> dict[str, Any]:
    """The same volume with policy Retain and its own policy in an annotation: nobody may take
    its data for garbage before a person has looked.
    """
    policy = reclaim_policy_of(body)
    if policy == RETAIN:
        return dict(body)
    annotations = {**annotations_of(body), ORIGINAL_POLICY_ANNOTATION: policy}
    return {
        **body,
        "metadata": {**body["metadata"], "annotations": annotations},
        "spec": {**body["spec"], "persistentVolumeReclaimPolicy": RETAIN},
    }


def guarded(manifest: Manifest, patch: Patch) -> Patch:
    """The patch, good for exactly this incarnation in exactly this version."""
    guard = {"uid": uid_of(manifest), "resourceVersion": version_of(manifest)}
    return {**patch, "metadata": {**patch.get("metadata", {}), **guard}}


def affinity_patch(manifest: Manifest, affinity: NodeAffinity) -> Patch:
    return guarded(manifest, {"spec": {"nodeAffinity": affinity.manifest()}})


def is_marked(manifest: Manifest) -> bool:
    """Whether deleting it now neither loses data nor makes it vanish before we let go of it."""
    return (
        FINALIZER in finalizers_of(manifest)
        and reclaim_policy_of(manifest) == RETAIN
        and annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION) == "true"
    )


def wears_marks(manifest: Manifest) -> bool:
    """Whether any of what says that we are replacing it is there, however much was taken off."""
    return FINALIZER in finalizers_of(manifest) or MARK_ANNOTATION in annotations_of(manifest)


def is_safe_to_go(manifest: Manifest) -> bool:
    """As `is_marked`, for one that is terminating already: no finalizer can be added any more."""
    return (
        reclaim_policy_of(manifest) == RETAIN
        and annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION) == "true"
    )


def marked_by_us(manifest: Manifest) -> bool:
    """As `is_marked`, and the annotation that says what the marks replaced was written by our own
    field manager. An annotation alone may be anybody's.
    """
    return is_marked(manifest) and _wrote_mark(manifest)


def _wrote_mark(manifest: Manifest) -> bool:
    return any(
        entry.get("manager") == OURSELVES and _MARK_FIELD in _owned_annotations(entry)
        for entry in manifest["metadata"].get("managedFields") or ()
        if isinstance(entry, Mapping)
    )


def _owned_annotations(entry: Mapping[str, Any]) -> Collection[str]:
    fields: Any = entry.get("fieldsV1")
    for key in ("f:metadata", "f:annotations"):
        fields = fields.get(key) if isinstance(fields, Mapping) else None
    return fields if isinstance(fields, Mapping) else ()


def mark_patch(manifest: Manifest) -> Patch:
    """Retain, skip-reclaim, our finalizer, and in an annotation what they replaced."""
    policy = reclaim_policy_of(manifest)
    skip = annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION)
    finalizers = finalizers_of(manifest)
    terminating = is_terminating(manifest)
    # Marked before, and somebody took back a part: what was there first is what counts.
    known = mark_on(manifest) if FINALIZER in finalizers or terminating else None
    if known is not None:
        policy, skip = known[0] if policy == RETAIN else policy, known[1]
    if not terminating and FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    before = json.dumps({"reclaimPolicy": policy, "skipReclaim": skip}, separators=(",", ":"))
    return guarded(
        manifest,
        {
            "metadata": {
                "finalizers": finalizers,
                "annotations": {SKIP_RECLAIM_ANNOTATION: "true", MARK_ANNOTATION: before},
            },
            "spec": {"persistentVolumeReclaimPolicy": RETAIN},
        },
    )


@dataclass(frozen=True, slots=True)
class Unmarking:
    """How our marks are taken back."""

    patch: Patch
    kept: bool = False
    """Whether policy Retain stays though the volume had another one, which an annotation names."""


Before = tuple[str, str | None]
"""What marks replaced: the reclaim policy, and the annotation skip-reclaim."""


def unmarking(
    manifest: Manifest, *, keep: bool = False, own: Before | None = None, noted: str | None = None
) -> Unmarking:
    """Take our marks back. What they replaced is restored only where all of them are there and
    ours, or where it is known (`own`) since we set them a moment ago: the policy of a volume is
    nothing that an annotation alone decides. `keep` leaves Retain, and so does a note that says it
    was the policy (`noted`), whatever the marks say.

    A policy that somebody else has set meanwhile stays.
    """
    patch: Patch = {
        "metadata": {
            "finalizers": [f for f in finalizers_of(manifest) if f != FINALIZER],
            "annotations": {MARK_ANNOTATION: None},
        }
    }
    before = own or (mark_on(manifest) if _wrote_mark(manifest) else None)
    retained = reclaim_policy_of(manifest) == RETAIN
    if before is None:
        # Nothing tells what it was; our finalizer tells that Retain may be ours.
        return Unmarking(
            guarded(manifest, patch), retained and FINALIZER in finalizers_of(manifest)
        )
    policy, skip = before
    patch["metadata"]["annotations"][SKIP_RECLAIM_ANNOTATION] = skip
    if not retained or RETAIN in {policy, noted}:
        return Unmarking(guarded(manifest, patch))
    kept = keep or not (own or is_marked(manifest))
    if kept:
        patch["metadata"]["annotations"][ORIGINAL_POLICY_ANNOTATION] = policy
    else:
        patch["spec"] = {"persistentVolumeReclaimPolicy": policy}
    return Unmarking(guarded(manifest, patch), kept)


def reference_unmarking(manifest: Manifest, policy: str, *, keep: bool) -> Unmarking:
    """Take back what the reference controller put on a volume that it did not come to delete."""
    annotations: dict[str, str | None] = {SKIP_RECLAIM_ANNOTATION: None}
    patch: Patch = {"metadata": {"annotations": annotations}}
    kept = keep and policy != RETAIN
    if kept:
        annotations[ORIGINAL_POLICY_ANNOTATION] = policy
    else:
        patch["spec"] = {"persistentVolumeReclaimPolicy": policy}
    return Unmarking(guarded(manifest, patch), kept)


def skip_reclaim_of(manifest: Manifest) -> str | None:
    return annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION)


def mark_on(manifest: Manifest) -> Before | None:
    """What the mark says to restore: policy and skip-reclaim. None if it can't be read."""
    try:
        before = json.loads(annotations_of(manifest).get(MARK_ANNOTATION, ""))
        policy, skip = before["reclaimPolicy"], before["skipReclaim"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(policy, str) or policy not in {"Delete", "Recycle", RETAIN}:
        return None
    if not isinstance(skip, str | None):
        return None
    return policy, skip


def tombstone_name(manifest: Manifest) -> str:
    return tombstone_for(uid_of(manifest))


def tombstone_for(uid: Uid) -> str:
    """The name of a claim that does not exist, for the volume of this uid."""
    return f"gone-{uid}"


def tombstone_patch(manifest: Manifest) -> Patch:
    """Let the claimRef name a claim that does not exist, uid and namespace kept: the binder then
    leaves the real claim alone when the volume goes.

    It is Released thereby. Should somebody set policy Delete just then, the provisioner would
    delete the data; so its finalizer goes in the same write, as it would by itself a little later.
    """
    patch: Patch = {"spec": {"claimRef": {"name": tombstone_name(manifest)}}}
    finalizers = finalizers_of(manifest)
    others = [f for f in finalizers if f != PROVISIONER_FINALIZER]
    # Never the last one: that would remove the volume, with weaker guards than a PUT has.
    if others and others != finalizers:
        patch["metadata"] = {"finalizers": others}
    return guarded(manifest, patch)


def released(manifest: Manifest) -> dict[str, Any]:
    """The body of the PUT that lets go of a terminating volume. It carries uid and version, so
    that it can never remove a later one of the same name.
    """
    return {**manifest, "metadata": {**manifest["metadata"], "finalizers": []}}


_NOT_TAKEN_OVER = frozenset({"claimRef", "nodeAffinity", "persistentVolumeReclaimPolicy"})


_NOT_THEIRS = frozenset({SKIP_RECLAIM_ANNOTATION, BOUND_BY_CONTROLLER})
"""Annotations that change on our account: the binder takes for its own work what it does when it
repairs the claimRef that we let point away.
"""


def taken_over(wanted: Manifest, seen: Manifest) -> dict[str, Any]:
    """`wanted` with what others changed on the marked original since, seen now.

    Everything outside our own marks that differs is somebody's change, since `wanted` began as
    a copy. Finalizers that went are a consequence of the deletion and come back; new ones count.
    """
    fresh = like(seen)
    spec = {k: v for k, v in fresh["spec"].items() if k not in _NOT_TAKEN_OVER}
    spec |= {k: v for k, v in wanted["spec"].items() if k in _NOT_TAKEN_OVER}
    if reclaim_policy_of(seen) != RETAIN:
        spec["persistentVolumeReclaimPolicy"] = reclaim_policy_of(seen)
    # Items of a list in pages come without kind and apiVersion; no change of anybody's.
    named = {key: wanted[key] for key in ("apiVersion", "kind") if key in wanted}
    result = {**fresh, **named, "spec": spec}
    annotations = {k: v for k, v in annotations_of(fresh).items() if k not in _NOT_THEIRS}
    annotations |= {k: v for k, v in annotations_of(wanted).items() if k in _NOT_THEIRS}
    had = finalizers_of(wanted)
    finalizers = had + [f for f in finalizers_of(fresh) if f not in had]
    metadata = {
        k: v for k, v in fresh["metadata"].items() if k not in {"annotations", "finalizers"}
    }
    if annotations or "annotations" in wanted["metadata"]:
        metadata["annotations"] = annotations
    if finalizers:
        metadata["finalizers"] = finalizers
    return {**result, "metadata": metadata}


def rebound(manifest: Manifest, claim: ClaimName | None) -> bool:
    """Whether somebody wrote another claimRef than the one for `claim`, our tombstone apart."""
    named = claim_of(manifest)
    if named == claim:
        return False
    if named is None or claim is None:
        return True
    return named != replace(claim, name=tombstone_name(manifest))


def with_claim_of(wanted: Manifest, seen: Manifest) -> dict[str, Any]:
    """`wanted` with the claimRef that somebody wrote on the original meanwhile."""
    spec = {k: v for k, v in wanted["spec"].items() if k != "claimRef"}
    if seen["spec"].get("claimRef"):
        spec["claimRef"] = seen["spec"]["claimRef"]
    return {**wanted, "spec": spec}


def with_policy(wanted: Manifest, policy: str) -> dict[str, Any]:
    return {**wanted, "spec": {**wanted["spec"], "persistentVolumeReclaimPolicy": policy}}


_ADDED = frozenset({"labels", "annotations", "ownerReferences"})


def decides_otherwise(before: Manifest, after: Manifest) -> str | None:
    """What others changed of a volume that is to be replaced, so that it has to be decided anew:
    the first part by name. None where only labels, annotations and owners differ, none of which
    decides; these are simply part of what is wanted.
    """
    for key in sorted(before["spec"].keys() | after["spec"].keys()):
        if before["spec"].get(key) != after["spec"].get(key):
            return f"spec.{key}"
    old, new = before["metadata"], after["metadata"]
    for key in sorted((old.keys() | new.keys()) - _ADDED):
        if old.get(key) != new.get(key):
            return f"metadata.{key}"
    was, now = annotations_of(before), annotations_of(after)
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key) and (
            key == SKIP_ANNOTATION or key.startswith(OVERRIDE_PREFIX)
        ):
            return f"metadata.annotations[{key}]"
    return None


def came_out_different(asked: Manifest, made: Manifest) -> tuple[str, ...]:
    """The parts of a volume that are otherwise than was asked for. What was added (a label, a
    finalizer, a field that the server fills in) is no difference.
    """
    found = [
        f"spec.{key}"
        for key, value in asked["spec"].items()
        if key != "nodeAffinity" and _bare(made["spec"].get(key)) != _bare(value)
    ]
    if read_affinity(asked["spec"]) != read_affinity(made["spec"]):
        found.append("spec.nodeAffinity")
    for part in ("labels", "annotations"):
        has = made["metadata"].get(part) or {}
        found += [
            f"metadata.{part}[{key}]"
            for key, value in (asked["metadata"].get(part) or {}).items()
            if has.get(key) != value
        ]
    return tuple(sorted(found))


def _bare(value: Any) -> Any:
    """Without what the API server leaves out: empty texts and objects, and nulls."""
    if isinstance(value, Mapping):
        inner = {key: _bare(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each not in ("", None, {}, [])}
    return value
