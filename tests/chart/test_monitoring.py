"""Alerts fire when they should, and nothing is asked for that does not exist."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from linstor_affinity_events.app.service import Service
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.metrics import Metrics
from linstor_affinity_events.settings import Settings
from tests.chart.helm import CHART, Helm

Json = dict[str, Any]

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = CHART / "files" / "dashboard.json"
RUNBOOKS = CHART.parent / "docs" / "alerts.md"

RULE = "monitoring.coreos.com/v1/PrometheusRule"
BASE = "https://git.example.com/storage/affinity/blob/main"

NAMES = re.compile(r"\b(?:linstor_affinity|process)_[a-z_]+")


@pytest.fixture
async def known(tmp_path: Path) -> set[str]:
    """Every series that the service has, by name."""
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text("")
    service = Service(Settings.read({"kubeconfig": str(kubeconfig)}, {}))
    text = service.metrics.text().decode()
    names = set(re.findall(r"^# TYPE (\S+) (?:gauge|counter)$", text, re.MULTILINE))
    for name in re.findall(r"^# TYPE (\S+) histogram$", text, re.MULTILINE):
        names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return names


async def test_the_dashboard_queries_only_existing_metrics(known: set[str]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in NAMES.findall(target["expr"])
    }

    assert len(asked) > 15
    assert asked <= known


async def test_the_alerts_query_only_existing_metrics(known: set[str]) -> None:
    asked = set(NAMES.findall(ALERTS.read_text()))

    assert asked <= known


def test_counters_used_by_alerts_start_at_zero() -> None:
    text = Metrics(Streams(time.time)).text().decode()

    assert 'linstor_affinity_drift_without_event_total{cause="period"} 0.0' in text
    assert 'linstor_affinity_full_reconcile_errors_total{error="LoginRefused"} 0.0' in text
    assert "linstor_affinity_claims_lost_total 0.0" in text


def test_promtool_accepts_the_metrics(promtool: str) -> None:
    text = Metrics(Streams(time.time)).text()
    result = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells


def test_every_alert_has_a_runbook() -> None:
    sections = {line.removeprefix("## ") for line in RUNBOOKS.read_text().splitlines()}
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]

    for rule in group["rules"]:
        assert rule["alert"] in sections
        anchor = f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook"] == anchor


def rules_of(helm: Helm, monitoring: Json, chart: Path = CHART) -> list[Json]:
    values = {"monitoring": {"enabled": True, **monitoring}}
    rendered = helm.template(values, chart=chart, api_versions=[RULE])
    [group] = rendered.one("PrometheusRule")["spec"]["groups"]
    return [dict(rule) for rule in group["rules"]]


def test_without_a_docs_address_alerts_are_as_in_the_file(helm: Helm) -> None:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]

    assert rules_of(helm, {}) == group["rules"]


@pytest.mark.parametrize("base", [BASE, f"{BASE}/"])
def test_runbook_links_of_alerts_can_be_followed(helm: Helm, base: str) -> None:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]

    rules = rules_of(helm, {"runbookBaseUrl": base})

    for rule, written in zip(rules, group["rules"], strict=True):
        annotations = written["annotations"]
        page, _, anchor = annotations.pop("runbook").partition("#")
        assert (CHART.parent / page).is_file()
        annotations["runbook_url"] = f"{BASE}/{page}#{anchor}"
        assert rule == written


def test_runbook_links_start_with_the_project_home_if_there_is_one(
    helm: Helm, tmp_path: Path
) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    with (chart / "Chart.yaml").open("a") as file:
        file.write("home: https://home.example.com\n")

    [first, *_] = rules_of(helm, {}, chart)
    [other, *_] = rules_of(helm, {"runbookBaseUrl": BASE}, chart)

    anchor = "docs/alerts.md#linstoraffinityvolumeabsent"
    assert first["annotations"]["runbook_url"] == f"https://home.example.com/{anchor}"
    assert other["annotations"]["runbook_url"] == f"{BASE}/{anchor}"


def test_promtool_accepts_the_rules_of_the_chart(helm: Helm, promtool: str, tmp_path: Path) -> None:
    rules = rules_of(helm, {"runbookBaseUrl": BASE})
    written = tmp_path / "rules.yaml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "ours", "rules": rules}]}))

    subprocess.run([promtool, "check", "rules", str(written)], check=True, capture_output=True)


def test_promtool_accepts_the_rules(promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True, capture_output=True)


def test_alerts_fire_only_when_specified(promtool: str, tmp_path: Path) -> None:
    cases = Path(__file__).parent / "alert_cases.yaml"
    text = cases.read_text().replace("RULES", str(ALERTS))
    (tmp_path / "cases.yaml").write_text(text)

    result = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "cases.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alert_cases.yaml").read_text())
    tried: dict[str, set[bool]] = {}
    for group in cases["tests"]:
        for case in group["alert_rule_test"]:
            tried.setdefault(case["alertname"], set()).add(bool(case.get("exp_alerts")))
    [rules] = yaml.safe_load(ALERTS.read_text())["groups"]

    assert tried == {rule["alert"]: {True, False} for rule in rules["rules"]}
