"""Runs tests with the Python of the image; takes what pytest takes.

That is what users run, while whoever works on this may have another one. The checkout is read-only
there, and what needs a real Kubernetes is left out: it does not depend on the interpreter.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.real_parts.build import BuildError, only_builder, say
from tests.real_parts.debian import TOP, CannotBeHad, ensure_tree, python_of_image
from tests.real_parts.pip_settings import AUTHORITIES, authorities, write_configuration

CHECKOUT, ENVIRONMENT = "/mnt/checkout", "/mnt/environment"
"""Where these are for who runs in there."""

TESTS = (
    *("tests/model", "tests/engine", "tests/adapters", "tests/app", "tests/e2e"),
    # Its thousands of plans are pure Python, and take as long as all the others.
    "--ignore=tests/engine/test_random_operations.py",
)
SHARED = ("-n", "auto", "--dist", "loadgroup")
MARKED = "not real and not long and not csi and not image"

ENTER = f"""
set -eu
tree=$1 environment=$2 authorities=$3 configuration=$4
shift 4
mount --rbind /proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount -t tmpfs none "$tree/tmp"
mount -t tmpfs none "$tree/mnt"
mkdir "$tree{CHECKOUT}" "$tree{ENVIRONMENT}"
mount --bind . "$tree{CHECKOUT}"
mount -o remount,bind,ro "$tree{CHECKOUT}"
mount --bind "$environment" "$tree{ENVIRONMENT}"
mount --bind "$authorities" "$tree{AUTHORITIES}"
mount --bind "$configuration" "$tree/etc/pip.conf"
mount --bind /etc/hosts "$tree/etc/hosts"
mount --bind /etc/resolv.conf "$tree/etc/resolv.conf"
exec chroot "$tree" env --chdir={CHECKOUT} "$@"
"""
"""What the command needs around it. All of it is seen by the command alone, and ends with it."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class Inside:
    """A place where commands see a Debian with the Python of the image, and this checkout."""

    def __init__(self, tree: Path, environment: Path) -> None:
        self._tree, self._environment = tree, environment

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run it with its output where ours goes; returns its exit code."""
        with tempfile.TemporaryDirectory() as scratch:
            configuration = Path(scratch) / "pip.conf"
            write_configuration(configuration)
            given = (self._tree, self._environment, authorities(), configuration)
            return subprocess.run(
                [
                    *("unshare", "--mount", "--propagation=private"),
                    *("sh", "-c", ENTER, "enter", *map(str, given)),
                    *command,
                ],
                cwd=TOP,
                env={
                    **{k: v for k, v in os.environ.items() if k.upper() in PROXIES},
                    "PATH": "/usr/sbin:/usr/bin",
                    "HOME": "/tmp",  # noqa: S108, it is nobody else's in there
                    "LANG": "C.UTF-8",
                    **env,
                },
                check=False,
            ).returncode


def ensure_environment(tree: Path) -> Inside:
    """With the locked packages of this checkout installed. Raises BuildError."""
    pins = hashlib.sha256((TOP / "requirements-dev.txt").read_bytes())
    directory = tree.with_name(f"{tree.name}-{pins.hexdigest()[:16]}")
    inside, done = Inside(tree, directory), directory / "done"
    with only_builder(directory.parent):
        if not done.exists():
            directory.mkdir(exist_ok=True)
            say(f"installing Python packages into {directory}")
            pip = (f"{ENVIRONMENT}/bin/pip", "install", "--quiet", "--no-cache-dir")
            for step in (
                ("python3", "-m", "venv", "--clear", ENVIRONMENT),
                (*pip, "--require-hashes", "--requirement", "requirements-dev.txt"),
            ):
                if inside.run(step, {}) != 0:
                    raise BuildError(f"{' '.join(step)} failed in {tree}")
            done.touch()
    return inside


def main() -> int:
    try:
        inside = ensure_environment(ensure_tree())
    except CannotBeHad as reason:
        say(f"NOT TESTED WITH THE PYTHON OF THE IMAGE: {reason}")
        return 1 if os.environ.get("REQUIRE_REAL_PARTS") == "1" else 0
    except BuildError as failure:
        sys.exit(str(failure))
    python = f"{ENVIRONMENT}/bin/python"
    version = (
        f"import sys; sys.exit(sys.version_info[:2] != ({python_of_image().replace('.', ', ')}))"
    )
    if inside.run([python, "-c", version], {}) != 0:
        sys.exit(f"its Python is not {python_of_image()}, as the Dockerfile has it")
    given = sys.argv[1:]
    selected = () if any((TOP / word.partition("::")[0]).exists() for word in given) else TESTS
    return inside.run(
        [
            *(python, "-m", "pytest", "-p", "no:cacheprovider", *SHARED),
            *("-m", MARKED, *selected, *given),
        ],
        {
            "PYTHONDONTWRITEBYTECODE": "1",
            # Hypothesis times no example then, since others compute beside it.
            "CI": "1",
            # No directory of the checkout can be written to.
            "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # noqa: S108, as above
        },
    )


if __name__ == "__main__":
    sys.exit(main())
