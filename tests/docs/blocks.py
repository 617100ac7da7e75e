"""The fenced blocks of the documentation, and the commands in them.

A block of language `console` has commands after "$ ", each followed by its output. One of language
`shell` has commands to copy, without output.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parent.parent.parent
PAGES = sorted(
    [*TOP.glob("*.md"), TOP / "chart/README.md", *(TOP / "docs").glob("*.md")],
    key=lambda page: page.as_posix(),
)

OURS = "linstor-affinity-events"
PLUGIN = ["kubectl", "linstor-affinity"]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, without the indentation of its fence."""

    page: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A command, and the output that the documentation shows for it."""

    page: str
    command: str
    output: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for indent, language, text in FENCE.findall(page.read_text()):
            lines = [line.removeprefix(indent) for line in text.splitlines()]
            yield Block(page.relative_to(TOP).as_posix(), language, "\n".join(lines))


def shown() -> Iterator[Shown]:
    """Every command with its output."""
    for block in blocks():
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Shown(block.page, command, output.rstrip())


def commands() -> Iterator[tuple[str, str]]:
    """Every command to copy, with its page; lines that go on are joined."""
    for block in blocks():
        if block.language == "shell":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line and not line.startswith("#"):
                    yield block.page, line
    for each in shown():
        yield each.page, each.command


def arguments(command: str) -> list[str] | None:
    """The arguments of our own program in a command; None if it is another one."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if "--" in words and words[:1] == ["kubectl"]:
        words = words[words.index("--") + 1 :]
    if words[:1] == [OURS]:
        return words[1:]
    if words[:2] == PLUGIN:
        return words[2:]
    return None
