"""Messages that the documentation explains are messages of the service."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.blocks import TOP

PACKAGE = TOP / "linstor_affinity_events"
OTHERS = {"certificate verify failed: Hostname mismatch", "IP address mismatch"}
"""Of OpenSSL."""


def texts() -> set[str]:
    """Every text in the package; a text with values in it is each part between them."""
    return {
        node.value
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def explained(page: Path) -> list[str]:
    """Texts of several words, between backticks in the first cell of a row or after "log"."""
    rows = re.findall(r"^\| ([^|]+) \|", page.read_text(), re.MULTILINE)
    cells = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    lines = re.findall(r"log\s+line\s+`([^`]+)`", page.read_text())
    return [re.sub(r"\s+", " ", text) for text in [*cells, *lines] if re.search(r"\w \w", text)]


@pytest.mark.parametrize("name", ["alerts", "operations", "reliability", "troubleshooting"])
def test_documented_messages_are_those_of_the_code(name: str) -> None:
    known = texts()
    said = explained(TOP / "docs" / f"{name}.md")
    parts = [part.strip() for text in said for part in text.split("...") if part.strip()]

    assert len(parts) >= {"alerts": 3, "reliability": 6, "troubleshooting": 5}.get(name, 0)
    assert [part for part in parts if not any(part in text for text in known | OTHERS)] == []
