"""Texts from outside as they may be shown: in a log line, an Event, on a page."""


def printable(text: str) -> str:
    """The text with every character that is not printed written out as its number.

    Those are control characters, which move a terminal's cursor or begin another line, marks that
    turn the direction of writing and so the meaning of what follows, and those that can't be seen.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _number(c) for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of ours that has lines; those after the first one are indented, so that
    none of them passes for a log line of its own.
    """
    first, *others = text.split("\n")
    return "\n".join([printable(first), *(f"  {printable(line)}" for line in others)])


def _number(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
