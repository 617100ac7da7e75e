"""Checks what `make dist` made for a release, and says where each part goes.

Nothing is published or signed here: the workflow release.yml does that, after it ran this same
script. It adds the release notes and the checksums to dist/.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from versions import found

TOP = Path(__file__).parent.parent
NAME = "linstor-affinity-events"
PACKAGE = NAME.replace("-", "_")
NOTES, CHECKSUMS = "NOTES.md", "SHA256SUMS"


class NotReady(Exception):
    """It can't be released like this; the message says what to mend."""


def version_of(top: Path) -> str:
    """The one version of everything."""
    versions = found(top)
    if len(set(versions.values())) != 1:
        listed = ", ".join(f"{place}: {version}" for place, version in versions.items())
        raise NotReady(f"the version is not the same everywhere: {listed}")
    return next(iter(versions.values()))


def changes_of(changelog: str, version: str, *, tagged: bool) -> str:
    """What the changelog says of a version. A tag needs a version with its date."""
    heading = rf"^## {re.escape(version)} \(([^)]*)\)\n"
    section = re.search(heading + r"(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if section is None:
        raise NotReady(f"CHANGELOG.md has no heading '## {version} (DATE)'")
    date, notes = section[1], section[2].strip()
    if not notes:
        raise NotReady(f"CHANGELOG.md says nothing of {version}")
    if tagged and re.fullmatch(r"\d{4}-\d{2}-\d{2}", date) is None:
        raise NotReady(f"CHANGELOG.md has '{date}' where the date of {version} belongs")
    return notes + "\n"


def check_tag(tag: str, version: str) -> None:
    if tag != f"v{version}":
        raise NotReady(f"the tag is {tag}, but the version is {version}")


def files_of(dist: Path, version: str) -> dict[str, Path]:
    """The files of a release by what they are; all have to be there, and no other."""
    files = {
        "wheel": dist / f"{PACKAGE}-{version}-py3-none-any.whl",
        "sdist": dist / f"{PACKAGE}-{version}.tar.gz",
        "chart": dist / f"{NAME}-{version}.tgz",
        "SBOM": dist / "sbom.cdx.json",
    }
    there = {path for path in dist.iterdir() if path.name not in {NOTES, CHECKSUMS}}
    if there != set(files.values()):
        differ = sorted(path.name for path in there ^ set(files.values()))
        raise NotReady(f"missing from dist/, or not expected there: {', '.join(differ)}")
    return files


def check_wheel(path: Path, version: str) -> None:
    """Its metadata, and each file against the hash that its own record has."""
    with zipfile.ZipFile(path) as wheel:
        info = f"{PACKAGE}-{version}.dist-info"
        _has_line(wheel.read(f"{info}/METADATA"), f"Version: {version}", path)
        for line in wheel.read(f"{info}/RECORD").decode().splitlines():
            name, told, _ = line.rsplit(",", 2)
            digest = hashlib.sha256(wheel.read(name)).digest()
            right = "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
            if told and told != right:
                raise NotReady(f"{path.name}: {name} is not what its record says")


def check_archive(path: Path, member: str, line: str) -> None:
    """That a file in a tar archive has a line, and that nothing in it leaves its directory."""
    with tarfile.open(path) as archive:
        for name in archive.getnames():
            if name.startswith("/") or ".." in Path(name).parts:
                raise NotReady(f"{path.name}: {name} leaves the archive's own directory")
        opened = archive.extractfile(member) if member in archive.getnames() else None
        if opened is None:
            raise NotReady(f"{path.name}: {member} is missing")
        _has_line(opened.read(), line, path)


def check_sbom(path: Path, version: str, requirements: str) -> None:
    """That it is of this version, and lists each package that is pinned."""
    sbom = json.loads(path.read_text())
    component = sbom["metadata"]["component"]
    if (component["name"], component["version"]) != (NAME, version):
        raise NotReady(f"{path.name} is of {component['name']} {component['version']}")
    listed = {(each["name"].lower(), each["version"]) for each in sbom["components"]}
    pinned = {
        (name.lower(), pin)
        for name, pin in re.findall(r"^([\w.-]+)==([^\s;\\]+)", requirements, re.MULTILINE)
    }
    if missing := sorted(name for name, _ in pinned - listed):
        raise NotReady(f"{path.name} lacks {', '.join(missing)}")


def _has_line(text: bytes, line: str, path: Path) -> None:
    if line not in text.decode().splitlines():
        raise NotReady(f"{path.name}: the line '{line}' is missing")


def write_checksums(dist: Path) -> dict[str, str]:
    """SHA-256 of each file by name, as `sha256sum --check` reads them."""
    names = sorted(path.name for path in dist.iterdir() if path.name not in {CHECKSUMS, NOTES})
    sums = {name: hashlib.sha256((dist / name).read_bytes()).hexdigest() for name in names}
    (dist / CHECKSUMS).write_text("".join(f"{sums[name]}  {name}\n" for name in names))
    return sums


def publish_chart_as(chart: Path, image: str, home: str) -> None:
    """Pack the chart again with the image and the address that the workflow publishes under.

    In the source tree both are unknown, since they depend on the repository that releases.
    """
    scratch = chart.parent / "unpacked"
    with tarfile.open(chart) as archive:
        archive.extractall(scratch, filter="data")
    values, about = scratch / NAME / "values.yaml", scratch / NAME / "Chart.yaml"
    _replace(values, f"  repository: {NAME}\n", f"  repository: {image}\n")
    _replace(about, f"image: {NAME}:", f"image: {image}:")
    about.write_text(about.read_text() + f"home: {home}\nsources:\n  - {home}\n")
    chart.unlink()
    with tarfile.open(chart, "w:gz") as archive:
        archive.add(scratch / NAME, NAME)
    shutil.rmtree(scratch)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if text.count(old) != 1:
        raise NotReady(f"{path.name} has '{old.strip()}' {text.count(old)} times instead of once")
    path.write_text(text.replace(old, new))


def build_image(version: str) -> str:
    """Build the image with buildah where that can be done; returns what there is to say of it."""
    if os.geteuid() != 0:
        return "NOT BUILT: buildah needs root here"
    for program in ("buildah", "crun", "debootstrap"):
        if shutil.which(program) is None:
            return f"NOT BUILT: there is no {program}"
    told = subprocess.run(
        [sys.executable, "-m", "tests.image"], cwd=TOP, capture_output=True, text=True, check=False
    )
    if told.returncode != 0:
        raise NotReady(f"the image can't be built: {told.stderr.strip()[-2000:]}")
    image = json.loads(told.stdout)
    labelled = image["labels"].get("org.opencontainers.image.version")
    if (labelled, image["user"]) != (version, "1000:1000"):
        raise NotReady(f"the image is labelled {labelled} and runs as {image['user']}")
    return f"built: {image['size'] / 1e6:.0f} MB, label {labelled}, user {image['user']}"


def _plan(version: str, files: dict[str, Path], sums: dict[str, str], image: str) -> Iterator[str]:
    """What goes where, and what each signature is over."""
    wheel, sdist, chart = (files[kind].name for kind in ("wheel", "sdist", "chart"))
    yield f"Release {version}: dist/ has passed all checks. Pushing the tag v{version} publishes"
    yield f"  {wheel} and {sdist} -> PyPI, project {NAME} (trusted publishing)"
    yield f"  image -> ghcr.io/OWNER/REPOSITORY:{version} for amd64 and arm64 ({image})"
    yield f"  {chart} -> oci://ghcr.io/OWNER/charts/{NAME}:{version}"
    yield f"  all files in dist/ -> a GitHub release v{version}, with the notes in {NOTES}"
    yield "Signed without keys, by the identity of the workflow:"
    yield "  image and chart by their digests, which the registry tells after the push (cosign)"
    yield "  each file by its SHA-256 (build provenance):"
    for name, digest in sums.items():
        yield f"    {digest}  {name}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release-dry-run", description=__doc__)
    parser.add_argument("--tag", default="", help="the tag, as in v0.1.0, that is released")
    parser.add_argument("--no-image", action="store_true", help="build no image")
    parser.add_argument("--image", default="", help="where the image is published, for the chart")
    parser.add_argument("--home", default="", help="the repository's address, for the chart")
    given = parser.parse_args()
    dist = TOP / "dist"
    try:
        version = version_of(TOP)
        if given.tag:
            check_tag(given.tag, version)
        changelog = (TOP / "CHANGELOG.md").read_text()
        notes = changes_of(changelog, version, tagged=bool(given.tag))
        files = files_of(dist, version)
        if given.image and given.home:
            publish_chart_as(files["chart"], given.image, given.home)
        check_wheel(files["wheel"], version)
        check_archive(files["sdist"], f"{PACKAGE}-{version}/PKG-INFO", f"Version: {version}")
        check_archive(files["chart"], f"{NAME}/Chart.yaml", f"appVersion: {version}")
        check_sbom(files["SBOM"], version, (TOP / "requirements.txt").read_text())
        image = "not asked for" if given.no_image else build_image(version)
    except NotReady as reason:
        sys.exit(f"not ready for a release: {reason}")
    (dist / NOTES).write_text(notes)
    for line in _plan(version, files, write_checksums(dist), image):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
