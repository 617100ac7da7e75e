"""`check`: whether everything is there that `run` needs."""

import dataclasses
import json
import sys
from typing import Any

import click
from rich.text import Text

from linstor_affinity_events import logs
from linstor_affinity_events.adapters.kubernetes.survey import ServiceAccount
from linstor_affinity_events.app.checking import check as needs
from linstor_affinity_events.app.need import Need, Status, fail
from linstor_affinity_events.cli.once import run_once
from linstor_affinity_events.cli.options import Exit, settings_from, takes_settings
from linstor_affinity_events.cli.terminal import console
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.settings import Settings

STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


@click.command(short_help="Try everything that `run` needs.")
@click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option(
    "--leftovers",
    is_flag=True,
    help="Only see whether any replacement is unfinished; if so, fail. Good before the service "
    "is removed.",
)
@click.option(
    "--service-account",
    metavar="NAMESPACE/NAME",
    default="",
    help="Test the permissions of this ServiceAccount, the one that `run` has. Empty tests those "
    "of the account that check itself has.",
)
@takes_settings(
    *("property-namespace", "lease-lock-name", "lease-lock-namespace", "journal-namespace"),
    *("kubeconfig", "context", "server", "v"),
)
def check(*, output: str, leftovers: bool, service_account: str, **given: Any) -> None:
    """Try everything that `run` needs, and say how to mend what is missing.

    Settings, LINSTOR (answer, login, both event streams, node labels), Kubernetes (answer, each
    permission, StorageClasses and their policies, whether affinities can be changed in place),
    nodes known to one side only, a rival that runs, replacements left unfinished. Nothing is
    changed: the one attempt at a change is a dry run.

    Takes all flags of `run` as well. Exit codes: 0 nothing failed (warnings may be there),
    1 something failed, 2 bad settings.
    """
    found: list[Need] = []
    code = Exit.GOOD
    try:
        account = _account(service_account)
        settings = settings_from(given)
    except BadSettings as error:
        found = [fail("settings", line, "see --help") for line in str(error).splitlines()]
        code = Exit.BAD_SETTINGS
        _tell_all(found, output)
    else:
        logs.set_up(verbosity=settings.v, as_json=settings.log_format == "json", quiet=True)
        found = run_once(_try_all(settings, output, account, leftovers=leftovers), settings)
        if any(need.status is Status.FAIL for need in found):
            code = Exit.FAILED
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(need) for need in found], indent=2))
    sys.exit(code)


def _account(text: str) -> ServiceAccount | None:
    """Read NAMESPACE/NAME; empty is none. Raises BadSettings."""
    if not text:
        return None
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise BadSettings(f"--service-account={text!r} is not of the form NAMESPACE/NAME")
    return ServiceAccount(namespace, name)


async def _try_all(
    settings: Settings, output: str, account: ServiceAccount | None, *, leftovers: bool
) -> list[Need]:
    """Tell each need as soon as it was tried: one that hangs shows which it is."""
    found = []
    async for need in needs(settings, leftovers_only=leftovers, account=account):
        found.append(need)
        _tell_all([need], output)
    return found


def _tell_all(found: list[Need], output: str) -> None:
    if output != "text":
        return
    screen = console()
    for need in found:
        line = Text(f"{need.status:4}", style=STYLES[need.status])
        line.append(f"  {need.need}: {need.found}", style="default")
        screen.print(line, soft_wrap=True)
        if need.mend:
            screen.print(Text(f"      {need.mend}"), soft_wrap=True)
