"""Renders the status as plain HTML without scripts."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape as html_escape
from importlib import resources
from typing import Any

from linstor_affinity_events.printable import printable

STYLE = resources.files(__package__).joinpath("status_page.css").read_text()
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
"""The hash by which the Content-Security-Policy allows the style sheet."""

Tree = Mapping[str, Any]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#volumes">Skip to the volumes</a>
<header>
<h1>linstor-affinity-events</h1>
<p class="dim">Version {version}, instance {instance}, started {started}.
<a href="/{query}">Refresh</a>
· <a href="/status{query}">JSON</a></p>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def render(status: Tree, *, now: float) -> str:
    """Return the whole page. Everything that comes from outside is escaped, and non-printable
    characters are made visible. Ages are relative to `now`.
    """
    search = status["search"] or ""
    parts = [
        _summary(status, now),
        _streams(status["streams"], now),
        _unfinished(status["unfinished"]),
        _volumes(status, search, now),
        _changes(status["changes"], now),
    ]
    state = "ready" if status["ready"] else "not ready"
    return _PAGE.format(
        title=f"linstor-affinity-events: {state}",
        style=STYLE,
        version=escape(status["version"]),
        instance=escape(status["instance"]),
        started=_time(status["started"], now),
        query=f"?q={escape(_quoted(search))}" if search else "",
        body="\n".join(part for part in parts if part),
    )


def escape(text: str) -> str:
    return html_escape(printable(text))


def _quoted(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else _percent(c) for c in text)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="replace"))


def _summary(status: Tree, now: float) -> str:
    counts, queue, last = status["counts"], status["queue"], status["fullReconcile"]
    leads = "this instance" if status["leading"] else status["leader"] or "nobody"
    summary = [
        ("State", _state(ready=status["ready"])),
        ("Leader", escape(leads)),
        ("Volumes", str(counts["volumes"])),
        ("Out of sync", str(counts["outOfSync"])),
        ("Unfinished replacements", str(counts["unfinished"])),
        ("Queue", f"{queue['waiting']} waiting, {queue['processing']} in progress"),
        ("Last full reconcile", _time(last["ended"], now) if "ended" in last else "none yet"),
    ]
    cards = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in summary)
    against = dict(status["notReady"])
    if last["failure"] and "linstor" not in against:
        against["full reconcile"] = last["failure"]
    return f'<section aria-label="Summary">\n<dl>{cards}</dl>\n{_against(against)}</section>'


def _state(*, ready: bool) -> str:
    return '<span class="good">ready</span>' if ready else '<span class="bad">not ready</span>'


def _against(against: Mapping[str, str]) -> str:
    if not against:
        return ""
    lines = "".join(
        f"<li><strong>{escape(part)}</strong>: {escape(why)}</li>" for part, why in against.items()
    )
    return f'<div role="status"><p class="bad">Not ready because:</p><ul>{lines}</ul></div>\n'


def _streams(streams: Iterable[Tree], now: float) -> str:
    rows = [
        [
            escape(each["stream"]),
            '<span class="good">connected</span>'
            if each["connected"]
            else '<span class="bad">not connected</span>',
            _time(each["since"], now),
            _time(each["lastEvent"], now),
            str(each["events"]),
            str(each["connects"]),
        ]
        for each in streams
    ]
    heads = ["Stream", "State", "Since", "Last event", "Events", "Connections"]
    return _section("Event streams", "LINSTOR sends no events while nothing changes.", heads, rows)


def _connected(connected: object) -> str:
    if connected:
        return '<span class="good">connected</span>'
    return '<span class="bad">not connected</span>'


def _unfinished(unfinished: Iterable[Tree]) -> str:
    rows = [
        [
            escape(each["volume"]),
            escape(each["resource"]),
            f'<span class="bad">{escape(each["error"])}</span>'
            if each["error"]
            else ("in progress"),
        ]
        for each in unfinished
    ]
    if not rows:
        return ""
    return _section(
        "Unfinished replacements",
        "Each has a journal entry, and is retried until it ends.",
        ["Volume", "Resource", "State"],
        rows,
    )


def _volumes(status: Tree, search: str, now: float) -> str:
    form = (
        '<form method="get" action="/" role="search"><label for="q">Find a volume, claim or '
        f'resource</label><input id="q" name="q" type="search" maxlength="253" '
        f'value="{escape(search)}"><button>Find</button>'
        + ('<a href="/">Show all volumes that are out of sync</a>' if search else "")
        + "</form>"
    )
    rows = [
        [
            escape(each["volume"]),
            escape(each["claim"] or "none"),
            escape(each["affinity"]),
            _decision(each),
            escape(each["message"] or ""),
            _time(each["since"], now),
        ]
        for each in status["volumes"]
    ]
    title = "Volumes found" if search else "Volumes out of sync"
    caption = (
        f"{status['more']} more are not shown. Use the search to find them."
        if status["more"]
        else ""
    )
    heads = ["Volume", "Claim", "Current affinity", "State", "Message", "Since"]
    empty = "No volume, claim or resource matches." if search else "All volumes are in sync."
    return (
        f'<div id="volumes">{_section(title, caption, heads, rows, before=form, empty=empty)}</div>'
    )


def _decision(row: Tree) -> str:
    style = {"in_sync": "good", "refused": "bad"}.get(row["state"], "warn")
    reason = f": {escape(row['reason'])}" if row["reason"] else ""
    return f'<span class="{style}">{escape(row["state"])}</span>{reason}'


def _changes(changes: Iterable[Tree], now: float) -> str:
    rows = [
        [
            escape(each["volume"]),
            escape(each["claim"] or "none"),
            escape(each["before"]),
            escape(each["after"]),
            escape(each["method"]),
            f"{each['latencyMs']:g} ms",
            _time(each["at"], now),
        ]
        for each in changes
    ]
    heads = ["Volume", "Claim", "Before", "After", "Method", "Time from trigger", "When"]
    return _section(
        "Recent changes", "", heads, rows, empty="No changes since the service started."
    )


def _section(
    title: str,
    caption: str,
    heads: Iterable[str],
    rows: list[list[str]],
    *,
    before: str = "",
    empty: str = "",
) -> str:
    """Return a heading and a table whose first column names the row; cells are HTML already."""
    if not rows:
        body = f"<p>{escape(empty)}</p>"
    else:
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
        lines = "\n".join(
            f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest) + "</tr>"
            for first, *rest in rows
        )
        caption_html = f"<caption>{escape(caption)}</caption>" if caption else ""
        # It scrolls horizontally in a narrow window, so it must be focusable by keyboard.
        body = (
            f'<div class="wide" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
            f"{caption_html}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
        )
    return f"<section>\n<h2>{escape(title)}</h2>\n{before}{body}\n</section>"


def _time(moment: str | None, now: float) -> str:
    if moment is None:
        return "never"
    age = max(0.0, now - datetime.fromisoformat(moment).timestamp())
    return f'<time datetime="{escape(moment)}" title="{escape(moment)}">{_age(age)} ago</time>'


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
