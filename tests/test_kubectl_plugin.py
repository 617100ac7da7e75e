"""`kubectl linstor-affinity`: the programs by which kubectl finds it, and what they print."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
SCRIPTS = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["scripts"]
PLUGIN, COMPLETE = "kubectl-linstor_affinity", "kubectl_complete-linstor_affinity"


def run(program: str, *arguments: str) -> str:
    """Run a program of the package as its installed script does."""
    module, _, function = SCRIPTS[program].partition(":")
    code = f"from {module} import {function} as start; start()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("program", ["linstor-affinity-events", PLUGIN, COMPLETE])
def test_the_program_exists(program: str) -> None:
    module, _, function = SCRIPTS[program].partition(":")

    assert callable(getattr(importlib.import_module(module), function))


def test_the_plugin_runs_the_same_commands_under_its_own_name() -> None:
    said = run(PLUGIN, "plan", "--help")

    assert said.startswith("Usage: kubectl linstor-affinity plan [OPTIONS]")
    assert "--if-node-gone" in said


@pytest.mark.parametrize(
    ("words", "words_found"),
    [
        ((), ["check", "completion", "migrate-properties", "plan", "run"]),
        (("",), ["check", "completion", "migrate-properties", "plan", "run"]),
        (("pl",), ["plan"]),
        (("plan", "--if"), ["--if-node-gone", "--if-replica"]),
        (("plan", "--output", ""), ["table", "json", "yaml"]),
        (("check", "--left"), ["--leftovers"]),
    ],
    ids=" ".join,
)
def test_kubectl_completes_commands_and_flags(
    words: tuple[str, ...], words_found: list[str]
) -> None:
    *found, directive = run(COMPLETE, *words).splitlines()

    assert [line.partition("\t")[0] for line in found] == words_found
    assert directive == ":4"
