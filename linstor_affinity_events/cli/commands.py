"""The commands under one name."""

import click

from linstor_affinity_events import __version__
from linstor_affinity_events.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="linstor-affinity-events")
def main() -> None:
    """Keep the node affinity of PersistentVolumes in step with LINSTOR's replicas."""


main.add_command(run)
