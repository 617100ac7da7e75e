"""A Debian with the Python of the image, as a directory: made once, by debootstrap.

Images come from registries, which no test may depend on; packages come from where everything else
on this machine comes from.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.real_parts.build import BuildError, cache_directory, only_builder, say

TOP = Path(__file__).parents[2]

SUITE = "trixie"
"""The Debian whose Python is the one of the image."""

PACKAGES = ("python3", "python3-venv", "ca-certificates")


class CannotBeHad(Exception):
    """This machine has not got what it takes; the message says what."""


def python_of_image() -> str:
    """The version that the Dockerfile asks for, such as "3.13"."""
    [version] = re.findall(
        r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)\b", (TOP / "Dockerfile").read_text(), re.MULTILINE
    )
    return str(version)


def ensure_tree() -> Path:
    """The directory, made first if need be, which takes a minute or more.

    Nobody may write into it. Raises CannotBeHad or BuildError.
    """
    needs = hashlib.sha256(",".join(PACKAGES).encode()).hexdigest()[:8]
    wanted = cache_directory() / "debian" / f"{SUITE}-{needs}"
    if os.geteuid() != 0:
        raise CannotBeHad("only root can make a Debian and change into it")
    if wanted.is_dir():
        return wanted
    program = shutil.which("debootstrap")
    if program is None:
        raise CannotBeHad("there is no debootstrap (a Debian package of this name)")
    mirror = _mirror()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with only_builder(wanted.parent):
        if not wanted.is_dir():
            _make(program, mirror, wanted)
    return wanted


def _make(program: str, mirror: str, wanted: Path) -> None:
    began = time.monotonic()
    say(f"making Debian {SUITE} in {wanted}")
    with tempfile.TemporaryDirectory(dir=wanted.parent, prefix=".unfinished-") as scratch:
        tree = Path(scratch) / "tree"
        include = f"--include={','.join(PACKAGES)}"
        result = subprocess.run(
            [program, "--variant=minbase", include, SUITE, str(tree), mirror],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise BuildError(f"debootstrap failed:\n{result.stdout[-4000:]}")
        # Of use to nobody who only runs Python, and a third of the whole.
        shutil.rmtree(tree / "var" / "cache" / "apt")
        shutil.rmtree(tree / "var" / "lib" / "apt" / "lists")
        # Files of this machine are put over these while something runs in there.
        for name in ("hosts", "resolv.conf", "pip.conf"):
            (tree / "etc" / name).unlink(missing_ok=True)
            (tree / "etc" / name).touch()
        tree.rename(wanted)
    say(f"Debian {SUITE} made in {time.monotonic() - began:.0f} s")


def _mirror() -> str:
    """Where this machine's own packages come from. Raises CannotBeHad."""
    if shutil.which("apt-get") is not None:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for line in listed.splitlines():
            label, _, address = line.partition(" ")
            if label == "Debian":
                return address
    raise CannotBeHad("apt knows no mirror of Debian here")
