"""Decides what to do for one volume, and why: the first matching rule decides."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from linstor_affinity_events.errors import BadPolicy
from linstor_affinity_events.model.affinity import (
    EVERYWHERE,
    NO_AFFINITY,
    NodeAffinity,
    desired_affinity,
)
from linstor_affinity_events.model.names import MOST_NAMED, PvName, few
from linstor_affinity_events.model.nodes import Labels, Nodes
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.policy import (
    Policy,
    PolicyReading,
    StorageClass,
    Unreadable,
)
from linstor_affinity_events.model.volume import Volume

UNKNOWN_NODE_RETRY = 2.0

LONGEST_POLICY = 200
"""Characters of a policy in a text."""


class Reason(StrEnum):
    """Why a volume is not changed; stable, for metrics and scripts."""

    BAD_HANDLE = "bad-handle"
    TWO_VOLUMES = "duplicate-handle"
    BAD_JOURNAL_ENTRY = "bad-journal-entry"
    TERMINATING = "terminating"
    SKIP_ANNOTATION = "skip-annotation"
    SKIP_PROPERTY = "skip-property"
    PHASE = "released-or-failed"
    BALANCED = "balanced-placement"
    YOUNG = "new-volume"
    NO_CLASS = "no-storage-class"
    BAD_POLICY = "bad-policy"
    UNKNOWN_RESOURCE = "unknown-resource"
    TOO_LARGE = "too-large-in-linstor"
    NO_DATA = "no-replica-with-data"
    UNKNOWN_NODE = "unknown-node"
    NO_LABELS = "node-without-label"
    NOT_BOUND = "claim-not-bound"
    RESIZING = "resize-in-flight"
    MODIFYING = "attributes-change-in-flight"
    HELD_BACK = "changed-too-often"
    FAILING = "keeps-failing"
    DIFFERENT = "created-different"
    UNKNOWN_FINALIZER = "unknown-finalizer"
    NOT_ALLOWED = "rejected-by-kubernetes"
    BLOCKED = "blocked-by-failed-creation"
    NOT_LEADING = "not-leading"


@dataclass(frozen=True, slots=True)
class InSync:
    """The affinity is correct."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The volume is excluded on purpose."""

    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """No decision is possible, or no action allowed, until something changes."""

    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not yet. Reconcile again in `after` seconds or, if that is None, at the next event or full
    reconcile.
    """

    reason: Reason
    why: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """An unfinished replacement must be finished first."""


@dataclass(frozen=True, slots=True)
class Change:
    """The affinity is wrong."""

    wanted: NodeAffinity
    policy: Policy
    in_place: bool
    """Try a PATCH: the field is unset, or the cluster is not known to reject changes."""
    urgent: bool
    """No node with data is admitted now, so no pod can start where the data is."""


Decision = InSync | Skipped | Refusal | Deferred | Resume | Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The complete input of one decision."""

    volume: Volume
    duplicates: tuple[PvName, ...] = ()
    """Other PersistentVolumes in use with the same handle."""

    has_journal_entry: bool = False
    definition: Definition | None
    """None where LINSTOR knows no such resource."""

    placement: Placement | None
    nodes: Nodes
    storage_class: StorageClass | None
    default_policy: Policy | None = None
    everywhere: NodeAffinity = NO_AFFINITY
    """The affinity for "everywhere": none, or every node that has the driver."""

    immutable: bool = False
    """Whether a node affinity, once set, is immutable in this cluster."""

    held_back: "Refusal | None" = None
    """Why the volume must not be changed again for now; None if it may be."""

    now: float
    grace: float = 10.0
    """Seconds for which a volume created by others is left to linstor-csi's caches."""
    seen_for: float = 0.0
    """How long it has appeared younger than that, by the monotonic clock."""


def policy_of(case: Case) -> tuple[PolicyReading | None, str]:
    """The policy of the volume and its source; None if its StorageClass is unknown.

    The first that exists: override annotations, volume attributes, StorageClass, default. Only a
    StorageClass of LINSTOR's driver counts: the parameters of others have another meaning.
    """
    volume = case.volume
    if volume.override is not None:
        several = "s" if len(volume.override_names) > 1 else ""
        return volume.override, f"override annotation{several} {few(volume.override_names)}"
    if volume.context is not None:
        return volume.context, "volume attributes"
    if not volume.storage_class:
        # Its layers are unknown, and so is what linstor-csi would do without a policy.
        return case.default_policy, "default, because it has no StorageClass"
    if case.storage_class is None or not case.storage_class.is_ours:
        return None, ""
    source = f"StorageClass {case.storage_class.name}"
    if case.storage_class.policy is None:
        source = f"default, because {source} sets none"
    return case.storage_class.policy_or(case.default_policy), source


def _handle_readable(case: Case) -> Decision | None:
    if case.volume.key is None:
        why = (
            f"volume handle {case.volume.handle[:80]!r} is not a valid LINSTOR volume: check "
            "who created this PersistentVolume"
        )
        return Refusal(Reason.BAD_HANDLE, why)
    return None


def _begun_is_finished(case: Case) -> Decision | None:
    if case.has_journal_entry or case.volume.marked:
        return Resume()
    return None


def _being_deleted(case: Case) -> Decision | None:
    if not case.volume.terminating:
        return None
    if case.volume.in_use and isinstance(_outcome(case), Change):
        return Deferred(
            Reason.TERMINATING,
            "another client deletes this PersistentVolume. It stays Terminating while its "
            "claim is bound, and its node affinity stays wrong. This service neither stops "
            "the deletion nor recreates the volume afterwards. To keep the data, set its "
            "reclaim policy to Retain before you delete the claim",
        )
    return Skipped(
        Reason.TERMINATING,
        "another client deletes this PersistentVolume; this service does not interfere",
    )


def _excluded(case: Case) -> Decision | None:
    if case.volume.skip:
        return Skipped(
            Reason.SKIP_ANNOTATION, "annotation piraeus.io/skip-affinity-controller is set"
        )
    if case.definition is not None and case.definition.skip:
        return Skipped(
            Reason.SKIP_PROPERTY,
            "property Aux/affinity-updater-skip of its resource definition is set",
        )
    if case.volume.phase in {"Released", "Failed"}:
        return Skipped(Reason.PHASE, f"its phase is {case.volume.phase}, so no claim can use it")
    storage_class = case.storage_class
    balanced = storage_class is not None and storage_class.is_ours and storage_class.balanced
    if balanced and case.volume.override is None:
        return Skipped(
            Reason.BALANCED,
            "its StorageClass has placementPolicy Balanced: linstor-csi sets the node affinity "
            "of such volumes itself",
        )
    return None


def _definition_known(case: Case) -> Decision | None:
    if case.definition is None or not case.definition.unreadable:
        return None
    name = case.definition.resource
    return Refusal(
        Reason.TOO_LARGE,
        f"resource definition {name} has more properties in LINSTOR than this service reads, so "
        "it is not known whether it excludes its volumes. The affinity is not changed until some "
        f"are deleted; list them with: linstor resource-definition list-properties {name}",
    )


def _no_other_in_use(case: Case) -> Decision | None:
    """If a claim uses one volume, an unused one with the same handle is a copy. Two that are in use
    are both kept in sync: docs/decisions says why.
    """
    if not case.duplicates or case.volume.in_use:
        return None
    others = few(sorted(case.duplicates))
    return Refusal(
        Reason.TWO_VOLUMES,
        f"no claim uses this PersistentVolume, and PersistentVolume {others}, which refers "
        f"to the same LINSTOR volume {case.volume.key}, is in use. If this one is not "
        "needed, set its reclaim policy to Retain before you delete it, so that the data "
        "is kept",
    )


def _old_enough(case: Case) -> Decision | None:
    # Never more than the grace period, even if the API server's clock is ahead of ours.
    left = min(case.volume.created_at + case.grace - case.now, case.grace - case.seen_for)
    if left > 0 and not case.volume.made_by_us:
        return Deferred(
            Reason.YOUNG,
            "it is younger than --new-volume-grace, so linstor-csi may still work with "
            "outdated caches; it is checked again when that time is over",
            left,
        )
    return None


def _policy_known(case: Case) -> Decision | None:
    policy, source = policy_of(case)
    if policy is None:
        name = case.volume.storage_class
        if not name:
            return Refusal(
                Reason.NO_CLASS,
                "it has no StorageClass: set --default-remote-access-policy, or "
                "set the policy in an override annotation",
            )
        what = "does not exist" if case.storage_class is None else "is for another driver"
        return Refusal(
            Reason.NO_CLASS,
            f"StorageClass {name!r} {what}: create it, or set the policy in an override annotation",
        )
    if isinstance(policy, Unreadable):
        return Refusal(
            Reason.BAD_POLICY,
            f"the policy {policy.text!r} of the {source} is not valid: {policy.why}",
        )
    return None


def _has_no_data(case: Case) -> Decision | None:
    if case.definition is None or case.placement is None:
        return Refusal(
            Reason.UNKNOWN_RESOURCE,
            f"LINSTOR has no resource {case.volume.handle.lower()!r}: check that "
            "LS_CONTROLLERS is the LINSTOR that has it, or whether it was deleted there",
        )
    if case.placement.unreadable:
        name = case.placement.resource
        return Refusal(
            Reason.TOO_LARGE,
            f"LINSTOR has more about the replicas of {name}, or more of them, than this service "
            "reads. The affinity is not changed until their properties are fewer; list the "
            f"replicas with: linstor resource list -r {name}",
        )
    serving = case.placement.serving_nodes
    if not serving:
        return Refusal(
            Reason.NO_DATA,
            f"no replica of {case.placement.resource} has usable data now; check "
            f"it with: linstor resource list -r {case.placement.resource}",
        )
    if unreadable := sorted(serving & case.nodes.unreadable):
        return Refusal(
            Reason.TOO_LARGE,
            f"LINSTOR node {few(unreadable)} has data, and more properties than this service "
            "reads, so its labels are not known. The affinity is not changed until some are "
            f"deleted; list them with: linstor node list-properties {unreadable[0]}",
        )
    unknown = sorted(serving - case.nodes.labels.keys())
    if unknown:
        return Deferred(
            Reason.UNKNOWN_NODE,
            f"LINSTOR has a replica with data on {few(unknown)}, but does not list "
            "that node yet; both are read again within seconds",
            UNKNOWN_NODE_RETRY,
        )
    return None


def _known(case: Case) -> tuple[Policy, dict[str, Labels]]:
    """The policy, and the labels of the nodes with data, after the earlier rules passed."""
    policy, _ = policy_of(case)
    if not isinstance(policy, Policy) or case.placement is None:
        raise AssertionError("an earlier rule decides these")
    return policy, {str(n): case.nodes.labels[n] for n in sorted(case.placement.serving_nodes)}


def _labels_there(case: Case) -> Decision | None:
    """A label that a node lacks is left out of its term, as in linstor-csi: it admits more nodes.
    This is only correct if the cluster does not have the label. If other nodes have it, or the
    volume's affinity requires it, or nothing would remain of an existing affinity, the label is
    missing, and the volume waits for it. A node whose labels are not known may have any.
    """
    policy, serving = _known(case)
    has, bounded = case.volume.affinity.labels, case.volume.affinity not in EVERYWHERE
    missing: list[str] = []
    number = 0
    for node, labels in serving.items():
        found: set[str] = set()
        for rule in policy.rules:
            lacks = rule.difference(labels)
            nothing_remains = bounded and len(lacks) == len(rule)
            if nothing_remains or case.nodes.unreadable:
                found |= lacks
            else:
                found |= lacks & case.nodes.all_labels | lacks & has
        number += len(found)
        if len(missing) < MOST_NAMED:
            missing += [f"{node} lacks {label}" for label in sorted(found)]
    if not missing:
        return None
    return Deferred(
        Reason.NO_LABELS,
        f"LINSTOR node {few(missing, between='; ', number=number)} (a property under "
        f"{case.nodes.namespace}), which policy '{str(policy)[:LONGEST_POLICY]}' needs. The "
        f"affinity is not changed until the node has it{_unless_readable(case.nodes)}",
    )


def _unless_readable(nodes: Nodes) -> str:
    if not nodes.unreadable:
        return ""
    return (
        f". Whether any other node has it is not known: {few(sorted(nodes.unreadable))} has more "
        "properties than this service reads"
    )


def _affinity(case: Case) -> Decision:
    policy, serving = _known(case)
    has = case.volume.affinity
    try:
        wanted = desired_affinity(serving.values(), policy)
    except BadPolicy as error:
        return Refusal(
            Reason.BAD_POLICY,
            f"policy '{str(policy)[:LONGEST_POLICY]}' has too many rules: {error}",
        )
    if wanted == NO_AFFINITY:
        wanted = case.everywhere
    if wanted == has or (wanted == NO_AFFINITY and has in EVERYWHERE):
        return InSync()
    if case.held_back is not None:
        return case.held_back
    return Change(
        wanted,
        policy,
        in_place=has == NO_AFFINITY or not case.immutable,
        urgent=isinstance(has, NodeAffinity) and not any(map(has.admits, serving.values())),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the table. It returns a decision if it matches; otherwise the volume passes."""

    passed: str
    """What is true of a volume that passes the rule."""

    decide: Callable[[Case], Decision | None]


_WHERE_TO = (
    Rule("its remote access policy is valid", _policy_known),
    Rule("a replica has data, and LINSTOR lists its node", _has_no_data),
    Rule("all nodes with data have the labels that its policy needs", _labels_there),
)

RULES = (
    Rule("its volume handle is a valid LINSTOR volume", _handle_readable),
    Rule("it has no unfinished replacement", _begun_is_finished),
    Rule("it is not being deleted", _being_deleted),
    Rule(
        "it is not excluded by annotation, property, phase or Balanced placement",
        _excluded,
    ),
    Rule("its resource definition is not too large to be read", _definition_known),
    Rule("no other PersistentVolume in use refers to the same LINSTOR volume", _no_other_in_use),
    Rule("it is old enough that linstor-csi's caches are up to date", _old_enough),
    *_WHERE_TO,
)


def decide(case: Case) -> Decision:
    """Decide what to do for a volume: the first matching rule decides."""
    return _first(RULES, case) or _affinity(case)


def _outcome(case: Case) -> Decision:
    """The decision if only policy and replicas counted."""
    return _first(_WHERE_TO, case) or _affinity(case)


def _first(rules: Iterable[Rule], case: Case) -> Decision | None:
    return next((v for rule in rules if (v := rule.decide(case)) is not None), None)


def passed(case: Case) -> tuple[str, ...]:
    """What is true of a volume, by the rules that it passed before its decision."""
    found = []
    for rule in RULES:
        if rule.decide(case) is not None:
            break
        found.append(rule.passed)
    return tuple(found)
