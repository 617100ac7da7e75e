"""The kubectl plugin: the same commands as `kubectl linstor-affinity`, with completion."""

import sys

from click.shell_completion import ShellComplete

from linstor_affinity_events.cli.commands import main
from linstor_affinity_events.cli.terminal import print_own

PROGRAM = "kubectl linstor-affinity"
FILES, NO_FILES = ":0", ":4"
"""What kubectl completes beside the words that are printed, in Cobra's notation."""


def plugin() -> None:
    """Run as `kubectl-linstor_affinity`, which kubectl finds by this name."""
    main(prog_name=PROGRAM)


def complete() -> None:
    """Run as `kubectl_complete-linstor_affinity`: kubectl passes the words up to the cursor, the
    last of which is incomplete, and expects one completion per line, then a directive.
    """
    *words, incomplete = sys.argv[1:] or [""]
    found = ShellComplete(main, {}, PROGRAM, "").get_completions(words, incomplete)
    for item in found:
        if item.type == "plain":
            print_own(f"{item.value}\t{item.help}" if item.help else item.value)
    print_own(FILES if any(item.type == "file" for item in found) else NO_FILES)
