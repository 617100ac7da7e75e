"""The budget of the imports is judged by what a fresh process says."""

import pytest

from benchmarks import imports


async def test_the_service_is_imported_within_its_budget() -> None:
    report = await imports.report()

    [row] = report.rows
    assert isinstance(row["modules"], int)
    # Fewer would say that something else was imported than the service with its libraries.
    assert row["modules"] > 500
    assert [goal for goal in report.goals if not goal.met] == []


async def test_more_modules_than_the_budget_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MOST_MODULES", 10)

    broken = [goal.what for goal in (await imports.report()).goals if not goal.met]

    assert broken == ["modules imported"]
