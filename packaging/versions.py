"""Sees that the version is one and the same wherever it stands; prints it, or what differs."""

import re
import sys
from pathlib import Path

TOP = Path(__file__).parent.parent

PLACES = {
    "pyproject.toml": r'(?m)^version = "([^"]+)"',
    "linstor_affinity_events/__init__.py": r'__version__ = "([^"]+)"',
    "chart/Chart.yaml": r"(?m)^version: (\S+)",
    "chart/Chart.yaml (appVersion)": r"(?m)^appVersion: (\S+)",
    "chart/Chart.yaml (image)": r"(?m)^      image: \S+:(\S+)",
    "Dockerfile": r"(?m)^ARG VERSION=(\S+)",
    "CHANGELOG.md": r"(?m)^## (\S+)",
}


def found(top: Path = TOP) -> dict[str, str]:
    """The version by place; "none" where it is missing."""
    versions = {}
    for place, pattern in PLACES.items():
        text = (top / place.split()[0]).read_text()
        match = re.search(pattern, text)
        versions[place] = "none" if match is None else match[1]
    return versions


def main() -> None:
    versions = found()
    if len(set(versions.values())) == 1:
        sys.stdout.write(f"{next(iter(versions.values()))}\n")
        return
    for place, version in versions.items():
        sys.stderr.write(f"{place}: {version}\n")
    sys.exit("the version is not the same everywhere")


if __name__ == "__main__":
    main()
