"""What is to be done about one volume, and why: the first rule that fits decides."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from linstor_affinity_events.model.affinity import NO_AFFINITY, NodeAffinity, desired_affinity
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.nodes import Labels, Nodes
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.policy import (
    Policy,
    PolicyReading,
    StorageClass,
    Unreadable,
)
from linstor_affinity_events.model.volume import Volume

UNKNOWN_NODE_AGAIN = 2.0


class Reason(StrEnum):
    """Why a volume is left as it is; stable, for metrics and scripts."""

    BAD_HANDLE = "bad-handle"
    TWO_VOLUMES = "two-volumes-one-handle"
    BAD_NOTE = "bad-note"
    TERMINATING = "terminating"
    SKIP_ANNOTATION = "skip-annotation"
    SKIP_PROPERTY = "skip-property"
    PHASE = "phase"
    BALANCED = "balanced-placement"
    YOUNG = "young"
    NO_CLASS = "no-storage-class"
    BAD_POLICY = "unreadable-policy"
    UNKNOWN_RESOURCE = "unknown-resource"
    NO_DATA = "no-replica-with-data"
    UNKNOWN_NODE = "unknown-node"
    NO_LABELS = "node-without-labels"
    BUSY = "busy"
    UNKNOWN_FINALIZER = "unknown-finalizer"
    NOT_ALLOWED = "not-allowed"
    BLOCKED = "blocked-by-failed-creation"
    NOT_LEADING = "not-leading"


@dataclass(frozen=True, slots=True)
class Settled:
    """The affinity is right."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Somebody meant it to be left alone."""

    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """It can't be decided, or must not be acted on, until something changes."""

    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Later:
    """Not yet; look again in `after` seconds."""

    reason: Reason
    why: str
    after: float


@dataclass(frozen=True, slots=True)
class Resume:
    """A replacement was begun and has to be brought to its end first."""


@dataclass(frozen=True, slots=True)
class Change:
    """The affinity is wrong."""

    wanted: NodeAffinity
    policy: Policy
    in_place: bool
    """Worth a PATCH: the field is unset, or the cluster is not known to refuse changes."""
    urgent: bool
    """No node with data is admitted now, so no pod can start where the data is."""


Verdict = Settled | Skipped | Refusal | Later | Resume | Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that is known about one volume at one moment."""

    volume: Volume
    twins: tuple[PvName, ...] = ()
    """Other live PersistentVolumes with the same handle."""

    noted: bool = False
    definition: Definition | None
    """None where LINSTOR knows no such resource."""

    placement: Placement | None
    nodes: Nodes
    storage_class: StorageClass | None
    default_policy: Policy | None = None
    immutable: bool = False
    """This cluster said that a node affinity, once set, stays."""

    now: float
    grace: float = 10.0
    """Seconds in which a volume made by others is left to linstor-csi's caches."""
    seen_for: float = 0.0
    """How long it has looked younger than that, by a clock that never jumps."""


def policy_of(case: Case) -> tuple[PolicyReading | None, str]:
    """The policy that holds for the volume and where it comes from; None if its class is unknown.

    The first that exists: override annotation, volume attributes, StorageClass, default.
    """
    if case.volume.override is not None:
        return case.volume.override, "override annotation"
    if case.volume.context is not None:
        return case.volume.context, "volume attributes"
    if case.storage_class is None:
        return None, ""
    source = f"StorageClass {case.storage_class.name}"
    if case.storage_class.policy is None:
        source = "default"
    return case.storage_class.policy_or(case.default_policy), source


def _one_volume_one_handle(case: Case) -> Verdict | None:
    if case.volume.key is None:
        why = f"volume handle {case.volume.handle[:80]!r} names no LINSTOR volume"
        return Refusal(Reason.BAD_HANDLE, why)
    if case.twins:
        others = ", ".join(sorted(case.twins))
        return Refusal(
            Reason.TWO_VOLUMES,
            f"{others} names the same LINSTOR volume {case.volume.key}; delete the one too many",
        )
    return None


def _begun_is_finished(case: Case) -> Verdict | None:
    if case.noted or case.volume.marked:
        return Resume()
    return None


def _deleted_by_others(case: Case) -> Verdict | None:
    if case.volume.terminating:
        return Skipped(Reason.TERMINATING, "it is being deleted, and not by this service")
    return None


def _left_alone(case: Case) -> Verdict | None:
    if case.volume.skip:
        return Skipped(Reason.SKIP_ANNOTATION, "its skip annotation is set")
    if case.definition is not None and case.definition.skip:
        return Skipped(Reason.SKIP_PROPERTY, "the skip property of its resource definition is set")
    if case.volume.phase in {"Released", "Failed"}:
        return Skipped(Reason.PHASE, f"its phase is {case.volume.phase}")
    if case.storage_class is not None and case.storage_class.balanced:
        return Skipped(Reason.BALANCED, "linstor-csi sets the affinity of Balanced volumes itself")
    return None


def _old_enough(case: Case) -> Verdict | None:
    # Never more than the grace itself, should the API server's clock be ahead of ours.
    left = min(case.volume.created_at + case.grace - case.now, case.grace - case.seen_for)
    if left > 0 and not case.volume.made_by_us:
        return Later(Reason.YOUNG, "just created", left)
    return None


def _policy_known(case: Case) -> Verdict | None:
    policy, source = policy_of(case)
    if policy is None:
        name = case.volume.storage_class
        named = f"StorageClass {name!r} is unknown" if name else "it names no StorageClass"
        return Refusal(
            Reason.NO_CLASS, f"{named}: create it, or set the policy in an override annotation"
        )
    if isinstance(policy, Unreadable):
        return Refusal(Reason.BAD_POLICY, f"policy {policy.text!r} from the {source}: {policy.why}")
    return None


def _data_in_sight(case: Case) -> Verdict | None:
    if case.definition is None or case.placement is None:
        return Refusal(
            Reason.UNKNOWN_RESOURCE, f"LINSTOR knows no resource {case.volume.handle.lower()!r}"
        )
    serving = case.placement.serving_nodes
    if not serving:
        return Refusal(
            Reason.NO_DATA, f"no replica of {case.placement.resource} has usable data now"
        )
    strangers = sorted(serving - case.nodes.labels.keys())
    if strangers:
        return Later(
            Reason.UNKNOWN_NODE,
            f"LINSTOR's list of nodes lacks {', '.join(strangers)}",
            UNKNOWN_NODE_AGAIN,
        )
    return None


def _labels_there(case: Case, policy: Policy, serving: dict[str, Labels]) -> Verdict | None:
    """Not one label on a node means that nobody has labelled it yet, rather than that a rule
    was meant to be met by every node.
    """
    if all(rule <= {"linbit.com/hostname"} for rule in policy.rules):
        return None
    bare = sorted(node for node, labels in serving.items() if len(labels) <= 1)
    if not bare:
        return None
    return Refusal(
        Reason.NO_LABELS,
        f"LINSTOR node {', '.join(bare)} has no property under {case.nodes.namespace}/, which "
        f"policy '{policy}' needs",
    )


def _affinity(case: Case) -> Verdict:
    policy, _ = policy_of(case)
    if not isinstance(policy, Policy) or case.placement is None:
        raise AssertionError("an earlier rule answers for these")
    serving = {str(n): case.nodes.labels[n] for n in case.placement.serving_nodes}
    if (bare := _labels_there(case, policy, serving)) is not None:
        return bare
    wanted, has = desired_affinity(serving.values(), policy), case.volume.affinity
    if wanted == has:
        return Settled()
    return Change(
        wanted,
        policy,
        in_place=has == NO_AFFINITY or not case.immutable,
        urgent=isinstance(has, NodeAffinity) and not any(map(has.admits, serving.values())),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the table; it answers where it fits, and is passed otherwise."""

    passed: str
    """What is true of a volume that the rule lets pass."""

    answer: Callable[[Case], Verdict | None]


RULES = (
    Rule(
        "its handle names a LINSTOR volume, and no other PersistentVolume names the same",
        _one_volume_one_handle,
    ),
    Rule("no replacement of it was left unfinished", _begun_is_finished),
    Rule("nobody is deleting it", _deleted_by_others),
    Rule(
        "nothing says to leave it alone: annotation, property, phase or Balanced placement",
        _left_alone,
    ),
    Rule("it is not so young that linstor-csi may have given it an old affinity", _old_enough),
    Rule("its policy can be read", _policy_known),
    Rule("some replica has data, and LINSTOR knows the nodes", _data_in_sight),
)


def decide(case: Case) -> Verdict:
    """Say what is to be done about a volume: the first rule with an answer gives it."""
    for rule in RULES:
        if (verdict := rule.answer(case)) is not None:
            return verdict
    return _affinity(case)


def passed(case: Case) -> tuple[str, ...]:
    """What is true of a volume by the rules that it passes on the way to its verdict."""
    found = []
    for rule in RULES:
        if rule.answer(case) is not None:
            break
        found.append(rule.passed)
    return tuple(found)
