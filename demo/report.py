"""The table that the demo prints."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One step of the scenario."""

    step: str
    happened: str
    updated: int
    expected: int
    waits: tuple[float, ...]
    """Seconds from event to PersistentVolume, one for each volume."""

    lost: int
    """Claims that became Lost meanwhile."""

    counted_from: str

    @property
    def good(self) -> bool:
        return self.updated == self.expected and self.lost == 0

    @property
    def milliseconds(self) -> str:
        if not self.waits:
            return "-"
        ordered = sorted(1000 * wait for wait in self.waits)
        if len(ordered) == 1:
            return f"{ordered[0]:.0f}"
        return f"{ordered[0]:.0f} / {ordered[len(ordered) // 2]:.0f} / {ordered[-1]:.0f}"


def table(rows: list[Row], title: str) -> Table:
    made = Table(title=title, title_justify="left")
    made.add_column("step")
    made.add_column("what happened")
    made.add_column("PVs updated", justify="right")
    made.add_column("ms to the PV\n(min / median / max)", justify="right")
    made.add_column("counted from")
    made.add_column("claims\nLost", justify="right")
    for row in rows:
        style = "" if row.good else "bold red"
        made.add_row(
            row.step,
            row.happened,
            f"{row.updated} of {row.expected}",
            row.milliseconds,
            row.counted_from,
            str(row.lost),
            style=style,
        )
    return made


def console() -> Console:
    """As wide as the terminal, or 110 columns without one."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(width=110, highlight=False)
