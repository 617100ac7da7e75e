"""The manifest with which a volume is recreated, and what the API server made of it."""

from collections.abc import Collection, Mapping
from typing import Any

from linstor_affinity_events.model.affinity import NodeAffinity, read_affinity
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import (
    RETAIN,
    Manifest,
    annotations_of,
    finalizers_of,
    reclaim_policy_of,
    skip_reclaim_of,
)
from linstor_affinity_events.model.markers import Before

AFFINITY_FIELD = "spec.nodeAffinity"
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
    metadata, dropped = dict(body["metadata"]), frozenset(finalizers)
    _put(metadata, "finalizers", [f for f in finalizers_of(body) if f not in dropped])
    return {**body, "metadata": metadata}


def released(manifest: Manifest) -> dict[str, Any]:
    """The body of the PUT that releases a terminating volume. It has uid and version, so it can
    never remove a later volume of the same name.

    The API server keeps `managedFields` that a request leaves out. Whoever may update a volume can
    nest them so deeply that they could be read but not written.
    """
    metadata = {**manifest["metadata"], "finalizers": []}
    metadata.pop("managedFields", None)
    return {**manifest, "metadata": metadata}


def with_annotations(manifest: Manifest, annotations: Mapping[str, str]) -> dict[str, Any]:
    """The same volume with these annotations and no others."""
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}


def with_policy(wanted: Manifest, policy: str) -> dict[str, Any]:
    return {**wanted, "spec": {**wanted["spec"], "persistentVolumeReclaimPolicy": policy}}


def protected_as(wanted: Manifest, before: Before) -> Manifest:
    """`wanted` with the policy Retain and the annotation skip-reclaim that the volume had `before`:
    of both values, the one that keeps the data counts.
    """
    policy, skip = before
    if policy == RETAIN:
        wanted = with_policy(wanted, RETAIN)
    if skip is None or (skip != "true" and skip_reclaim_of(wanted) is not None):
        return wanted
    annotations = {**annotations_of(wanted), SKIP_RECLAIM_ANNOTATION: skip}
    return with_annotations(wanted, annotations)


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
        found.append(AFFINITY_FIELD)
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
