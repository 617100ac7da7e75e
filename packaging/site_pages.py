"""Hooks of mkdocs: pages of the site that are not in docs/.

Files at the top, such as CHANGELOG.md, and the chart's README become pages of the site, so that
links between them and docs/ work in the repository and on the site alike.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def outside() -> list[str]:
    """Pages that are not in docs/, by their path in the repository."""
    pages = (page.name for page in sorted(TOP.glob("*.md")) if page.name != "README.md")
    return ["LICENSE", "chart/README.md", *pages]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for path in outside():
        files.append(File.generated(config, path, content=(TOP / path).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Let links lead to where pages are on the site: docs/ is the top there."""
    path = page.file.src_uri
    home = Path(path if path in outside() else f"docs/{path}").parent

    def on_site(link: re.Match[str]) -> str:
        target = (TOP / home / link[1]).resolve().relative_to(TOP)
        there = target.relative_to("docs") if target.parts[:1] == ("docs",) else target
        return "../" * (len(Path(path).parts) - 1) + there.as_posix()

    return LINK.sub(on_site, markdown)
