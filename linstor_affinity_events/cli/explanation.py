"""The output of `plan` for one volume: its state, each rule that applied, and the decision."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from linstor_affinity_events.cli.plan_table import URGENT, affinity_text, policy_text, why
from linstor_affinity_events.cli.terminal import console
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
    screen = console()
    volume = finding.volume
    screen.print(Text(f"PersistentVolume {volume.name}", style="bold"), soft_wrap=True)
    _line(screen, "claim", str(volume.claim or "none"))
    _line(screen, "resource", f"{volume.key or 'none'} (handle {volume.handle!r})")
    _line(screen, "class", volume.storage_class or "none")
    _line(screen, "phase", volume.phase or "unset")
    _line(screen, "policy", policy_text(finding))
    _line(screen, "affinity", " or ".join(shown(volume.affinity)))
    _replicas(screen, finding)
    screen.print("  rules", soft_wrap=True)
    for rule in passed(finding.case):
        screen.print(Text(f"    passed  {rule}"), soft_wrap=True)
    for mark, text, style in _decision(finding):
        screen.print(Text(f"    {mark:7} {text}", style=style), soft_wrap=True)
    if isinstance(finding.decision, Change):
        _line(screen, "wanted", " or ".join(shown(finding.decision.wanted)))
        screen.print(Text("  change    ").append_text(affinity_text(finding)), soft_wrap=True)
    _line(screen, "action", ACTIONS[finding.action], style="bold")
    screen.print()


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


def _line(screen: Console, name: str, value: str, *, style: str = "") -> None:
    screen.print(Text(f"  {name:9} ").append(value, style=style), soft_wrap=True)


def _replicas(screen: Console, finding: Finding) -> None:
    placement = finding.case.placement
    if placement is None or not placement.replicas:
        _line(screen, "replicas", "none in LINSTOR")
        return
    screen.print("  replicas", soft_wrap=True)
    for replica in placement.replicas:
        screen.print(Text(f"    {_replica(finding, replica)}"), soft_wrap=True)
    if placement.in_motion:
        screen.print(Text("    LINSTOR is still changing them", style="cyan"), soft_wrap=True)


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
