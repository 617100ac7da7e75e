"""The site builds strictly, and loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import TOP

SOURCES = re.compile(r"""<(?:script|img|iframe)[^>]+src=["']?(https?:|//)""")
SHEETS = re.compile(
    r"""<link[^>]+rel=["']?(?:stylesheet|preconnect|icon)[^>]+href=["']?(https?:|//)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", target],
        cwd=TOP,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_page_is_built_and_loads_nothing_external(site: Path) -> None:
    pages = {page.relative_to(site).parent.as_posix(): page for page in site.rglob("index.html")}

    assert {".", "quickstart", "alerts", "reliability", "chart", "CONTRIBUTING"} <= pages.keys()
    for page in pages.values():
        text = page.read_text()
        assert not SOURCES.search(text), page
        assert not SHEETS.search(text), page


def test_runbook_anchors_exist_for_all_alerts(site: Path) -> None:
    page = (site / "alerts" / "index.html").read_text()
    alerts = (TOP / "chart" / "files" / "alerts.yaml").read_text()
    anchors = re.findall(r"docs/alerts\.md#(\w+)", alerts)

    assert len(anchors) > 10
    assert [anchor for anchor in anchors if f'id="{anchor}"' not in page] == []
