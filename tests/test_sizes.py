"""No class and no function is longer than can be read at a time."""

import ast
from collections.abc import Iterator
from pathlib import Path

import linstor_affinity_events

PACKAGE = Path(linstor_affinity_events.__file__).parent
MOST_LINES_OF_CLASS, MOST_LINES_OF_FUNCTION = 200, 60


def definitions() -> Iterator[tuple[Path, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_classes_and_functions_are_short() -> None:
    too_long = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path, node in definitions()
        if (node.end_lineno or 0) - node.lineno + 1
        > (MOST_LINES_OF_CLASS if isinstance(node, ast.ClassDef) else MOST_LINES_OF_FUNCTION)
    ]

    assert too_long == []
