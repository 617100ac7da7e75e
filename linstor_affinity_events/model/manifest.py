"""Whole PersistentVolume manifests: the like of one, the marks on one, changes taken over.

Whole, because what is created again must equal what was deleted, including fields that are
newer than this code. Typed client models would drop those.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.keys import (
    BOUND_BY_CONTROLLER,
    FINALIZER,
    MARK_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    PROVISIONER_FINALIZER,
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


def mark_patch(manifest: Manifest) -> Patch:
    """Retain, skip-reclaim, our finalizer, and in an annotation what they replaced."""
    before = {
        "reclaimPolicy": reclaim_policy_of(manifest),
        "skipReclaim": annotations_of(manifest).get(SKIP_RECLAIM_ANNOTATION),
    }
    finalizers = finalizers_of(manifest)
    if not is_terminating(manifest) and FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    annotations: dict[str, str] = {SKIP_RECLAIM_ANNOTATION: "true"}
    if FINALIZER not in manifest["metadata"].get("finalizers", ()) or (
        MARK_ANNOTATION not in annotations_of(manifest)
    ):
        annotations[MARK_ANNOTATION] = json.dumps(before, separators=(",", ":"))
    return guarded(
        manifest,
        {
            "metadata": {"finalizers": finalizers, "annotations": annotations},
            "spec": {"persistentVolumeReclaimPolicy": RETAIN},
        },
    )


def unmark_patch(manifest: Manifest, policy: str, skip_reclaim: str | None) -> Patch:
    """Take the marks back; a policy that somebody else has set meanwhile stays."""
    now = reclaim_policy_of(manifest)
    return guarded(
        manifest,
        {
            "metadata": {
                "finalizers": [f for f in finalizers_of(manifest) if f != FINALIZER],
                "annotations": {MARK_ANNOTATION: None, SKIP_RECLAIM_ANNOTATION: skip_reclaim},
            },
            "spec": {"persistentVolumeReclaimPolicy": policy if now == RETAIN else now},
        },
    )


def unmark_and_retain_patch(manifest: Manifest, policy: str, skip_reclaim: str | None) -> Patch:
    """Take the marks back but for Retain; the policy that it had goes into an annotation."""
    patch = unmark_patch(manifest, RETAIN, skip_reclaim)
    if policy != RETAIN and reclaim_policy_of(manifest) == RETAIN:
        patch["metadata"]["annotations"][ORIGINAL_POLICY_ANNOTATION] = policy
    return patch


def mark_on(manifest: Manifest) -> tuple[str, str | None] | None:
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
    return f"gone-{uid_of(manifest)}"


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
