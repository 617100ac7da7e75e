"""The lock files: pip installs all packages from them alone, whatever was released since."""

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[2]


def locked(file: Path) -> dict[str, set[str]]:
    """The extras of each package with a pin."""
    pins = re.findall(r"^([\w.-]+(?:\[[\w,.-]+\])?==[^ ;]+)", file.read_text(), re.MULTILINE)
    return {canonicalize_name((pin := Requirement(each)).name): pin.extras for each in pins}


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "requirements-build.txt"]
)
def test_every_requirement_has_a_pin_with_its_extras(name: str) -> None:
    """Without a pin for the extra, pip takes its newest version, which has no hash in the file."""
    pins = locked(TOP / name)
    assert len(pins) > 1
    without_pin = set()
    for package, extras in pins.items():
        for requirement in map(Requirement, requirements_of(package)):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                pinned = pins.get(canonicalize_name(requirement.name))
                if pinned is None or not requirement.extras <= pinned:
                    without_pin.add(f"{package} requires {requirement}")

    assert without_pin == set()


def requirements_of(package: str) -> list[str]:
    """Nothing for what is not installed here: it is for other platforms or versions of Python."""
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []
