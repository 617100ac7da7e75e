"""What is shown holds nothing that is not seen."""

import json
import logging
import sys
import unicodedata
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.adapters.http.endpoints import ROWS_PER_YIELD, _shown
from linstor_affinity_events.adapters.http.status_page import render
from linstor_affinity_events.cli import main
from linstor_affinity_events.cli.terminal import (
    Screen,
    json_text,
    print_line,
    print_traceback,
    yaml_text,
)
from linstor_affinity_events.logs import JsonFormatter, KeyValueFormatter, facts
from linstor_affinity_events.printable import (
    LONGEST_TEXT,
    is_printable,
    printable,
    printable_lines,
)
from tests.adapters.peers import counted_yields

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
BIDIRECTIONAL = [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]
INVISIBLE = [
    "\u061c",
    "\u200e",
    "\u200f",
    "\u2028",
    "\u2029",
    "\u200b",
    "\ufeff",
    "\U000e0041",
]
BLANK = [*"\u034f\u115f\u17b4\u180b\u2800\u3164\ufe0f\uffa0\U00016fe4\U0001d159\U000e0100"]
"""Python counts them as printable."""
HOSTILE = "".join([*CONTROLS, *BIDIRECTIONAL, *INVISIBLE, *BLANK, "\ud800"])


def observed(text: str) -> bool:
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return not any(c in BLANK or unicodedata.category(c) in hidden for c in text)


@given(text=st.text())
def test_printable_text_has_no_invisible_characters(text: str) -> None:
    assert observed(printable(text))
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("text", ["", "pvc-1", "two words", "ä", "名", "💥", "a\\u0041"])
def test_visible_characters_are_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\u000ab"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\x85", "\\u0085"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_continuation_lines_are_distinguished_from_new_ones() -> None:
    assert printable_lines("a\n2026-01-01 INFO all is well\x1b") == (
        "a\n  2026-01-01 INFO all is well\\u001b"
    )


def record(text: str) -> logging.LogRecord:
    made = logging.LogRecord("here", logging.INFO, "file.py", 1, "said %s", (text,), None)
    made.__dict__.update(facts(why=text, pv=f"x {text}", error=ValueError(text)))
    error = ValueError(text)
    made.exc_info = (ValueError, error, error.__traceback__)
    return made


def test_control_characters_do_not_reach_a_line_of_text() -> None:
    first, *others = KeyValueFormatter().format(record(HOSTILE)).split("\n")

    assert observed(first)
    assert all(observed(line) and line.startswith(" ") for line in others)


def test_control_characters_do_not_reach_a_line_of_json_or_its_reader() -> None:
    line = JsonFormatter().format(record(HOSTILE))

    assert observed(line)
    read = json.loads(line)
    assert all(observed(value) for key, value in read.items() if key != "traceback")
    assert all(observed(shown) for shown in read["traceback"].split("\n"))


def test_control_characters_do_not_reach_the_page() -> None:
    bad = HOSTILE
    row: dict[str, Any] = {
        "volume": bad,
        "claim": bad,
        "resource": bad,
        "affinity": bad,
        "state": bad,
    }
    row |= {"reason": bad, "message": bad, "since": None, "error": bad}
    change = {**row, "before": bad, "after": bad, "method": bad, "latencyMs": 1.0, "at": None}
    page = render(
        {
            "version": bad,
            "instance": bad,
            "started": None,
            "ready": False,
            "notReady": {bad: bad},
            "leading": False,
            "leader": bad,
            "queue": {"waiting": 1, "processing": 1, "oldestSeconds": 0},
            "streams": [
                {"stream": bad, "connected": True, "since": None, "lastEvent": None}
                | {"events": 1, "connects": 1}
            ],
            "fullReconcile": {"failure": bad},
            "counts": {"volumes": 1, "outOfSync": 1, "unfinished": 1, "stuck": 1},
            "unfinished": [row],
            "search": bad,
            "volumes": [row],
            "more": 0,
            "changes": [change],
        },
        now=0.0,
    )

    assert page.count("\\u202e") > 10
    assert all(observed(line) for line in page.split("\n"))


ENCODABLE = st.text(st.characters(exclude_categories=["Cs"]))
TREES = st.recursive(
    st.none() | st.booleans() | ENCODABLE,
    lambda inner: st.lists(inner) | st.dictionaries(ENCODABLE, inner),
    max_leaves=8,
)


@given(tree=TREES)
def test_json_for_programs_is_printable_and_has_every_character(tree: Any) -> None:
    text = json_text(tree)

    assert all(line.isprintable() for line in text.split("\n"))
    assert json.loads(text) == tree


@given(tree=TREES)
def test_yaml_for_programs_is_printable_and_has_every_character(tree: Any) -> None:
    text = yaml_text(tree)

    assert all(map(is_printable, text.split("\n")))
    assert yaml.safe_load(text) == tree


@pytest.mark.parametrize(
    "text", ["ä", "名", HOSTILE, *BLANK], ids=["latin", "other", "hostile", *map(ascii, BLANK)]
)
@pytest.mark.parametrize(
    ("write", "read"), [(json_text, json.loads), (yaml_text, yaml.safe_load)], ids=["json", "yaml"]
)
def test_programs_get_visible_characters_as_they_are(write: Any, read: Any, text: str) -> None:
    written = write([text])

    assert read(written) == [text]
    assert (text in written) == is_printable(text)


def test_control_characters_do_not_reach_a_printed_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_line(HOSTILE)
    print_line(HOSTILE, err=True)
    Screen().line(HOSTILE, (HOSTILE, "bold"))
    Screen().table([HOSTILE], [[HOSTILE], [[(HOSTILE, "red")]]], whole=())

    out, err = capsys.readouterr()
    assert (out.count("\\u202e"), err.count("\\u202e")) == (6, 1)
    assert all(map(observed, [*out.split("\n"), *err.split("\n")]))


def test_markup_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().line("[red]a[/red] :warning:")
    Screen().table(["A"], [["[red]a[/red] :warning:"]], whole=())

    assert capsys.readouterr().out.count("[red]a[/red] :warning:") == 2


def test_control_characters_do_not_reach_the_traceback_of_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)

    CliRunner().invoke(main, ["completion", "bash"])
    error = ValueError(f"unexpected {HOSTILE}")
    sys.excepthook(ValueError, error, None)

    assert sys.excepthook is print_traceback
    err = capsys.readouterr().err
    assert "\\u202e" in err
    assert all(map(observed, err.split("\n")))


@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_a_text_of_others_takes_a_limited_part_of_a_log_line(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "\x7f" * 10**6, (), None)
    record.facts = {"holder": "\x7f" * 10**6, "why": "x" * 10**6}

    line = formatter.format(record)

    assert len(line) < 20 * LONGEST_TEXT
    assert "x" * (LONGEST_TEXT - 10) in line


async def test_a_text_of_others_takes_a_limited_part_of_the_status() -> None:
    shown = await _shown({"leader": "\x7f" * 10**6})

    assert shown == {"leader": "\\u007f" * (LONGEST_TEXT - 1) + "…"}


async def test_other_tasks_run_while_the_status_is_escaped() -> None:
    async with counted_yields() as yields:
        rows = await _shown([{"message": "\x7f"} for _ in range(10 * ROWS_PER_YIELD)])

    assert rows == [{"message": "\\u007f"}] * (10 * ROWS_PER_YIELD)
    assert yields() >= 9
