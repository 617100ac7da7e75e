"""Log formats: a constant message, then fields as key=value or as JSON.

Field values come from outside the service, so non-printable characters are escaped, and long texts
cut.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from linstor_affinity_events.printable import (
    is_printable,
    printable,
    printable_lines,
    shortened,
    shown,
)

QUIET_LIBRARIES = ("aiohttp", "aiohttp_sse_client", "asyncio", "kubernetes_asyncio")
"""They log a failure before this service does, and with less detail."""


def facts(**values: object) -> dict[str, object]:
    """Return the fields of a log line in one key: logging raises for `extra={"name": ...}`. Those
    that are None are left out.
    """
    return {"facts": {key: value for key, value in values.items() if value is not None}}


def _given(record: logging.LogRecord) -> Mapping[str, object]:
    values: Mapping[str, object] = getattr(record, "facts", {})
    return values


def _quoted(value: object) -> str:
    text = shortened(str(value))
    plain = text and is_printable(text) and not any(mark in text for mark in ' "=')
    return text if plain else printable(json.dumps(text, ensure_ascii=False))


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class KeyValueFormatter(logging.Formatter):
    """Renders `TIME LEVEL message key=value ...`; a value that contains spaces is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_moment(record), record.levelname, shown(record.getMessage())]
        words += [f"{key}={_quoted(value)}" for key, value in _given(record).items()]
        if record.exc_info:
            words.append("\n  " + printable_lines(self.formatException(record.exc_info)))
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """Renders one JSON object per line: `time`, `level`, `logger`, `msg` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "msg": shown(record.getMessage()),
            **{
                key: value if isinstance(value, int | float | bool) else shown(str(value))
                for key, value in _given(record).items()
            },
        }
        if record.exc_info:
            line["traceback"] = printable_lines(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def set_up(*, verbosity: int, as_json: bool, quiet: bool = False) -> None:
    """Log to stderr: INFO, from verbosity 1 DEBUG, from 5 the libraries' messages as well.

    A `quiet` command prints its own results: at verbosity 0 it logs errors only.
    """
    target = logging.StreamHandler(sys.stderr)
    target.setFormatter(JsonFormatter() if as_json else KeyValueFormatter())
    usual = logging.ERROR if quiet else logging.INFO
    level = logging.DEBUG if verbosity >= 1 else usual
    logging.basicConfig(handlers=[target], level=level, force=True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if verbosity >= 5 else logging.CRITICAL)
