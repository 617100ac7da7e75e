"""The `completion` command: prints the completion script of a shell."""

import click
from click.shell_completion import get_completion_class

from linstor_affinity_events.cli.terminal import print_own

NAME = "linstor-affinity-events"
VARIABLE = "_LINSTOR_AFFINITY_EVENTS_COMPLETE"
HELP = """Print a script that completes commands and flags in a shell.

\b
  bash:  source <(linstor-affinity-events completion bash)
  zsh:   source <(linstor-affinity-events completion zsh)
  fish:  linstor-affinity-events completion fish | source
"""


@click.command(help=HELP, short_help="Print a shell completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"{shell} is not supported")
    root = context.find_root().command
    print_own(found(root, {}, NAME, VARIABLE).source())
