"""Texts of others, on the terminal of an administrator who runs a command."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.testbed.command import command
from tests.testbed.testbed import Testbed

HOSTILE = "\x1b[2J\x1b]52;c;cm0gLXJmIH4=\x07\x9b31m\x7f\r\u202etxt\u2028\U000e0041"
"""Clears the screen, writes to the clipboard, and reverses what follows."""

FORGED = "\n    passed  the administrator approved it"
VERSION = "/v1/controller/version"
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def is_shown(text: str) -> bool:
    """Whether the terminal shows each character, and obeys none."""
    return all(line.isprintable() for line in text.split("\n"))


def texts_of(tree: Any) -> Iterator[str]:
    match tree:
        case str():
            yield tree
        case dict():
            for key, value in tree.items():
                yield from texts_of(key)
                yield from texts_of(value)
        case list():
            for each in tree:
                yield from texts_of(each)


async def annotated(testbed: Testbed) -> None:
    """Whoever may annotate a PersistentVolume sets a policy."""
    policy = f"nothing {HOSTILE}{FORGED}"
    await testbed.add("pvc-1", ["n1"], annotations={"override.piraeus.io/x": policy})


async def labelled(testbed: Testbed) -> None:
    """Whoever may write to LINSTOR sets a label that becomes part of the node affinity."""
    testbed.world.set_node_prop("n2", "Aux/topology/rack", f"r1{HOSTILE}{FORGED}")
    await testbed.add("pvc-1", ["n1"], annotations={"override.piraeus.io/x": "- fromSame: [rack]"})
    testbed.world.move_silently("pvc-1", "n1", "n2")


@pytest.fixture(params=[annotated, labelled])
async def hostile_testbed(request: pytest.FixtureRequest, fake_testbed: Testbed) -> Testbed:
    await request.param(fake_testbed)
    return fake_testbed


@pytest.mark.parametrize("volumes", [[], ["pvc-1"]], ids=["all", "one"])
async def test_plan_escapes_texts_of_others(hostile_testbed: Testbed, volumes: list[str]) -> None:
    said = await command(hostile_testbed, "plan", *volumes)

    assert is_shown(said.out + said.err)
    assert "\\u001b[2J" in said.out
    assert "\\u202etxt" in said.out
    assert FORGED not in said.out


@pytest.mark.parametrize("volumes", [[], ["pvc-1"]], ids=["all", "one"])
async def test_plan_escapes_texts_of_others_on_a_terminal(
    hostile_testbed: Testbed, volumes: list[str]
) -> None:
    said = await command(hostile_testbed, "plan", *volumes, FORCE_COLOR="1", COLUMNS="500")

    assert STYLE.search(said.out)
    assert is_shown(STYLE.sub("", said.out))
    assert "\\u001b[2J" in said.out


@pytest.mark.parametrize("volumes", [[], ["pvc-1"]], ids=["all", "one"])
@pytest.mark.parametrize("output", ["json", "yaml"])
async def test_plan_for_programs_escapes_texts_that_are_read_back_unchanged(
    hostile_testbed: Testbed, output: str, volumes: list[str]
) -> None:
    said = await command(hostile_testbed, "plan", *volumes, "--output", output)

    assert is_shown(said.out + said.err)
    read = json.loads(said.out) if output == "json" else yaml.safe_load(said.out)
    # Of a label no more is kept than Kubernetes accepts.
    assert any((HOSTILE + FORGED)[:60] in text for text in texts_of(read))


@pytest.mark.parametrize("output", ["text", "json"])
async def test_check_escapes_texts_of_linstor(fake_testbed: Testbed, output: str) -> None:
    version = {"version": HOSTILE, "rest_api_version": HOSTILE}
    fake_testbed.world.fail_next(VERSION, 200, version, times=100)

    said = await command(fake_testbed, "check", "--output", output)

    assert is_shown(said.out + said.err)
    assert "\\u202etxt" in said.out
    if output == "json":
        assert any(HOSTILE in text for text in texts_of(said.json))


@pytest.mark.parametrize("arguments", [["plan"], ["migrate-properties"]], ids=" ".join)
async def test_errors_escape_texts_of_linstor(fake_testbed: Testbed, arguments: list[str]) -> None:
    await fake_testbed.add("pvc-1", ["n1"])
    message = {"ret_code": -4611686018427386880, "message": f"no {HOSTILE}{FORGED}"}
    fake_testbed.world.fail_next("/v1/", 400, [message], times=1000)

    said = await command(fake_testbed, *arguments)

    assert said.code == 1
    assert is_shown(said.out + said.err)
    assert "\\u202etxt" in said.err
    assert FORGED not in said.err


async def test_migrate_properties_escapes_names_of_linstor(fake_testbed: Testbed) -> None:
    name = f"pvc-1{HOSTILE}"
    fake_testbed.place(name, ["n1"])
    fake_testbed.world.definition(name).props["Aux/affinity-updater-saved-pv"] = "{}"

    said = await command(fake_testbed, "migrate-properties", "--dry-run")

    assert said.out.endswith("would be moved to volume 0\n")
    assert is_shown(said.out + said.err)
    assert "\\u202etxt" in said.out


async def test_warnings_are_escaped(fake_testbed: Testbed) -> None:
    assert fake_testbed.cluster.server is not None
    fake_testbed.cluster.server.access.denied.add(("list", "configmaps"))

    said = await command(
        fake_testbed, "plan", LINSTOR_AFFINITY_JOURNAL_NAMESPACE=f"default{HOSTILE}"
    )

    assert said.err.startswith("warning: ")
    assert is_shown(said.out + said.err)
    assert "\\u202etxt" in said.err
