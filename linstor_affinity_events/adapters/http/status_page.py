"""Renders the status as plain HTML without scripts."""

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from linstor_affinity_events.printable import shown

if TYPE_CHECKING:
    from jinja2 import Template

_FILES = resources.files(__package__)
_STYLE = _FILES.joinpath("status_page.css").read_text()
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
"""The hash by which the Content-Security-Policy allows the style sheet."""


@cache
def page_template() -> "Template":
    """Return the template. The first call takes a tenth of a second, and memory for the library:
    most instances never show the page.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    def displayed(value: object) -> object:
        """Make non-printable characters visible in all that is not HTML already."""
        is_text = isinstance(value, str) and not isinstance(value, Markup)
        return shown(str(value)) if is_text else value

    environment = Environment(
        autoescape=True,
        finalize=displayed,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals["style"] = Markup(_STYLE)  # noqa: S704, a file of this package
    environment.filters["quoted"] = _quoted
    return environment.from_string(_FILES.joinpath("status_page.html.jinja").read_text())


def render(status: Mapping[str, Any], *, now: float) -> str:
    """Return the whole page. Everything that comes from outside is escaped, and non-printable
    characters are made visible. Ages are relative to `now`.
    """

    def age(moment: str) -> str:
        return _age(max(0.0, now - datetime.fromisoformat(moment).timestamp()))

    return page_template().render(status, age=age)


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
