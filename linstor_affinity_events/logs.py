"""How we write logs: a constant message, then facts as key=value or as JSON.

Facts come from outside, so characters that are not printed are written out.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from linstor_affinity_events.printable import printable, printable_lines

QUIET_LIBRARIES = ("aiohttp", "aiohttp_sse_client", "asyncio", "kubernetes_asyncio")
"""Their own words about a failure come before ours and say less."""


def facts(**values: object) -> dict[str, object]:
    """Values for a log line, in one field: `extra={"name": ...}` alone would make logging raise."""
    return {"facts": values}


def _given(record: logging.LogRecord) -> Mapping[str, object]:
    values: Mapping[str, object] = getattr(record, "facts", {})
    return values


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(mark in text for mark in ' "=')
    return text if plain else printable(json.dumps(text, ensure_ascii=False))


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class KeyValueFormatter(logging.Formatter):
    """Renders `TIME LEVEL message key=value ...`; a value with blanks is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_moment(record), record.levelname, printable(record.getMessage())]
        words += [f"{key}={_quoted(value)}" for key, value in _given(record).items()]
        if record.exc_info:
            words.append("\n  " + printable_lines(self.formatException(record.exc_info)))
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """Renders one JSON object a line, facts beside `time`, `level`, `logger` and `message`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage()),
            **{
                key: value if isinstance(value, int | float | bool) else printable(str(value))
                for key, value in _given(record).items()
            },
        }
        if record.exc_info:
            line["traceback"] = printable_lines(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def set_up(*, verbosity: int, as_json: bool, quiet: bool = False) -> None:
    """Log to stderr: INFO, from verbosity 1 on DEBUG, from 5 on the libraries' words as well.

    A `quiet` command tells by itself what it found: at verbosity 0 only what is an error is logged.
    """
    target = logging.StreamHandler(sys.stderr)
    target.setFormatter(JsonFormatter() if as_json else KeyValueFormatter())
    usual = logging.ERROR if quiet else logging.INFO
    level = logging.DEBUG if verbosity >= 1 else usual
    logging.basicConfig(handlers=[target], level=level, force=True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if verbosity >= 5 else logging.CRITICAL)
