"""Writes the reference pages of the documentation from the code: settings and metrics.

`make reference` writes them; tests/test_docs.py checks that they are up to date.
"""

from pathlib import Path

from linstor_affinity_events.metrics import described
from linstor_affinity_events.settings import OPTIONS, Group

DOCS = Path(__file__).parent.parent / "docs"
WRITTEN = "<!-- Written by packaging/reference.py from the code. Do not edit. -->"


def configuration() -> str:
    lines = [
        "# Configuration reference",
        "",
        WRITTEN,
        "",
        "Flags override environment variables, which override defaults. Durations are written as",
        "in Go: `90s`, `1m30s`, `250ms`. All invalid settings are reported at once. The connection",
        "to LINSTOR is configured with environment variables only: see",
        "`linstor-affinity-events run --help`.",
    ]
    for group in Group:
        lines += ["", f"## {group}", "", "| flag | environment variable | default | meaning |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| `--{o.flag}` {_cell(o.metavar)} | `{o.variable}` "
            f"| {f'`{o.default}`' if o.default else ''} | {_cell(o.help)} |"
            for o in OPTIONS
            if o.group is group
        ]
    return "\n".join(lines) + "\n"


def metrics() -> str:
    lines = [
        "# Metrics reference",
        "",
        WRITTEN,
        "",
        "Served at `/metrics` with `--metrics-address`, together with metrics of the process",
        "(`process_...`).",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {kind} | {', '.join(each.labels)} | {_cell(each.help)} |"
        for name, kind, each in described()
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"configuration.md": configuration, "metrics.md": metrics}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
