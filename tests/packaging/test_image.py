"""What the image has: installed by the same steps, read-only, and run by somebody who owns nothing.

No container engine is needed for that; what an engine would add is the base image.
"""

import asyncio
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from linstor_affinity_events import __version__
from linstor_affinity_events.cli import main
from tests.e2e.conftest import fake_testbed, service_on
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

__all__ = ["fake_testbed", "service_on"]

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TOP = Path(__file__).parents[2]
NOBODY = 1000


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A virtual environment made as the Dockerfile makes it, and then closed to all writing."""
    [step] = re.findall(r"^RUN (.*)$", (TOP / "Dockerfile").read_text(), re.MULTILINE)
    program, in_image = json.loads(step)
    # Not below pytest's own directory, which is closed to other users.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)  # noqa: S103, PTH101, others are to read it
        target = Path(directory) / Path(in_image).name
        subprocess.run([str(TOP / program), str(target)], check=True, cwd=directory)
        for path in [target, *target.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
        yield target
        subprocess.run(["chmod", "-R", "u+w", str(target)], check=True)


def as_nobody() -> tuple[str, ...]:
    """A prefix that makes a command run as a user who may read everything and write nothing.

    Reading needs a capability because the interpreter may live in a home that is closed.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return ()
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return ("setpriv", *ids, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")


def test_every_command_runs_outside_of_the_checkout(installed: Path) -> None:
    program = installed / "bin" / "linstor-affinity-events"

    def said(*arguments: str) -> str:
        return subprocess.run(
            [*as_nobody(), str(program), *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert said("--version") == f"linstor-affinity-events, version {__version__}\n"
    for command in main.commands:
        assert said(command, "--help").startswith(f"Usage: linstor-affinity-events {command}")
    assert "complete" in said("completion", "bash")


def test_no_installers_or_build_tools_are_left_in_it(installed: Path) -> None:
    names = {path.name for path in (installed / "bin").iterdir()}
    [packages] = (installed / "lib").glob("python3*/site-packages")

    assert not {name for name in names if name.startswith(("pip", "hatch", "uv"))} - {"uvloop"}
    assert not list(packages.glob("pip*"))
    for name in ("status_page.css", "status_page.html.jinja"):
        assert (packages / "linstor_affinity_events" / "adapters" / "http" / name).is_file()


async def test_the_main_scenario_runs_from_it(
    fake_testbed: Testbed, installed: Path, tmp_path: Path
) -> None:
    await fake_testbed.add("pvc-1", ["n1"])
    service = Service(
        kubeconfig=fake_testbed.cluster.kubeconfig,
        linstor=fake_testbed.linstor.url,
        log=tmp_path / "service.log",
        program=(*as_nobody(), str(installed / "bin" / "linstor-affinity-events")),
    )

    async with running(service):
        fake_testbed.world.move("pvc-1", "n1", "n2")
        await fake_testbed.until_on("pvc-1", "n2")
        code, page = await service.ask("/")
        assert code == 200
        assert "<title>" in page
        assert await service.stop() == 0
    written = await asyncio.to_thread(_written, installed)
    assert written == []


def _written(installed: Path) -> list[Path]:
    """What is there beyond what was installed: byte code, for one."""
    found = (path for path in installed.rglob("*") if not path.is_symlink())
    return [path for path in found if path.stat().st_mode & stat.S_IWUSR]
