"""The output of `plan` as a table."""

from collections import Counter
from collections.abc import Sequence

from linstor_affinity_events.cli.terminal import Cell, Screen, Styled
from linstor_affinity_events.engine.planner import MOST_READ, Finding
from linstor_affinity_events.engine.reporter import reason_of, why_of
from linstor_affinity_events.model.affinity import Affinity
from linstor_affinity_events.model.decision import Change, Resume, policy_of
from linstor_affinity_events.model.difference import Difference, shown
from linstor_affinity_events.model.policy import Unreadable

STYLES = {
    "replace": "yellow",
    "patch": "green",
    "resume": "yellow",
    "wait": "cyan",
    "refuse": "red",
    "skip": "dim",
    "none": "dim",
}

URGENT = "the current node affinity excludes all nodes with data, so no pod can start there"

HEADINGS = ("PV", "CLAIM", "POLICY", "CURRENT -> WANTED", "ACTION", "REASON")

MOST_TERMS = 6
"""The most terms shown in a cell; the others are counted."""


def policy_text(finding: Finding) -> str:
    """Return the policy and its source."""
    policy, source = policy_of(finding.case)
    if policy is None:
        return "unknown"
    text = f"not valid: {policy.text}" if isinstance(policy, Unreadable) else str(policy)
    return f"{text} ({source})"


def difference_text(was: Affinity, wanted: Affinity) -> list[Styled]:
    """Return the removed (-), added (+) and kept (=) terms, each once."""
    change = Difference.of(was, wanted)
    marked = (
        [("-" + term, "red") for term in change.goes]
        + [("+" + term, "green") for term in change.comes]
        + [("=" + term, "dim") for term in change.stays]
    )
    return _terms(marked)


def _terms(marked: Sequence[Styled]) -> list[Styled]:
    parts: list[Styled] = []
    for term in marked[:MOST_TERMS]:
        parts += [(" ", ""), term] if parts else [term]
    if len(marked) > MOST_TERMS:
        parts.append((f" and {len(marked) - MOST_TERMS} more", ""))
    return parts


def why(finding: Finding) -> str:
    """Return the reason code and the sentence; for a change, why it is urgent."""
    decision = finding.against or finding.decision
    if isinstance(decision, Change):
        return URGENT if decision.urgent else ""
    if finding.absent:
        return "it is missing, and is recreated from its journal entry"
    if isinstance(decision, Resume):
        return "its replacement was interrupted and is completed first"
    reason, text = reason_of(decision), why_of(decision)
    return f"{reason}: {text}" if reason else text


def affinity_text(finding: Finding) -> list[Styled]:
    """Return the present affinity, or the difference from the wanted one."""
    was = finding.volume.affinity
    if isinstance(finding.decision, Change):
        return difference_text(was, finding.decision.wanted)
    return _terms([(term, "") for term in shown(was)])


def print_table(findings: Sequence[Finding], *, of: int) -> None:
    """Print one row per finding, and a summary line."""
    screen = Screen()
    if findings:
        screen.table(HEADINGS, map(_row, findings), whole={"ACTION"})
    screen.line(_sum(findings, of=of))
    if sum(f.action == "replace" and f.against is None for f in findings) > MOST_READ:
        screen.line(
            f"Only the first {MOST_READ} volumes to be replaced were checked for "
            "conditions that prevent it now."
        )


def _row(finding: Finding) -> list[Cell]:
    volume = finding.volume
    return [
        volume.name,
        str(volume.claim or ""),
        policy_text(finding),
        affinity_text(finding),
        [(finding.action, STYLES[finding.action])],
        why(finding),
    ]


def _sum(findings: Sequence[Finding], *, of: int) -> str:
    if not of:
        return "No PersistentVolume of LINSTOR's CSI driver matches."
    counts = Counter(finding.action for finding in findings)
    parts = [f"{counts[action]} {action}" for action in STYLES if counts[action]]
    in_sync = of - len(findings) + counts["none"]
    parts = [part for part in parts if not part.endswith(" none")]
    return f"{of} volumes: {', '.join([f'{in_sync} in sync', *parts])}."
