"""The output of `plan` for one volume: its state, each rule that applied, and the decision."""

from collections.abc import Iterator

from linstor_affinity_events.cli.plan_table import URGENT, affinity_text, policy_text, why
from linstor_affinity_events.cli.terminal import Screen
from linstor_affinity_events.engine.planner import Finding
from linstor_affinity_events.model.decision import Change, InSync, passed, policy_of
from linstor_affinity_events.model.difference import shown
from linstor_affinity_events.model.placement import Replica
from linstor_affinity_events.model.policy import Policy

ACTIONS = {
    "none": "in sync: the node affinity is correct",
    "patch": "patch: set the node affinity in place, because it is unset",
    "replace": (
        "replace: delete and recreate the PersistentVolume with the wanted node "
        "affinity, or change it in place if the cluster allows that. The data is not "
        "touched"
    ),
    "resume": "resume: complete the replacement that was interrupted",
    "skip": "skip: do nothing",
    "wait": "wait: retry later",
    "refuse": "refuse: do not change it, and report why",
}


def explain(finding: Finding) -> None:
    """Print everything that the decision on one volume depends on."""
    screen = Screen()
    volume = finding.volume
    screen.line((f"PersistentVolume {volume.name}", "bold"))
    _line(screen, "claim", str(volume.claim or "none"))
    _line(screen, "resource", f"{volume.key or 'none'} (handle {volume.handle!r})")
    _line(screen, "class", volume.storage_class or "none")
    _line(screen, "phase", volume.phase or "unset")
    _line(screen, "policy", policy_text(finding))
    _line(screen, "affinity", " or ".join(shown(volume.affinity)))
    _replicas(screen, finding)
    screen.line("  rules")
    for rule in passed(finding.case):
        screen.line(f"    passed  {rule}")
    for mark, text, style in _decision(finding):
        screen.line((f"    {mark:7} {text}", style))
    if isinstance(finding.decision, Change):
        _line(screen, "wanted", " or ".join(shown(finding.decision.wanted)))
        screen.line("  change    ", *affinity_text(finding))
    _line(screen, "action", ACTIONS[finding.action], style="bold")
    screen.line()


def _decision(finding: Finding) -> Iterator[tuple[str, str, str]]:
    """Return the last lines of the rules: the rule that decides, and what prevents a change."""
    match finding.decision:
        case InSync():
            yield "decides", "the node affinity matches policy and replicas", "green"
        case Change(urgent=urgent):
            more = f"; {URGENT}" if urgent else ""
            yield (
                "decides",
                f"the node affinity does not match policy and replicas{more}",
                "yellow",
            )
            if finding.against is not None:
                yield "but", why(finding), "red"
        case _:
            yield "decides", why(finding), "yellow"


def _line(screen: Screen, name: str, value: str, *, style: str = "") -> None:
    screen.line(f"  {name:9} ", (value, style))


def _replicas(screen: Screen, finding: Finding) -> None:
    placement = finding.case.placement
    if placement is None or not placement.replicas:
        _line(screen, "replicas", "none in LINSTOR")
        return
    screen.line("  replicas")
    for replica in placement.replicas:
        screen.line(f"    {_replica(finding, replica)}")
    if placement.in_motion:
        screen.line(("    LINSTOR is still changing them", "cyan"))


def _replica(finding: Finding, replica: Replica) -> str:
    flags = f", flags {' '.join(sorted(replica.flags))}" if replica.flags else ""
    if not replica.serves:
        return f"{replica.node}{flags}: not counted because of {', '.join(replica.against)}"
    labels = finding.case.nodes.labels.get(replica.node, {})
    policy, _ = policy_of(finding.case)
    keys = (
        sorted({key for rule in policy.rules for key in rule}) if isinstance(policy, Policy) else []
    )
    labels_text = ", ".join(f"{key}={labels.get(key, '(missing)')}" for key in keys)
    return f"{replica.node}{flags}: has data" + (f"; {labels_text}" if labels_text else "")
