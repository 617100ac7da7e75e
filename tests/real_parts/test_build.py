"""Which real parts a run takes, and when they are recreated."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real_parts import build
from tests.real_parts.build import BuildError, Module, kubernetes_version


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty one, on a machine without Go."""
    monkeypatch.setenv("REAL_PARTS_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "toolchain", lambda: None)
    return tmp_path


def made(module: Module, cache: Path) -> Path:
    """As if it had been built on another machine."""
    directory = cache / f"{build._pins(module)}-elsewhere"
    directory.mkdir()
    for name in module.packages:
        (directory / name).touch(mode=0o755)
    return directory


def test_the_newest_kubernetes_is_used_unless_the_environment_selects_the_oldest(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, oldest = made(build.KUBERNETES, cache), made(build.OLDEST, cache)

    usual = build.ensure_built()
    monkeypatch.setenv("REAL_KUBERNETES", "oldest")

    assert (usual, build.ensure_built()) == (newest, oldest)


def test_an_unknown_version_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAL_KUBERNETES", "1.12")

    with pytest.raises(BuildError, match=r"'1\.12' is none of newest, oldest"):
        build.locate()


def test_the_oldest_kubernetes_is_older_and_has_its_own_pins() -> None:
    versions = [
        [int(part) for part in kubernetes_version(module.directory).removeprefix("v").split(".")]
        for module in (build.OLDEST, build.KUBERNETES)
    ]

    assert versions[0] < versions[1]


def test_the_documentation_names_the_versions_that_are_pinned() -> None:
    page = (build.HERE.parents[1] / "docs" / "reliability.md").read_text()

    for module in (build.KUBERNETES, build.OLDEST):
        kubernetes = kubernetes_version(module.directory).removeprefix("v")
        [etcd] = re.findall(
            r"^\s*go\.etcd\.io/etcd/server/v3 v(\S+)",
            (module.directory / "go.mod").read_text(),
            re.MULTILINE,
        )
        assert f"| Kubernetes {kubernetes}, etcd {etcd} |" in page


def test_modules_without_a_kubernetes_pin_match_the_tested_one() -> None:
    assert kubernetes_version(build.HELM.directory) == kubernetes_version()


def test_another_pin_and_another_group_are_built_again(cache: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copy(build.HELM.directory / name, elsewhere)
    same = replace(build.HELM, directory=elsewhere)
    directory = made(same, cache)
    assert build.locate(build.HELM) == directory

    (elsewhere / "go.sum").write_text("")

    assert build.locate(same) is None
    assert build.locate(replace(build.HELM, group="for another Kubernetes")) is None
