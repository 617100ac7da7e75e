"""Tables in the documentation say what the code has."""

import re
import runpy
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from linstor_affinity_events.app.service import Service
from linstor_affinity_events.cli import main
from linstor_affinity_events.engine.event_reasons import EventReason
from linstor_affinity_events.metrics import described
from linstor_affinity_events.model.decision import Reason
from linstor_affinity_events.settings import OPTIONS, Settings

TOP = Path(__file__).parent.parent
REFERENCE = runpy.run_path(str(TOP / "packaging" / "reference.py"))["PAGES"]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
WITH_FLAGS = [
    "README.md",
    "docs/alerts.md",
    "docs/migrating.md",
    "docs/operations.md",
    "docs/policies.md",
    "docs/quickstart.md",
    "docs/reliability.md",
    "docs/sidecar.md",
    "docs/troubleshooting.md",
]


def rows(document: str, first: str) -> list[list[str]]:
    """The rows of all tables of a document whose first cell begins like this."""
    lines = (TOP / document).read_text().splitlines()
    cells = [[c.strip(" `") for c in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    return [row for row in cells if row[0].startswith(first)]


async def test_every_metric_that_is_served_is_described(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("")
    service = Service(Settings.read({"kubeconfig": str(kubeconfig)}, {}))
    families = text_string_to_metric_families(service.metrics.text().decode())
    served = {
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            family.documentation,
        )
        for family in families
        if family.name.startswith("linstor_affinity")
    }

    assert served == {(name, kind, each.help) for name, kind, each in described()}


@pytest.mark.parametrize("page", REFERENCE)
def test_the_reference_pages_are_up_to_date(page: str) -> None:
    assert (TOP / "docs" / page).read_text() == REFERENCE[page]()


@pytest.mark.parametrize("document", WITH_FLAGS)
def test_every_documented_flag_and_command_exists(document: str) -> None:
    text = (TOP / document).read_text()
    ours = {f"--{option.flag}" for option in OPTIONS}
    ours |= {name for command in main.commands.values() for p in command.params for name in p.opts}
    foreign = {"--kube-api-qps", "--pvclaimbinder-sync-period", "--no-deps", "--require-hashes"}
    foreign |= {"--help", "--version", "--logs", "--patch-file", "--reuse-values", "--set"}
    foreign |= {"--values", "--watch", "--for", "--replicas", "--selector"}
    foreign |= {"--all-namespaces"}

    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))

    assert named <= ours | foreign
    assert set(re.findall(r"linstor-affinity-events ([a-z][a-z-]+)", text)) <= {
        *main.commands,
        "is",
    }


def test_the_troubleshooting_explains_every_reason() -> None:
    table = (TOP / "docs/troubleshooting.md").read_text().partition("## Reasons")[2]
    explained = [
        name
        for row in re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", table, re.MULTILINE)
        for name in re.findall(r"[a-z-]+", row)
    ]

    assert sorted(explained) == sorted(map(str, Reason))


def test_the_troubleshooting_explains_every_event() -> None:
    table = (TOP / "docs/troubleshooting.md").read_text().partition("## Events")[2]

    explained = re.findall(r"^\| `([A-Z][A-Za-z]+)` \|", table, re.MULTILINE)

    assert sorted(explained) == sorted(map(str, EventReason))


OLD_WORDS = (
    "pretended|full pass|saved note|its like|verdict|settled|sweep|told|wears|astray|twins|crowd"
    "|mend(?:s|ed)?|anew|rehears\\w*|hands? out|half-done|storms?|calms?"
)
"""Words that say nothing to a reader who knows Kubernetes and not this project."""


def test_documentation_uses_no_old_words() -> None:
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    pages += [*TOP.glob("chart/**/*.*"), *TOP.glob("demo/*.py"), TOP / "mkdocs.yml"]
    found = {
        (page.name, word)
        for page in pages
        for word in re.findall(rf"\b(?:{OLD_WORDS})\b", page.read_text(), re.IGNORECASE)
    }

    assert found == set()


def test_each_defence_of_the_threat_model_names_a_test_that_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (TOP / "docs" / "security.md").read_text()))
    there = {
        name
        for file in (TOP / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }

    assert len(named) > 15
    assert named <= there


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (TOP / "docs/security.md").read_text()))
    code = "\n".join(each.read_text() for each in (TOP / "tests").rglob("test_*.py"))

    assert len(named) > 50
    assert named <= set(re.findall(r"def (test_\w+)\(", code))


def test_the_tables_of_modules_are_complete() -> None:
    package = TOP / "linstor_affinity_events"
    modules = [
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if file.name != "__init__.py"
    ]

    listed = [row[0] for row in rows("docs/architecture.md", "") if row[0].endswith(".py")]

    assert sorted(listed) == sorted(modules)


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (TOP / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+\.(?:py|md))`", text)) | set(
        re.findall(r"`(tests/[\w/]+)`", text)
    )
    roots = [TOP, TOP / "linstor_affinity_events", TOP / "linstor_affinity_events" / "engine"]

    assert len(named) > 100
    assert {name for name in named if not any((p / name).exists() for p in roots)} == set()
    assert all(
        (TOP / "docs" / link).exists() for link in re.findall(r"\]\((decisions/[^)]+)\)", text)
    )


def test_every_decision_is_in_the_index_with_its_state() -> None:
    pages = {page.name for page in (TOP / "docs" / "decisions").glob("*.md")} - {"README.md"}
    state = r"accepted|withdrawn|superseded by \[[^]]+\]\((\S+\.md)\)"
    listed: dict[str, str] = {}
    for row in rows("docs/decisions/README.md", "20"):
        link = re.fullmatch(r"\[.+\]\((\S+)\)", row[1])
        assert link, row
        assert link[1].startswith(row[0]), row
        found = re.match(state, row[2])
        assert found, row
        assert found[1] is None or found[1] in pages, row
        listed[link[1]] = row[2]

    assert set(listed) == pages


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []
