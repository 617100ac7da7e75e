"""Complete PersistentVolume manifests: copies, replacement markers, and changes by others.

Complete, because what is recreated must equal what was deleted, including fields that are newer
than this code. Typed client models would drop those.
"""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from linstor_affinity_events.model.affinity import NodeAffinity, read_affinity
from linstor_affinity_events.model.keys import (
    BOUND_BY_CONTROLLER,
    DRIVER,
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_CLAIM_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    OURSELVES,
    OVERRIDE_PREFIX,
    PROVISIONER_FINALIZER,
    PROVISIONERS,
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
Before = tuple[str, str | None]
"""The original values of the markers: reclaim policy and annotation skip-reclaim."""

RETAIN = "Retain"
_MARK_FIELD = f"f:{MARKER_ANNOTATION}"


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
    """The namespaces of all Secrets that the driver gets for the volume or its deletion."""
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
    """The manifest to create once this one is gone: same volume, new affinity."""
    body = copy_for_create(manifest)
    wanted = affinity.manifest()
    if wanted is None:
        body["spec"].pop("nodeAffinity", None)
    else:
        body["spec"]["nodeAffinity"] = wanted
    return body


def copy_for_create(manifest: Manifest) -> dict[str, Any]:
    """A copy without the fields that the server sets and without our replacement markers.

    It shares nested values with the manifest: nothing is ever changed in place, and a replacement
    makes about ten copies.
    """
    body = {key: value for key, value in manifest.items() if key != "status"}
    body["spec"] = dict(body["spec"])
    body["metadata"] = {k: v for k, v in body["metadata"].items() if k not in SERVER_SET}
    _put(body["metadata"], "finalizers", [f for f in finalizers_of(manifest) if f != FINALIZER])
    _put(
        body["metadata"],
        "annotations",
        {k: v for k, v in annotations_of(manifest).items() if k != MARKER_ANNOTATION},
    )
    return body


def _put(where: dict[str, Any], key: str, value: list[str] | dict[str, str]) -> None:
    if value:
        where[key] = value
    else:
        where.pop(key, None)


def disowned(body: Manifest, uid: Uid) -> dict[str, Any]:
    """The same volume, `with_retain`, with a claimRef whose uid no claim has. A claim that says
    that it is bound already is bound to the volume with its uid there, whatever the names are.
    `uid` is that of the original volume.
    """
    retained = with_retain(body)
    claim = {**body["spec"]["claimRef"], "uid": tombstone_for(uid)}
    return {**retained, "spec": {**retained["spec"], "claimRef": claim}}


def detached(body: Manifest, uid: Uid) -> dict[str, Any]:
    """The same volume, `with_retain`, with a claimRef that no claim can ever match, and the
    original claim in an annotation: no claim gets it before a user has checked. `uid` is that of
    the original volume.
    """
    retained = with_retain(body)
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


def with_retain(body: Manifest) -> dict[str, Any]:
    """The same volume with policy Retain and its original policy in an annotation: its data must
    not be deleted before a user has checked.
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


def without_finalizers(body: Manifest, finalizers: Collection[str]) -> Manifest:
    """The same volume without these finalizers."""
    if not finalizers:
        return body
    metadata = dict(body["metadata"])
    _put(metadata, "finalizers", [f for f in finalizers_of(body) if f not in finalizers])
    return {**body, "metadata": metadata}


def guarded(manifest: Manifest, patch: Patch) -> Patch:
    """The patch, valid only for exactly this incarnation and version."""
    guard = {"uid": uid_of(manifest), "resourceVersion": version_of(manifest)}
    return {**patch, "metadata": {**patch.get("metadata", {}), **guard}}


def affinity_patch(manifest: Manifest, affinity: NodeAffinity) -> Patch:
    return guarded(manifest, {"spec": {"nodeAffinity": affinity.manifest()}})


def is_marked(manifest: Manifest) -> bool:
    """Whether deleting it now loses no data, and it stays until we release it."""
    return (
        FINALIZER in finalizers_of(manifest)
        and reclaim_policy_of(manifest) == RETAIN
        and annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION) == "true"
    )


def has_any_marker(manifest: Manifest) -> bool:
    """Whether any of our replacement markers is there, even if others were removed."""
    return FINALIZER in finalizers_of(manifest) or MARKER_ANNOTATION in annotations_of(manifest)


def is_safe_to_release(manifest: Manifest) -> bool:
    """As `is_marked`, for a terminating volume, to which no finalizer can be added."""
    return (
        reclaim_policy_of(manifest) == RETAIN
        and annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION) == "true"
    )


def is_ours_to_delete(manifest: Manifest) -> bool:
    """Whether something on the volume says that this service is replacing it: our finalizer, or the
    annotation with the original values, written by our own field manager. Without either, a
    volume that is being deleted is deleted by somebody else, whatever a journal entry says.
    """
    return FINALIZER in finalizers_of(manifest) or _wrote_marker(manifest)


def original_values_of(manifest: Manifest) -> Before | None:
    """The original values, if all that makes a deletion harmless is set and our own field manager
    wrote them. An annotation alone may be anybody's.
    """
    ours = is_safe_to_release(manifest) and _wrote_marker(manifest)
    return marker_of(manifest) if ours else None


def _wrote_marker(manifest: Manifest) -> bool:
    return MARKER_ANNOTATION in annotations_of(manifest) and any(
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
    """Retain, skip-reclaim, our finalizer, and the original values in an annotation.

    csi-provisioner takes its finalizer off as soon as it sees Retain. It is taken off here, because
    otherwise nearly every deletion that follows ends in a conflict first.
    """
    policy = reclaim_policy_of(manifest)
    skip = annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION)
    finalizers = finalizers_of(manifest)
    terminating = is_terminating(manifest)
    # Marked before, and somebody removed a part: the first original values count.
    known = marker_of(manifest) if FINALIZER in finalizers or terminating else None
    if known is not None:
        policy, skip = known[0] if policy == RETAIN else policy, known[1]
    held = PROVISIONER_FINALIZER in finalizers or _had_provisioner_finalizer(manifest)
    if not terminating:
        finalizers = [f for f in finalizers if f not in {FINALIZER, PROVISIONER_FINALIZER}]
        finalizers.append(FINALIZER)
    before = _marker(policy, skip, held=held)
    return guarded(
        manifest,
        {
            "metadata": {
                "finalizers": finalizers,
                "annotations": {SKIP_RECLAIM_ANNOTATION: "true", MARKER_ANNOTATION: before},
            },
            "spec": {"persistentVolumeReclaimPolicy": RETAIN},
        },
    )


def adoption_patch(manifest: Manifest, policy: str) -> Patch | None:
    """Make a volume that the reference controller is deleting ours: the annotation with the
    original values. A finalizer can't be added to it any more. None if it is there already.
    """
    if _wrote_marker(manifest):
        return None
    return guarded(
        manifest, {"metadata": {"annotations": {MARKER_ANNOTATION: _marker(policy, None)}}}
    )


def _marker(policy: str, skip: str | None, *, held: bool = False) -> str:
    values: dict[str, Any] = {"reclaimPolicy": policy, "skipReclaim": skip}
    if held:
        values["provisionerFinalizer"] = True
    return json.dumps(values, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Unmarking:
    """How our replacement markers are removed."""

    patch: Patch
    retained: bool = False
    """Whether policy Retain stays although the volume had another one, kept in an annotation."""


def unmarking(
    manifest: Manifest,
    *,
    keep: bool = False,
    own: Before | None = None,
    recorded: str | None = None,
) -> Unmarking:
    """Remove our replacement markers. The original values are restored only if all markers are
    there and ours, or if this run set them a moment ago (`own`): an annotation alone must not
    decide the policy of a volume. `keep` leaves Retain, and so does a journal entry with that
    policy (`recorded`), whatever the markers say.

    A policy that somebody else has set meanwhile stays.
    """
    finalizers = [f for f in finalizers_of(manifest) if f != FINALIZER]
    if (
        PROVISIONER_FINALIZER not in finalizers
        and not is_terminating(manifest)
        and _wrote_marker(manifest)
        and _had_provisioner_finalizer(manifest)
    ):
        finalizers.append(PROVISIONER_FINALIZER)
    patch: Patch = {
        "metadata": {"finalizers": finalizers, "annotations": {MARKER_ANNOTATION: None}}
    }
    before = own or (marker_of(manifest) if _wrote_marker(manifest) else None)
    retained = reclaim_policy_of(manifest) == RETAIN
    if before is None:
        # The original values are unknown; with our finalizer, Retain may be ours.
        return Unmarking(
            guarded(manifest, patch), retained and FINALIZER in finalizers_of(manifest)
        )
    policy, skip = before
    patch["metadata"]["annotations"][SKIP_RECLAIM_ANNOTATION] = skip
    if not retained or RETAIN in {policy, recorded}:
        return Unmarking(guarded(manifest, patch))
    retain = keep or not (own or is_marked(manifest))
    if retain:
        patch["metadata"]["annotations"][ORIGINAL_POLICY_ANNOTATION] = policy
    else:
        patch["spec"] = {"persistentVolumeReclaimPolicy": policy}
    return Unmarking(guarded(manifest, patch), retain)


def reference_unmarking(manifest: Manifest, policy: str, *, keep: bool) -> Unmarking:
    """Remove the reference controller's markers from a volume that it did not delete."""
    annotations: dict[str, str | None] = {SKIP_RECLAIM_ANNOTATION: None}
    patch: Patch = {"metadata": {"annotations": annotations}}
    retain = keep and policy != RETAIN
    if retain:
        annotations[ORIGINAL_POLICY_ANNOTATION] = policy
    else:
        patch["spec"] = {"persistentVolumeReclaimPolicy": policy}
    return Unmarking(guarded(manifest, patch), retain)


def skip_reclaim_of(manifest: Manifest) -> str | None:
    return annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION)


def marker_of(manifest: Manifest) -> Before | None:
    """The original policy and skip-reclaim in the marker; None if it is not valid."""
    values = _marker_values(manifest)
    if not {"reclaimPolicy", "skipReclaim"} <= values.keys():
        return None
    policy, skip = values["reclaimPolicy"], values["skipReclaim"]
    if not isinstance(policy, str) or policy not in {"Delete", "Recycle", RETAIN}:
        return None
    if not isinstance(skip, str | None):
        return None
    return policy, skip


def _had_provisioner_finalizer(manifest: Manifest) -> bool:
    return _marker_values(manifest).get("provisionerFinalizer") is True


def _marker_values(manifest: Manifest) -> Mapping[str, Any]:
    try:
        values = json.loads(annotations_of(manifest).get(MARKER_ANNOTATION, ""))
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, Mapping) else {}


def tombstone_name(manifest: Manifest) -> str:
    return tombstone_for(uid_of(manifest))


def tombstone_for(uid: Uid) -> str:
    """The name of a claim that does not exist, for the volume of this uid."""
    return f"gone-{uid}"


def tombstone_patch(manifest: Manifest) -> Patch:
    """Detach the claimRef: it names a claim that does not exist, uid and namespace unchanged. Then
    the binder does not change the real claim when the volume is removed.

    The volume becomes Released. If somebody set policy Delete then, the provisioner would delete
    the data; so the same write removes its finalizer, as would happen a little later anyway.
    """
    patch: Patch = {"spec": {"claimRef": {"name": tombstone_name(manifest)}}}
    finalizers = finalizers_of(manifest)
    others = [f for f in finalizers if f != PROVISIONER_FINALIZER]
    # Never the last one: that would remove the volume, with weaker guards than a PUT.
    if others and others != finalizers:
        patch["metadata"] = {"finalizers": others}
    return guarded(manifest, patch)


def released(manifest: Manifest) -> dict[str, Any]:
    """The body of the PUT that releases a terminating volume. It has uid and version, so it can
    never remove a later volume of the same name.
    """
    return {**manifest, "metadata": {**manifest["metadata"], "finalizers": []}}


_NOT_TAKEN_OVER = frozenset({"claimRef", "nodeAffinity", "persistentVolumeReclaimPolicy"})


_NOT_THEIRS = frozenset({SKIP_RECLAIM_ANNOTATION, BOUND_BY_CONTROLLER})
"""Annotations that change because of us: the binder sets bound-by-controller when it restores the
claimRef that we detached.
"""


def taken_over(wanted: Manifest, seen: Manifest) -> dict[str, Any]:
    """`wanted` with the changes that others made to the marked original since.

    Every difference outside our replacement markers is somebody's change, because `wanted` began as
    a copy. Missing finalizers are a consequence of the deletion and return; new ones count.
    """
    fresh = copy_for_create(seen)
    spec = {k: v for k, v in fresh["spec"].items() if k not in _NOT_TAKEN_OVER}
    spec |= {k: v for k, v in wanted["spec"].items() if k in _NOT_TAKEN_OVER}
    if reclaim_policy_of(seen) != RETAIN:
        spec["persistentVolumeReclaimPolicy"] = reclaim_policy_of(seen)
    # Items of a paged list have no kind and apiVersion; that is nobody's change.
    named = {key: wanted[key] for key in ("apiVersion", "kind") if key in wanted}
    result = {**fresh, **named, "spec": spec}
    theirs = annotations_of(fresh)
    kept = {k for k in theirs if k in _NOT_THEIRS or _gives_away(k, theirs[k])}
    annotations = {k: v for k, v in theirs.items() if k not in kept}
    annotations |= {k: v for k, v in annotations_of(wanted).items() if k in _NOT_THEIRS | kept}
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


def _gives_away(key: str, value: str) -> bool:
    """Whether an annotation would have another driver delete the volume. Nobody sets one on a
    volume of LINSTOR's driver for good reason, and the chart lets us create none with it.
    """
    return key in PROVISIONERS and value != DRIVER


def rebound(manifest: Manifest, claim: ClaimName | None) -> bool:
    """Whether somebody wrote a claimRef that is neither that of `claim` nor our tombstone."""
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


def as_rehearsed(wanted: Manifest, rehearsed: Manifest) -> dict[str, Any]:
    """What a dry run has shown, with the claim, policy and affinity that are wanted by now."""
    spec = {k: v for k, v in rehearsed["spec"].items() if k not in _NOT_TAKEN_OVER}
    spec |= {k: v for k, v in wanted["spec"].items() if k in _NOT_TAKEN_OVER}
    return {**rehearsed, "spec": spec}


_ADDED = frozenset({"labels", "annotations", "ownerReferences"})


def changes_decision(before: Manifest, after: Manifest) -> str | None:
    """The first changed field, by name, that requires deciding again on a volume to be replaced.
    None if only labels, annotations and owners differ, which decide nothing: these become part of
    what is wanted.
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


def created_different(asked: Manifest, made: Manifest) -> tuple[str, ...]:
    """The parts of a volume that differ from the request. An addition (a label, a finalizer, a
    field that the server sets) is no difference.
    """
    found = [
        f"spec.{key}"
        for key, value in asked["spec"].items()
        if key != "nodeAffinity" and _without_empty(made["spec"].get(key)) != _without_empty(value)
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


def _without_empty(value: Any) -> Any:
    """Without what the API server omits: empty strings and objects, and nulls."""
    if isinstance(value, Mapping):
        inner = {key: _without_empty(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each not in ("", None, {}, [])}
    return value
