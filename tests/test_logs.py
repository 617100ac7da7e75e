"""Log lines: a constant message, then facts."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from linstor_affinity_events.logs import JsonFormatter, KeyValueFormatter, facts, set_up
from tests.preserved_logging import preserved_logging


def record(message: str = "volume replaced", *args: object, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("here", logging.INFO, "file.py", 1, message, args, None)
    made.created = 1_795_410_489.25
    made.__dict__.update(facts(**values))
    return made


@pytest.fixture
def preserved_log_setup() -> Iterator[None]:
    with preserved_logging():
        yield


def test_fields_follow_the_message() -> None:
    line = KeyValueFormatter().format(record(pv="pvc-1", rd="pvc-1/0", took=1.5))

    assert line == (
        "2026-11-23T05:08:09.250+00:00 INFO volume replaced pv=pvc-1 rd=pvc-1/0 took=1.5"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("with blank", '"with blank"'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("", '""'),
        ("two\nlines", '"two\\nlines"'),
        ("\x1b[31mred", '"\\u001b[31mred"'),
        (True, "True"),
        ("ä", "ä"),
        ("x\x85y", '"x\\u0085y"'),
        ("gpj.\u202eexe", '"gpj.\\u202eexe"'),
    ],
)
def test_a_value_cannot_forge_another_field(value: object, shown: str) -> None:
    line = KeyValueFormatter().format(record(why=value))

    assert line.endswith(f" why={shown}")
    assert "\n" not in line


def test_a_line_without_fields_is_only_the_message() -> None:
    plain = logging.LogRecord("here", logging.INFO, "file.py", 1, "hello %s", ("you",), None)

    assert KeyValueFormatter().format(plain).endswith("INFO hello you")


def test_json_has_the_fields_that_are_not_none() -> None:
    line = json.loads(JsonFormatter().format(record(pv="pvc-1", took=1.5, again=True, why=None)))

    assert line == {
        "time": "2026-11-23T05:08:09.250+00:00",
        "level": "INFO",
        "logger": "here",
        "msg": "volume replaced",
        "pv": "pvc-1",
        "took": 1.5,
        "again": True,
    }


def test_json_is_always_one_line() -> None:
    text = JsonFormatter().format(record("two\nlines", why='"\n\x00'))

    assert "\n" not in text
    assert json.loads(text)["why"] == '"\\u000a\\u0000'


@pytest.mark.parametrize("formatter", [KeyValueFormatter(), JsonFormatter()])
def test_a_traceback_is_logged(formatter: logging.Formatter) -> None:
    shown = record()
    try:
        int("oh")
    except ValueError:
        shown.exc_info = sys.exc_info()

    assert "ValueError: invalid literal" in formatter.format(shown)


def test_fields_can_have_the_names_of_record_attributes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("here").info("x", extra=facts(name="pvc-1", msg="y", args=()))

    assert caplog.records[0].__dict__["facts"] == {"name": "pvc-1", "msg": "y", "args": ()}


@pytest.mark.usefixtures("preserved_log_setup")
@pytest.mark.parametrize(
    ("verbosity", "ours", "libraries"),
    [(0, logging.INFO, False), (1, logging.DEBUG, False), (5, logging.DEBUG, True)],
)
def test_verbosity_enables_our_debug_messages_then_those_of_libraries(
    verbosity: int, ours: int, libraries: bool
) -> None:
    set_up(verbosity=verbosity, as_json=False)

    assert logging.getLogger("linstor_affinity_events").getEffectiveLevel() == ours
    assert logging.getLogger("aiohttp").isEnabledFor(logging.ERROR) is libraries


@pytest.mark.usefixtures("preserved_log_setup")
def test_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(verbosity=0, as_json=True)

    logging.getLogger("linstor_affinity_events").info("hello", extra=facts(pv="x"))

    shown = capsys.readouterr()
    assert (json.loads(shown.err)["pv"], shown.out) == ("x", "")
