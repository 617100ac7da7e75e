"""The Debian that stands in for the image's base, and how pip learns where packages are."""

import configparser
import ssl
from pathlib import Path

import pytest

from tests.real_parts.debian import CannotBeHad, ensure_tree, python_of_image
from tests.real_parts.pip_settings import AUTHORITIES, authorities, write_configuration


def reported(path: Path) -> dict[str, str]:
    """What pip would read in a file."""
    parser = configparser.RawConfigParser()
    parser.read(path)
    return dict(parser["global"])


def test_the_python_of_the_image_is_known() -> None:
    assert python_of_image() == "3.13"


def test_without_root_the_error_says_that_root_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(CannotBeHad, match="only root"):
        ensure_tree()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("REAL_PARTS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(CannotBeHad, match="no debootstrap"):
        ensure_tree()

    (tmp_path / "debootstrap").touch(mode=0o755)
    with pytest.raises(CannotBeHad, match="no mirror"):
        ensure_tree()


def test_files_and_environment_become_one_file_that_others_cannot_read(tmp_path: Path) -> None:
    given = tmp_path / "given.conf"
    given.write_text("[global]\nindex-url = https://me:secret@index.invalid/simple\ntimeout = 7\n")
    written = tmp_path / "pip.conf"

    write_configuration(
        written,
        {"PIP_CONFIG_FILE": str(given), "PIP_DEFAULT_TIMEOUT": "9", "HOME": str(tmp_path)},
    )

    found = reported(written)
    assert found["index-url"] == "https://me:secret@index.invalid/simple"
    assert (found["timeout"], found["default-timeout"]) == ("7", "9")
    assert written.stat().st_mode & 0o777 == 0o600


def test_directories_of_this_machine_are_left_out(tmp_path: Path) -> None:
    written = tmp_path / "pip.conf"

    write_configuration(
        written, {"PIP_FIND_LINKS": "/wheels https://wheels.invalid/", "HOME": str(tmp_path)}
    )

    assert reported(written)["find-links"] == "https://wheels.invalid/"


def test_the_cas_of_pip_are_installed_where_debian_expects_them(tmp_path: Path) -> None:
    written = tmp_path / "pip.conf"
    env = {"PIP_CERT": "/of/this/machine.pem", "HOME": str(tmp_path)}

    write_configuration(written, env)

    assert authorities(env) == Path("/of/this/machine.pem")
    assert reported(written)["cert"] == str(AUTHORITIES)
    assert authorities({}) == Path(ssl.get_default_verify_paths().cafile or AUTHORITIES)
