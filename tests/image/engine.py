"""Builds images with buildah, in a storage of its own that goes with it."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_parts.pip_settings import AUTHORITIES, authorities, write_configuration

PROGRAMS = ("buildah", "crun")

BASE, IMAGE = "localhost/python", "localhost/linstor-affinity-events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built image, unpacked."""

    root: Path
    """Its root file system."""
    config: dict[str, Any]
    """As in the OCI's image configuration: User, Env, Entrypoint, ..."""
    size: int
    base_size: int
    """What of it is the base, in bytes."""


class Buildah:
    """Runs buildah's commands."""

    def __init__(self, directory: Path) -> None:
        self._storage = (
            f"--root={directory / 'storage'}",
            f"--runroot={directory / 'run'}",
        )

    def __call__(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run a command; returns what it printed, and raises AssertionError where it fails."""
        result = subprocess.run(
            ["buildah", *self._storage, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise AssertionError(f"buildah {arguments[0]} failed:\n{result.stderr[-4000:]}")
        return result.stdout.strip()

    def size(self, image: str) -> int:
        [found] = json.loads(self("images", "--json", image))
        return _bytes(found["size"])


@contextmanager
def built(source: Path, tree: Path) -> Iterator[Image]:
    """Build the Dockerfile there, on a base that consists of the files in `tree`."""
    with tempfile.TemporaryDirectory(prefix="image-") as scratch:
        directory = Path(scratch)
        buildah = Buildah(directory)
        try:
            _base(buildah, tree)
            configuration = directory / "pip.conf"
            write_configuration(configuration)
            buildah(
                *("bud", "--isolation=chroot", "--network=host", "--quiet"),
                f"--volume={authorities()}:{AUTHORITIES}:ro",
                f"--volume={configuration}:/etc/pip.conf:ro",
                f"--build-arg=PYTHON_IMAGE={BASE}",
                *("--tag", IMAGE, "--file", "Dockerfile", "."),
                cwd=source,
            )
            container = buildah("from", IMAGE)
            reported = json.loads(buildah("inspect", "--type=image", IMAGE))
            yield Image(
                root=Path(buildah("mount", container)),
                config=reported["OCIv1"]["config"],
                size=buildah.size(IMAGE),
                base_size=buildah.size(BASE),
            )
        finally:
            buildah("rm", "--all")


def _base(buildah: Buildah, tree: Path) -> None:
    container = buildah("from", "scratch")
    root = Path(buildah("mount", container))
    subprocess.run(["cp", "--archive", f"{tree}/.", str(root)], check=True)
    buildah("umount", container)
    buildah("commit", "--quiet", "--rm", container, BASE)


def _bytes(reported: str) -> int:
    """What buildah writes as "365 MB"."""
    number, unit = reported.split()
    return int(float(number) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}[unit])


def lacking() -> list[str]:
    """The programs that this machine has not got."""
    return [name for name in PROGRAMS if shutil.which(name) is None]
