"""One version everywhere."""

import shutil
import subprocess
import sys
from pathlib import Path

from linstor_affinity_events import __version__

TOP = Path(__file__).parents[2]
SCRIPT = TOP / "packaging" / "versions.py"


def said(top: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(top / "packaging" / "versions.py")],
        capture_output=True,
        text=True,
        check=False,
    )


def test_package_chart_image_and_changelog_agree() -> None:
    result = said(TOP)

    assert (result.returncode, result.stdout) == (0, f"{__version__}\n")


def test_a_different_version_is_named(tmp_path: Path) -> None:
    for name in (
        *("pyproject.toml", "Dockerfile", "CHANGELOG.md", "chart/Chart.yaml"),
        *("linstor_affinity_events/__init__.py", "packaging/versions.py"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, tmp_path / name)
    chart = tmp_path / "chart" / "Chart.yaml"
    chart.write_text(chart.read_text().replace("appVersion: ", "appVersion: 9."))

    result = said(tmp_path)

    assert result.returncode == 1
    assert f"chart/Chart.yaml (appVersion): 9.{__version__}" in result.stderr
