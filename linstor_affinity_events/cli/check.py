"""The `check` command: prints the result of each check."""

import sys
from typing import Any

import click

from linstor_affinity_events import logs
from linstor_affinity_events.adapters.kubernetes.survey import ServiceAccount
from linstor_affinity_events.app.check_result import CheckResult, Status, fail
from linstor_affinity_events.app.checking import check as run_checks
from linstor_affinity_events.cli.once import run_once
from linstor_affinity_events.cli.options import Exit, GroupedCommand, settings_from, takes_settings
from linstor_affinity_events.cli.terminal import Screen, print_json
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.settings import Settings

STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


HELP = """Check everything that `run` needs, and print how to fix what is missing.

Checked are the settings, LINSTOR (connection, login, event streams, node labels), Kubernetes
(connection, every permission, StorageClasses and their policies, whether node affinity can be
changed in place), nodes that only one of them has, a conflicting controller, and unfinished
replacements. Nothing is changed: the only write is a dry run.

\b
  check                                     print the result of each check
  check -o json                             the same for scripts and bug reports
  check --leftovers                         only check for unfinished replacements
  check --service-account=linstor/affinity  test the permissions of another account

All flags of `run` are accepted. Exit codes: 0 no check failed (there may be warnings), 1 a
check failed, 2 invalid settings.
"""


@click.command(cls=GroupedCommand, help=HELP, short_help="Check everything that `run` needs.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Output format. json has the same results, for scripts and bug reports.",
)
@click.option(
    "--leftovers",
    is_flag=True,
    help="Only check for unfinished replacements, and fail if there are any. Run this "
    "before uninstalling the service.",
)
@click.option(
    "--service-account",
    metavar="NAMESPACE/NAME",
    default="",
    help="Test the permissions of this ServiceAccount, which should be the one of "
    "`run`. Default: the account of this command.",
)
@takes_settings(
    *("property-namespace", "lease-lock-name", "lease-lock-namespace", "journal-namespace"),
    *("kubeconfig", "context", "server", "v"),
)
def check(*, output: str, leftovers: bool, service_account: str, **given: Any) -> None:
    found: list[CheckResult] = []
    code = Exit.GOOD
    try:
        account = _account(service_account)
        settings = settings_from(given)
    except BadSettings as error:
        found = [fail("settings", line, "see --help") for line in str(error).splitlines()]
        code = Exit.BAD_SETTINGS
        _print_results(found, output)
    else:
        logs.set_up(verbosity=settings.v, as_json=settings.log_format == "json", quiet=True)
        found = run_once(_run_all(settings, output, account, leftovers=leftovers), settings)
        if any(result.status is Status.FAIL for result in found):
            code = Exit.FAILED
    if output == "json":
        print_json([_tree(result) for result in found])
    sys.exit(code)


def _tree(result: CheckResult) -> dict[str, str]:
    """Return one result with the field names that scripts read."""
    return {
        "check": result.check,
        "status": result.status,
        "detail": result.detail,
        "remedy": result.remedy,
    }


def _account(text: str) -> ServiceAccount | None:
    """Read NAMESPACE/NAME; empty means None. Raises BadSettings."""
    if not text:
        return None
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise BadSettings(f"--service-account={text!r} is not of the form NAMESPACE/NAME")
    return ServiceAccount(namespace, name)


async def _run_all(
    settings: Settings, output: str, account: ServiceAccount | None, *, leftovers: bool
) -> list[CheckResult]:
    """Print each result as soon as it is known, so that users see which check hangs."""
    found = []
    async for result in run_checks(settings, leftovers_only=leftovers, account=account):
        found.append(result)
        _print_results([result], output)
    return found


def _print_results(found: list[CheckResult], output: str) -> None:
    if output != "text":
        return
    screen = Screen()
    for result in found:
        status = (f"{result.status:4}", STYLES[result.status])
        screen.line(status, f"  {result.check}: {result.detail}")
        if result.remedy:
            screen.line(f"      {result.remedy}")
