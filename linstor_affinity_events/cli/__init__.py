"""The command line: parses arguments, prints, and sets exit codes. Nothing else prints."""

from linstor_affinity_events.cli.commands import main

__all__ = ["main"]
