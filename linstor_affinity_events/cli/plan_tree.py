"""The output of `plan` for programs: JSON or YAML with stable fields."""

from collections.abc import Sequence
from typing import Any

from linstor_affinity_events.cli.plan_table import why
from linstor_affinity_events.cli.terminal import print_json, print_yaml
from linstor_affinity_events.engine.planner import Finding
from linstor_affinity_events.engine.reporter import reason_of
from linstor_affinity_events.model.affinity import Affinity, NodeAffinity
from linstor_affinity_events.model.decision import Change, passed, policy_of
from linstor_affinity_events.model.policy import Policy, Unreadable


def print_tree(findings: Sequence[Finding], output: str, *, explained: bool) -> None:
    trees = [tree(finding, explained=explained) for finding in findings]
    if output == "json":
        print_json(trees)
    else:
        print_yaml(trees)


def tree(finding: Finding, *, explained: bool) -> dict[str, Any]:
    """Return one finding; `wanted` is null if nothing has to change."""
    volume, decision = finding.volume, finding.decision
    change = decision if isinstance(decision, Change) else None
    found: dict[str, Any] = {
        "volume": str(volume.name),
        "claim": None if volume.claim is None else str(volume.claim),
        "storageClass": volume.storage_class or None,
        "resource": None if volume.key is None else str(volume.key.resource),
        "volumeNumber": None if volume.key is None else volume.key.number,
        "policy": _policy(finding),
        "current": _affinity(volume.affinity),
        "wanted": None if change is None else _affinity(change.wanted),
        "action": finding.action,
        "urgent": change is not None and change.urgent,
        "reason": reason_of(finding.against or decision) or None,
        "message": why(finding) or None,
    }
    if explained:
        found["replicas"] = _replicas(finding)
        found["passed"] = list(passed(finding.case))
    return found


def _policy(finding: Finding) -> dict[str, Any] | None:
    policy, source = policy_of(finding.case)
    match policy:
        case None:
            return None
        case Unreadable(text, reason):
            return {"source": source, "invalid": text, "message": reason}
        case Policy(rules):
            return {"source": source, "fromSame": [sorted(rule) for rule in rules]}


def _affinity(affinity: Affinity) -> Any:
    """Return the affinity as in a manifest; null if there is none, which admits every node."""
    return affinity.manifest() if isinstance(affinity, NodeAffinity) else {"foreign": str(affinity)}


def _replicas(finding: Finding) -> list[dict[str, Any]]:
    case = finding.case
    return [
        {
            "node": str(replica.node),
            "flags": sorted(replica.flags),
            "hasData": replica.serves,
            "labels": dict(case.nodes.labels.get(replica.node, {})),
        }
        for replica in (() if case.placement is None else case.placement.replicas)
    ]
