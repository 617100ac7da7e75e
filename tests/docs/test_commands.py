"""Each command in the documentation can be run, and prints what the documentation shows."""

import contextlib
import re
import subprocess

import click
import pytest

from linstor_affinity_events.cli import main
from tests.docs.blocks import TOP, arguments, commands, shown
from tests.docs.example_cluster import set_up
from tests.testbed.command import command
from tests.testbed.fixtures import fake_testbed
from tests.testbed.testbed import Testbed

__all__ = ["fake_testbed"]

OURS = sorted({line for _, line in commands() if arguments(line) is not None})
EXAMPLES = [each for each in shown() if arguments(each.command) is not None]
MAKE = sorted({target for _, line in commands() for target in re.findall(r"^make ([a-z-]+)", line)})

PROMPTLY = {"plan", "check", "migrate-properties", "completion"}
"""Commands that end by themselves."""


def comparable(text: str) -> list[str]:
    """Lines without what differs from run to run: ports, and spaces at the end."""
    return [
        re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", line).rstrip() for line in text.split("\n")
    ]


def test_documented_examples_are_extracted() -> None:
    assert len(EXAMPLES) >= 4
    assert len(OURS) >= 10


async def test_documented_output_is_what_the_command_prints(fake_testbed: Testbed) -> None:
    await set_up(fake_testbed)

    for each in EXAMPLES:
        said = await command(fake_testbed, *(arguments(each.command) or ()))

        assert comparable(said.out.strip("\n")) == comparable(each.output), each.page


async def test_documented_commands_run(fake_testbed: Testbed) -> None:
    """Names of volumes and nodes in the documentation are those of the scenario."""
    await set_up(fake_testbed)

    for line in OURS:
        given = arguments(line) or []
        if given and given[0] in PROMPTLY:
            said = await command(fake_testbed, *given)
            assert said.code == 0, (line, said.err)
            assert said.out


@pytest.mark.parametrize("line", OURS)
def test_documented_commands_are_valid(line: str) -> None:
    given = arguments(line) or ["--help"]
    # --help ends with Exit; what is not understood is a UsageError.
    with (
        contextlib.suppress(click.exceptions.Exit),
        main.make_context("linstor-affinity-events", list(given)) as context,
    ):
        name, found, rest = main.resolve_command(context, list(given))
        assert found is not None
        found.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize("target", MAKE)
def test_documented_make_targets_exist(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=TOP, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
