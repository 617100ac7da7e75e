"""The command group `linstor-affinity-events` with all its commands."""

import sys

import click

from linstor_affinity_events import __version__
from linstor_affinity_events.cli.check import check
from linstor_affinity_events.cli.completion import completion
from linstor_affinity_events.cli.migrate import migrate_properties
from linstor_affinity_events.cli.plan import plan
from linstor_affinity_events.cli.run import run
from linstor_affinity_events.cli.terminal import print_traceback


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="linstor-affinity-events")
def main() -> None:
    """Keep the node affinity of PersistentVolumes up to date with the replicas in LINSTOR."""
    sys.excepthook = print_traceback


for command in (run, plan, check, migrate_properties, completion):
    main.add_command(command)
