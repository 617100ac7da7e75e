"""The `migrate-properties` command, as in the reference controller."""

import sys
from typing import Any

import click

from linstor_affinity_events import logs
from linstor_affinity_events.app.migration import migrate
from linstor_affinity_events.cli.once import run_once
from linstor_affinity_events.cli.options import (
    Exit,
    GroupedCommand,
    exit_with_errors,
    settings_from,
    takes_settings,
)
from linstor_affinity_events.cli.terminal import print_line
from linstor_affinity_events.errors import BadSettings
from linstor_affinity_events.settings import Settings


@click.command(
    "migrate-properties",
    cls=GroupedCommand,
    short_help="Move PersistentVolumes that an old linstor-affinity-controller saved in LINSTOR.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be moved, and write nothing.")
@takes_settings("v")
def migrate_properties(*, dry_run: bool, **given: Any) -> None:
    """Move saved PersistentVolumes from resource definitions to their volumes.

    Before version 1.5, linstor-affinity-controller saved a PersistentVolume that it was replacing
    in a property of the resource definition (Aux/affinity-updater-saved-pv); newer versions use the
    volume definition. `run` reads both, so this is only needed before going back to that
    controller. It can be repeated safely. LINSTOR adjusts all replicas of a resource twice for each
    move.

    Exit codes: 0 all moved, or nothing to move; 1 some could not be moved; 2 invalid settings.
    """
    try:
        settings = settings_from(given)
        logs.set_up(verbosity=settings.v, as_json=settings.log_format == "json", quiet=True)
        failed = run_once(_migrate(settings, dry_run=dry_run), settings)
    except BadSettings as error:
        exit_with_errors(error, "migrate-properties")
    sys.exit(Exit.FAILED if failed else Exit.GOOD)


async def _migrate(settings: Settings, *, dry_run: bool) -> bool:
    moved = failed = 0
    async for move in migrate(settings, dry_run=dry_run):
        print_line(f"{move.resource}: {move.done}")
        failed += move.failed
        moved += not move.failed
    if not moved and not failed:
        print_line("No resource definition has a saved PersistentVolume of its own.")
    return bool(failed)
