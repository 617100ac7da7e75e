"""What others changed on a volume while it was replaced."""

from typing import Any

from linstor_affinity_events.model.journal_entry import Space
from linstor_affinity_events.model.keys import (
    BOUND_BY_CONTROLLER,
    DRIVER,
    ORIGINAL_POLICY_ANNOTATION,
    OVERRIDE_PREFIX,
    PROVISIONERS,
    SKIP_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import (
    RETAIN,
    Manifest,
    annotations_of,
    finalizers_of,
    reclaim_policy_of,
)
from linstor_affinity_events.model.recreation import copy_for_create, with_annotations

_NOT_TAKEN_OVER = frozenset({"claimRef", "nodeAffinity", "persistentVolumeReclaimPolicy"})


_SET_BY_US = frozenset({SKIP_RECLAIM_ANNOTATION, BOUND_BY_CONTROLLER, ORIGINAL_POLICY_ANNOTATION})
"""Annotations that change because of us: the binder sets bound-by-controller when it restores the
claimRef that we detached.
"""


def taken_over(wanted: Manifest, seen: Manifest) -> dict[str, Any]:
    """`wanted` with the changes that others made to the marked original since.

    Every difference outside our replacement markers is another client's change, because `wanted`
    began as a copy. Missing finalizers are a consequence of the deletion and return; new ones
    count.
    """
    fresh = copy_for_create(seen)
    spec = {k: v for k, v in fresh["spec"].items() if k not in _NOT_TAKEN_OVER}
    spec |= {k: v for k, v in wanted["spec"].items() if k in _NOT_TAKEN_OVER}
    if reclaim_policy_of(seen) != RETAIN:
        spec["persistentVolumeReclaimPolicy"] = reclaim_policy_of(seen)
    # Items of a paged list have no kind and apiVersion; that is nobody's change.
    named = {key: wanted[key] for key in ("apiVersion", "kind") if key in wanted}
    result = {**fresh, **named, "spec": spec}
    given = annotations_of(fresh)
    ours = {k for k in given if k in _SET_BY_US or _gives_away(k, given[k])}
    annotations = {k: v for k, v in given.items() if k not in ours}
    annotations |= {k: v for k, v in annotations_of(wanted).items() if k in _SET_BY_US | ours}
    had = finalizers_of(wanted)
    known = frozenset(had)
    finalizers = had + [f for f in finalizers_of(fresh) if f not in known]
    metadata = {
        k: v for k, v in fresh["metadata"].items() if k not in {"annotations", "finalizers"}
    }
    if annotations or "annotations" in wanted["metadata"]:
        metadata["annotations"] = annotations
    if finalizers:
        metadata["finalizers"] = finalizers
    return {**result, "metadata": metadata}


def within_space(wanted: Manifest, changed: Manifest) -> Manifest:
    """`changed`, but of the annotations in which it differs from `wanted` only the shortest if all
    of them leave no space; `wanted` if that does not help.
    """
    if Space.left_by(changed).suffices:
        return changed
    had, has = annotations_of(wanted), annotations_of(changed)
    annotations = {key: had[key] for key in had if key in has}
    left = Space.left_by(with_annotations(changed, annotations))
    if not left.suffices:
        return wanted
    new = (key for key in has if has[key] != had.get(key))
    for key in sorted(new, key=lambda key: len(key) + len(has[key])):
        left -= Space.of(key, has[key])
        if not left.suffices:
            break
        annotations[key] = has[key]
    return with_annotations(changed, annotations)


def _gives_away(key: str, value: str) -> bool:
    """Whether an annotation would have another driver delete the volume. Nobody sets one on a
    volume of LINSTOR's driver for good reason, and the chart lets us create none with it.
    """
    return key in PROVISIONERS and value != DRIVER


def as_shown_by_dry_run(wanted: Manifest, dry_run_result: Manifest) -> dict[str, Any]:
    """What a dry run has shown, with the claim, policy and affinity that are wanted by now."""
    spec = {k: v for k, v in dry_run_result["spec"].items() if k not in _NOT_TAKEN_OVER}
    spec |= {k: v for k, v in wanted["spec"].items() if k in _NOT_TAKEN_OVER}
    return {**dry_run_result, "spec": spec}


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
