"""The `plan` command: shows what `run` would do, and why, without doing it."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from linstor_affinity_events import logs
from linstor_affinity_events.app.planning import Plan, make_plan
from linstor_affinity_events.cli.explanation import explain
from linstor_affinity_events.cli.once import run_once
from linstor_affinity_events.cli.options import (
    Exit,
    GroupedCommand,
    exit_with_errors,
    settings_from,
    takes_settings,
)
from linstor_affinity_events.cli.plan_table import print_table
from linstor_affinity_events.cli.plan_tree import print_tree
from linstor_affinity_events.cli.terminal import print_line, progress_on_terminal
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.model.names import NodeName, ResourceName, node_name, resource_name
from linstor_affinity_events.model.selection import Selection
from linstor_affinity_events.model.what_if import WhatIf

PENDING = 2
"""The exit code of --exit-code if changes are pending. Usage errors and failures exit with 1, so
that a script cannot confuse the two."""


HELP = """Show what `run` would change, and why. Nothing is changed.

Without arguments, print a table of all volumes that are not in sync. With one VOLUME, explain it:
its replicas, its policy, and each rule up to the decision. VOLUME is the name of a
PersistentVolume, a claim (NAME or NAMESPACE/NAME), a LINSTOR resource or a volume handle. With
several, print a table of these. In tables, "-" marks nodes that are removed, "+" nodes that are
added, and "=" nodes that stay.

\b
  plan                                   show what would be changed now
  plan default/claim-1                   explain the decision on one volume
  plan --if-node-gone worker-3           show the effect of losing a node
  plan --if-replica pvc-1=node-a,node-b  show the effect of moving replicas

All flags of `run` are accepted. LINSTOR and Kubernetes are found in the same way. Exit codes: 0
success, 1 failed or wrong usage, 2 with --exit-code if something would be changed.
"""


class _Misused(click.UsageError):
    exit_code = Exit.FAILED


class _OneForMistakes(GroupedCommand):
    """A command that exits with 1 on a usage error."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise _Misused(error.message, error.ctx) from error


class _Replicas(click.ParamType[tuple[ResourceName, tuple[NodeName, ...]]]):
    """`RD=NODE,...`; an empty list of nodes means no replica at all."""

    name = "rd=node,..."

    def convert(
        self, value: Any, param: Any, ctx: Any
    ) -> tuple[ResourceName, tuple[NodeName, ...]]:
        resource, equals, nodes = str(value).partition("=")
        if not equals or not resource.strip():
            self.fail(f"{value!r} is not of the form RESOURCE=NODE,NODE", param, ctx)
        named = tuple(node_name(node.strip()) for node in nodes.split(",") if node.strip())
        return resource_name(resource.strip()), named


@click.command(cls=_OneForMistakes, help=HELP, short_help="Show what `run` would change, and why.")
@click.argument("volumes", metavar="[VOLUME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Also show volumes that are in sync.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="Output format. json and yaml have the same fields, with affinities as in manifests.",
)
@click.option(
    "--exit-code",
    is_flag=True,
    help=f"Exit with {PENDING} if `run` would change something, otherwise with 0.",
)
@click.option(
    "--namespace",
    "-n",
    "namespaces",
    multiple=True,
    help="Only volumes of claims in this namespace.",
)
@click.option(
    "--storage-class", "classes", multiple=True, help="Only volumes of this StorageClass."
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    help="Only volumes with a replica on this LINSTOR node, or whose node affinity contains it.",
)
@click.option(
    "--if-node-gone",
    "gone",
    metavar="NODE",
    multiple=True,
    help="Simulate that this LINSTOR node and all replicas on it are gone.",
)
@click.option(
    "--if-replica",
    "replicas",
    type=_Replicas(),
    multiple=True,
    help="Simulate that resource RD has replicas with data on exactly these nodes.",
)
@takes_settings(
    *("property-namespace", "new-volume-grace", "allow-finalizer", "default-remote-access-policy"),
    *("lease-lock-namespace", "kubeconfig", "context", "server", "v"),
)
def plan(
    *,
    volumes: Sequence[str],
    everything: bool,
    output: str,
    exit_code: bool,
    namespaces: Sequence[str],
    classes: Sequence[str],
    nodes: Sequence[str],
    gone: Sequence[str],
    replicas: Sequence[tuple[ResourceName, tuple[NodeName, ...]]],
    **given: Any,
) -> None:
    selection = Selection(
        names=tuple(volumes),
        namespaces=frozenset(namespaces),
        storage_classes=frozenset(classes),
        nodes=frozenset(map(node_name, nodes)),
    )
    what_if = WhatIf(gone=frozenset(map(node_name, gone)), replicas=dict(replicas))
    try:
        settings = settings_from(given)
        logs.set_up(verbosity=settings.v, as_json=settings.log_format == "json", quiet=True)
        with progress_on_terminal() as progress:
            made = run_once(make_plan(settings, selection, what_if, progress), settings)
    except BadSettings as error:
        exit_with_errors(error, "plan", code=Exit.FAILED)
    for warning in made.warnings:
        print_line(f"warning: {warning}", err=True)
    _show(made, output, everything=everything or bool(volumes), one=len(volumes) == 1)
    if exit_code and any(finding.pending for finding in made.findings):
        sys.exit(PENDING)


def _show(made: Plan, output: str, *, everything: bool, one: bool) -> None:
    shown = [f for f in made.findings if everything or f.action != "none"]
    if output != "table":
        print_tree(shown, output, explained=one)
    elif one:
        for finding in shown:
            explain(finding)
    else:
        print_table(shown, of=len(made.findings))
