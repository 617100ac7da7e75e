"""The `completion` command: prints the completion script of a shell."""

import click
from click.shell_completion import get_completion_class

NAME = "linstor-affinity-events"
VARIABLE = "_LINSTOR_AFFINITY_EVENTS_COMPLETE"
HELP = """Print what makes a shell complete commands and flags.

\b
  bash:  source <(linstor-affinity-events completion bash)
  zsh:   source <(linstor-affinity-events completion zsh)
  fish:  linstor-affinity-events completion fish | source
"""


@click.command(help=HELP, short_help="Print what a shell needs to complete commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"nothing is known of {shell}")
    root = context.find_root().command
    click.echo(found(root, {}, NAME, VARIABLE).source())
