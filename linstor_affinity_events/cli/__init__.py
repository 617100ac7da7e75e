"""The command line: parses, prints and picks exit codes. Nothing else in the package prints."""

from linstor_affinity_events.cli.commands import main

__all__ = ["main"]
