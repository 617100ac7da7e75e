"""Escapes untrusted text for log lines, Events, the status page and the output of commands."""


def printable(text: str) -> str:
    """Return the text with every non-printable character escaped as its code point.

    These are control characters, which move a terminal's cursor or start a new line, marks that
    change the direction of text and so the meaning of what follows, and invisible characters.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _number(c) for c in text)


def printable_lines(text: str) -> str:
    """Do the same for a text of several lines. Lines after the first are indented, so that none of
    them looks like a separate log line.
    """
    first, *others = text.split("\n")
    return "\n".join([printable(first), *(f"  {printable(line)}" for line in others)])


def _number(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
