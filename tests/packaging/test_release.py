"""What is not fit for a release is found before the tag."""

import importlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

TOP = Path(__file__).parents[2]
VERSION = "1.2.3"
CHANGELOG = f"""# Changelog

## {VERSION} (2026-11-26)

* New.

## 1.2.2 (2026-11-01)

* Old.
"""


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOP / "packaging"))
    return importlib.import_module("release")


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            made.addfile(member, io.BytesIO(text.encode()))
    return path


def test_the_notes_are_those_of_the_version_alone(release: ModuleType) -> None:
    assert release.changes_of(CHANGELOG, VERSION, tagged=True) == "* New.\n"


@pytest.mark.parametrize(
    ("changelog", "reported"),
    [
        pytest.param("# Changelog\n", "has no heading", id="no heading"),
        pytest.param(f"## {VERSION} (2026-11-26)\n\n## 1 (x)\n* Old.\n", "nothing", id="no notes"),
        pytest.param(f"## {VERSION} (unreleased)\n\n* New.\n", "where the date", id="no date"),
    ],
)
def test_a_tag_requires_notes_with_a_date(
    release: ModuleType, changelog: str, reported: str
) -> None:
    with pytest.raises(release.NotReady, match=reported):
        release.changes_of(changelog, VERSION, tagged=True)


def test_a_dry_run_requires_no_date(release: ModuleType) -> None:
    changelog = CHANGELOG.replace("2026-11-26", "unreleased")

    assert release.changes_of(changelog, VERSION, tagged=False) == "* New.\n"


def test_the_changelog_has_notes_for_the_current_version(release: ModuleType) -> None:
    version = release.version_of(TOP)

    assert release.changes_of((TOP / "CHANGELOG.md").read_text(), version, tagged=False)


def test_a_tag_of_another_version_is_rejected(release: ModuleType) -> None:
    release.check_tag("v1.2.3", VERSION)

    with pytest.raises(release.NotReady, match=r"the tag is v1\.2\.4"):
        release.check_tag("v1.2.4", VERSION)


def test_an_unexpected_file_is_not_published(release: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").touch()

    with pytest.raises(release.NotReady, match=r"secret\.txt"):
        release.files_of(tmp_path, VERSION)


def test_a_modified_wheel_is_rejected(release: ModuleType, tmp_path: Path) -> None:
    info = f"linstor_affinity_events-{VERSION}.dist-info"
    path = tmp_path / "a.whl"
    # The hash is the one of an empty file.
    record = "a.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n"

    for content in ("", "changed"):
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"{info}/METADATA", f"Name: a\nVersion: {VERSION}\n")
            wheel.writestr(f"{info}/RECORD", record)
            wheel.writestr("a.py", content)
        if not content:
            release.check_wheel(path, VERSION)

    with pytest.raises(release.NotReady, match=r"a\.py is not what its record says"):
        release.check_wheel(path, VERSION)


def test_an_archive_of_another_version_is_rejected(release: ModuleType, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tgz", {"a/Chart.yaml": "appVersion: 1.0.0\n"})

    with pytest.raises(release.NotReady, match=r"'appVersion: 1\.2\.3' is missing"):
        release.check_archive(path, "a/Chart.yaml", f"appVersion: {VERSION}")


def test_an_archive_that_escapes_its_directory_is_rejected(
    release: ModuleType, tmp_path: Path
) -> None:
    path = archive(tmp_path / "a.tgz", {"a/../../b": ""})

    with pytest.raises(release.NotReady, match="leaves"):
        release.check_archive(path, "a/b", "")


def test_a_bill_of_materials_without_a_package_is_rejected(
    release: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "sbom.json"
    component = {"name": release.NAME, "version": VERSION}
    path.write_text(json.dumps({"metadata": {"component": component}, "components": []}))

    with pytest.raises(release.NotReady, match="lacks orjson"):
        release.check_sbom(path, VERSION, "orjson==3.10 \\\n    --hash=sha256:0\n")


def test_the_chart_is_published_with_the_address_of_its_image(
    release: ModuleType, tmp_path: Path
) -> None:
    shutil.copytree(TOP / "chart", tmp_path / release.NAME)
    chart = tmp_path / "chart.tgz"
    with tarfile.open(chart, "w:gz") as made:
        made.add(tmp_path / release.NAME, release.NAME)

    release.publish_chart_as(chart, "registry.example.com/a", "https://example.com/a")

    with tarfile.open(chart) as made:
        made.extractall(tmp_path / "out", filter="data")
    values = yaml.safe_load((tmp_path / "out" / release.NAME / "values.yaml").read_text())
    about = yaml.safe_load((tmp_path / "out" / release.NAME / "Chart.yaml").read_text())
    [image] = yaml.safe_load(about["annotations"]["artifacthub.io/images"])
    assert values["image"]["repository"] == "registry.example.com/a"
    assert image["image"] == f"registry.example.com/a:{about['appVersion']}"
    assert about["home"] == about["sources"][0] == "https://example.com/a"


def test_checksums_can_be_verified_with_sha256sum(release: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / release.NOTES).write_text("not uploaded")

    sums = release.write_checksums(tmp_path)

    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sums == {"a": empty}
    assert (tmp_path / release.CHECKSUMS).read_text() == f"{empty}  a\n"
