"""The command line, as far as it goes without a cluster."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from linstor_affinity_events import __version__
from linstor_affinity_events.cli import main
from linstor_affinity_events.cli.run import run
from linstor_affinity_events.settings import OPTIONS, Option
from tests.preserved_logging import preserved_logging

NO_LINSTOR = {"LS_CONTROLLERS": None, "LS_USERNAME": None, "LS_PASSWORD": None}


@pytest.fixture
def runner() -> Iterator[CliRunner]:
    unset: dict[str, str | None] = {option.variable: None for option in OPTIONS}
    with preserved_logging():
        yield CliRunner(env={**unset, **NO_LINSTOR})


def mistaken(result: Result) -> list[str]:
    assert result.exit_code == 2
    assert result.stdout == ""
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_the_version_is_shown(runner: CliRunner) -> None:
    result = runner.invoke(main, ["--version"])

    assert (result.exit_code, result.output) == (
        0,
        f"linstor-affinity-events, version {__version__}\n",
    )


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_the_commands(runner: CliRunner, flag: str) -> None:
    result = runner.invoke(main, [flag])

    assert result.exit_code == 0
    assert "run" in result.output


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.flag)
def test_help_names_every_flag_with_its_variable(option: Option, runner: CliRunner) -> None:
    shown = " ".join(runner.invoke(main, ["run", "--help"]).output.split())

    assert f"--{option.flag}" in shown
    assert f"[${option.variable}]" in shown


@pytest.mark.parametrize("variable", ["LS_CONTROLLERS", "LS_USERNAME", "LS_ROOT_CA"])
def test_help_names_the_variables_of_linstor(runner: CliRunner, variable: str) -> None:
    assert variable in runner.invoke(main, ["run", "--help"]).output


def test_all_errors_are_listed_with_exit_code_2(runner: CliRunner) -> None:
    result = runner.invoke(
        main,
        ["run", "--workers", "0", "--reconcile-rate", "soon", "--log-format=xml"],
        env={"LS_CONTROLLERS": "ftp://x"},
    )

    errors = mistaken(result)

    assert len(errors) == 4
    for named in ("--workers", "--reconcile-rate", "--log-format", "LS_CONTROLLERS"):
        assert any(named in line for line in errors)


def test_an_invalid_default_policy_is_reported_with_exit_code_2(runner: CliRunner) -> None:
    result = runner.invoke(main, ["run", "--default-remote-access-policy", "nonsense"])

    [errors] = mistaken(result)

    assert "--default-remote-access-policy" in errors


def test_a_missing_kubeconfig_is_reported_with_exit_code_2(
    runner: CliRunner, tmp_path: Path
) -> None:
    missing = str(tmp_path / "nothing")

    result = runner.invoke(main, ["run", "--kubeconfig", missing, "--bind-address", ""])

    [errors] = mistaken(result)

    assert "--kubeconfig" in errors


@pytest.mark.parametrize("text", ["", "garbage: [", "[]"])
def test_an_invalid_kubeconfig_is_reported_with_exit_code_2(
    runner: CliRunner, tmp_path: Path, text: str
) -> None:
    config = tmp_path / "config"
    config.write_text(text)

    result = runner.invoke(main, ["run", "--kubeconfig", str(config), "--bind-address", ""])

    assert len(mistaken(result)) == 1


@pytest.mark.parametrize("flag", ["--no-such-flag", "--workers"])
def test_unknown_flags_and_missing_values_are_reported(runner: CliRunner, flag: str) -> None:
    assert runner.invoke(main, ["run", flag]).exit_code == 2


def given(*arguments: str) -> dict[str, object]:
    context: click.Context = run.make_context("run", list(arguments))
    return {name: value for name, value in context.params.items() if value not in (None, ())}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-v", "1"], {"v": "1"}),
        (["-v=1"], {"v": "1"}),
        (["-v1"], {"v": "1"}),
        (["--v=1"], {"v": "1"}),
        (["--leader-election"], {"leader_election": "true"}),
        (["--leader-election=false"], {"leader_election": "false"}),
        (["--leader-election", "--workers", "3"], {"leader_election": "true", "workers": "3"}),
        (["--bind-address", ""], {"bind_address": ""}),
        (
            ["--allow-finalizer", "a/b", "--allow-finalizer=c/*"],
            {"allow_finalizer": ("a/b", "c/*")},
        ),
        ([], {}),
    ],
    ids=str,
)
def test_flags_have_the_syntax_of_the_reference(
    arguments: list[str], expected: dict[str, object]
) -> None:
    assert given(*arguments) == expected


@pytest.mark.parametrize("command", sorted(main.commands))
def test_help_shows_examples_line_by_line(command: str, runner: CliRunner) -> None:
    shown = runner.invoke(main, [command, "--help"], terminal_width=100).output

    assert "\\b" not in shown
    if command in {"run", "plan", "check"}:
        assert re.search(rf"^    {command} ", shown, re.MULTILINE)


@pytest.mark.parametrize("library", ["jinja2", "rich"])
def test_the_service_starts_without_libraries_that_it_may_never_need(library: str) -> None:
    code = (
        "import sys, linstor_affinity_events.cli, linstor_affinity_events.app.service; "
        f"sys.exit({library!r} in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
