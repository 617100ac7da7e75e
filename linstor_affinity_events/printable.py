"""Escapes untrusted text for log lines, Events, the status page and the output of commands."""

import re

LONGEST_TEXT = 2000
"""Characters shown of one text: others may write megabytes, such as into the holder of a Lease."""

_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U00013441\U00013442\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
"""Characters that Python counts as printable, but that nobody sees: variation selectors, and others
that Unicode has as Default_Ignorable_Code_Point or as blank. Two names could differ by them alone.
"""


def is_printable(text: str) -> bool:
    """Return whether every character of the text can be seen."""
    return text.isprintable() and (text.isascii() or _BLANK.search(text) is None)


def printable(text: str) -> str:
    """Return the text with every non-printable character escaped as its code point.

    These are control characters, which move a terminal's cursor or start a new line, marks that
    change the direction of text and so the meaning of what follows, and invisible characters.
    """
    if is_printable(text):
        return text
    return "".join(c if is_printable(c) else _number(c) for c in text)


def shortened(text: str) -> str:
    """Return the text, cut after `LONGEST_TEXT` characters."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def shown(text: str) -> str:
    """Return the text cut and escaped, as it is shown to users."""
    return printable(shortened(text))


def printable_lines(text: str) -> str:
    """Escape non-printable characters of a text of several lines. Lines after the first are
    indented, so that none of them looks like a separate log line.
    """
    first, *others = text.split("\n")
    return "\n".join([printable(first), *(f"  {printable(line)}" for line in others)])


def _number(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
