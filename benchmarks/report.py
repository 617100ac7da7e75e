"""What a measurement found, what was hoped for, and how both are shown."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

Row = Mapping[str, str | float | int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure and the limit it is held against."""

    what: str
    found: float
    most: float | None = None
    least: float | None = None
    unit: str = ""
    must: bool = False
    """Whether to miss it is a fault, on whatever machine."""

    @property
    def met(self) -> bool:
        return (self.most is None or self.found <= self.most) and (
            self.least is None or self.found >= self.least
        )

    def __str__(self) -> str:
        limit = f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"
        word = "met" if self.met else "NOT MET"
        return f"{self.what}: {_shown(self.found)}{self.unit}, goal {limit}{self.unit}: {word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One table. All rows have the same columns, in the order in which they are to be shown."""

    name: str
    title: str
    rows: Sequence[Row]
    goals: Sequence[Goal] = ()

    def table(self) -> Table:
        made = Table(title=self.title, title_justify="left")
        for column in self.rows[0]:
            numbers = any(isinstance(row[column], int | float) for row in self.rows)
            made.add_column(column, justify="right" if numbers else "left")
        for row in self.rows:
            made.add_row(*(_shown(value) for value in row.values()))
        return made


def _shown(value: float | int | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}"


def show(reports: Iterable[Report], console: Console) -> None:
    """Print tables, each with its goals below it."""
    for report in reports:
        console.print(report.table())
        for goal in report.goals:
            console.print(str(goal), highlight=False)
        console.print()


def write(reports: Iterable[Report], circumstances: Mapping[str, str], file: Path) -> None:
    """Write everything as JSON."""
    tree = {
        **circumstances,
        "reports": [
            {
                "name": report.name,
                "title": report.title,
                "rows": [dict(row) for row in report.rows],
                "goals": [asdict(goal) | {"met": goal.met} for goal in report.goals],
            }
            for report in reports
        ],
    }
    file.write_text(json.dumps(tree, indent=2) + "\n")
