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
    exit_with_errors,
    settings_from,
    takes_settings,
)
from linstor_affinity_events.cli.plan_table import print_table
from linstor_affinity_events.cli.plan_tree import print_tree
from linstor_affinity_events.cli.terminal import progress_on_terminal
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.model.names import NodeName, ResourceName, node_name, resource_name
from linstor_affinity_events.model.selection import Selection
from linstor_affinity_events.model.what_if import WhatIf

PENDING = 2
"""The exit code of --exit-code if changes are pending. Usage errors and failures exit with 1, so
that a script cannot confuse the two."""


HELP = """Show what `run` would change, and why it would not; change nothing, anywhere.

Without arguments: a table of all volumes that are not as they should be. With one VOLUME (the name
of a PersistentVolume, of a claim as NAME or NAMESPACE/NAME, of a LINSTOR resource, or a volume
handle) that volume is explained: its replicas, its policy, and every rule on the way to the
verdict. With several, a table of them. In the table "-" goes, "+" comes and "=" stays.

\b
  plan                                   what would be done now
  plan default/claim-1                   why this volume's affinity is so
  plan --if-node-gone worker-3           what losing a node would change
  plan --if-replica pvc-1=node-a,node-b  what moving replicas would change

Takes all flags of `run` as well, and finds LINSTOR and Kubernetes in the same way. Exit codes:
0 done, 1 failed or used wrongly, 2 with --exit-code if something is to be changed.
"""


class _Misused(click.UsageError):
    exit_code = Exit.FAILED


class _OneForMistakes(click.Command):
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
@click.option("--all", "everything", is_flag=True, help="Show settled volumes too.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="json and yaml have the same fields, and hold affinities as Kubernetes has them.",
)
@click.option(
    "--exit-code",
    is_flag=True,
    help=f"End with {PENDING} when something is to be changed, with 0 when nothing is.",
)
@click.option(
    "--namespace", "-n", "namespaces", multiple=True, help="Only volumes of claims in there."
)
@click.option("--storage-class", "classes", multiple=True, help="Only volumes of this class.")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    help="Only volumes with a replica on this LINSTOR node, or whose affinity names it.",
)
@click.option(
    "--if-node-gone",
    "gone",
    metavar="NODE",
    multiple=True,
    help="Suppose that LINSTOR had lost this node, with all replicas on it.",
)
@click.option(
    "--if-replica",
    "replicas",
    type=_Replicas(),
    multiple=True,
    help="Suppose that the resource RD had its data on just these nodes.",
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
        click.echo(f"warning: {warning}", err=True)
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
