"""Output for users: colours and progress on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

WIDE = 1000
"""The width when the output is not a terminal: lines are not wrapped, so that grep works."""


def console(*, stderr: bool = False) -> Console:
    found = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if found.is_terminal:
        return found
    return Console(stderr=stderr, highlight=False, width=WIDE, no_color=True)


@contextmanager
def progress_on_terminal() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress if stderr is a terminal; otherwise print nothing."""
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield lambda _what, _done, _of: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of or None)

        yield show
