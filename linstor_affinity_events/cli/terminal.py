"""Everything that commands print: colours and progress on a terminal, plain lines elsewhere.

Much of it comes from outside: whoever may annotate a PersistentVolume or write to LINSTOR chooses
texts that an administrator reads here. So non-printable characters, which a terminal may obey, are
escaped in every output. Other modules print through this one only.
"""

import json
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
import yaml

from linstor_affinity_events.printable import is_printable, printable, printable_lines

if TYPE_CHECKING:
    from rich.text import Text

WIDE = 1000
"""The width when the output is not a terminal: lines are not wrapped, so that grep works."""

Styled = tuple[str, str]
"""A text and its style."""

Cell = str | Sequence[Styled]


def print_line(text: str, *, err: bool = False) -> None:
    """Print one line, whatever the text contains."""
    click.echo(printable(text), err=err)


def print_own(text: str) -> None:
    """Print a text of this program that contains nothing from outside, unchanged."""
    click.echo(text)


def print_json(tree: Any) -> None:
    click.echo(json_text(tree))


def print_yaml(tree: Any) -> None:
    click.echo(yaml_text(tree), nl=False)


def print_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    """Print an unexpected error, as `sys.excepthook`: its message may contain texts of others."""
    lines = "".join(traceback.format_exception(kind, error, where)).rstrip("\n")
    click.echo(printable_lines(lines), err=True)


def json_text(tree: Any) -> str:
    """Return the tree as JSON whose parser gets every character back."""
    text = json.dumps(tree, indent=2, ensure_ascii=False)
    return "\n".join(map(_escaped_in_json, text.split("\n")))


def _escaped_in_json(line: str) -> str:
    """Escape non-printable characters of a line of JSON, which it has in its strings only."""
    if is_printable(line):
        return line
    return "".join(c if is_printable(c) else _utf16(c) for c in line)


def _utf16(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def yaml_text(tree: Any) -> str:
    """Return the tree as YAML whose parser gets every character back."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if all(map(is_printable, text.split("\n"))):
        return text
    # PyYAML escapes either control characters only, or all that is not ASCII.
    return yaml.safe_dump(tree, sort_keys=False)


class Screen:
    """Prints lines and tables to stdout, with styles on a terminal."""

    def __init__(self) -> None:
        # Imported where it is needed: two MiB, of which the service, which runs for months, has no
        # use.
        from rich.console import Console  # noqa: PLC0415

        console = Console(highlight=False, soft_wrap=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=WIDE, no_color=True)
        self._console = console

    def line(self, *parts: str | Styled) -> None:
        """Print one line, whatever its parts contain."""
        styled = [(part, "") if isinstance(part, str) else part for part in parts]
        self._console.print(_text(styled), soft_wrap=True)

    def table(
        self, headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, whole: Collection[str]
    ) -> None:
        """Print a table. Columns in `whole` are not wrapped."""
        from rich import box  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        shape = box.SIMPLE_HEAD if self._console.is_terminal else None
        table = Table(box=shape, pad_edge=False, show_edge=False)
        for heading in headings:
            table.add_column(_text(heading), no_wrap=heading in whole, overflow="fold")
        for row in rows:
            table.add_row(*map(_text, row))
        self._console.print(table)


def _text(cell: Cell) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    parts = [(cell, "")] if isinstance(cell, str) else cell
    return Text.assemble(*((printable(text), style) for text, style in parts))


@contextmanager
def progress_on_terminal() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress if stderr is a terminal; otherwise print nothing."""
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield lambda _what, _done, _of: None
        return
    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
    )
    with progress.Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of or None)

        yield show
