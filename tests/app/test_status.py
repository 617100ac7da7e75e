"""The status of very many volumes: what is shown is cut before it is made, and others go on."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from linstor_affinity_events.adapters.kubernetes.election import AlwaysLeading
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.app.status import MOST_VOLUMES, YIELD_EVERY, StatusReport
from linstor_affinity_events.engine.reporter import OutOfSync
from linstor_affinity_events.model.affinity import ForeignAffinity
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName, Uid
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.printable import LONGEST_TEXT
from tests.engine.setup import Setup, cluster_with, setup_on
from tests.fakes.linstor import FakeLinstor

MANY = 50_000
NAMES = [PvName(f"pvc-{number * 7919 % MANY:05}") for number in range(MANY)]
"""In no order."""

FIRST = sorted(NAMES)[:MOST_VOLUMES]


class Written(ForeignAffinity):
    """Counts how often it is written out, as each row does once."""

    rows = 0

    def __str__(self) -> str:
        Written.rows += 1
        return self.text


AFFINITY = Written("anywhere")


@dataclass(slots=True)
class ManyRows:
    """A report on very many volumes, none of which is as it should be."""

    report: StatusReport
    setup: Setup
    index: VolumeIndex
    yields: int = 0

    async def count_yields(self) -> None:
        """Run as another task on the same loop."""
        while True:
            self.yields += 1
            await asyncio.sleep(0)


def volume(name: PvName) -> Volume:
    return Volume(
        name=name,
        uid=Uid("1"),
        handle=name,
        key=VolumeKey(ResourceName(name)),
        affinity=AFFINITY,
        created_at=0.0,
        claim=ClaimName(namespace="default", name=f"data-{name[4:]}"),
    )


@pytest.fixture
async def many_rows() -> AsyncIterator[ManyRows]:
    async with cluster_with() as cluster:
        setup = setup_on(cluster, FakeLinstor("n1"))
        index = VolumeIndex(lambda _: None)
        index._volumes = {name: volume(name) for name in NAMES}
        for name in NAMES:
            setup.reporter.out_of_sync[name] = OutOfSync("refusal", "busy", "so", Uid("1"))
        report = StatusReport(
            setup.engine,
            instance="me",
            index=index,
            streams=(),
            election=AlwaysLeading(),
            not_ready=dict,
        )
        many_rows = ManyRows(report, setup, index)
        other = asyncio.create_task(many_rows.count_yields())
        await asyncio.sleep(0)
        Written.rows = many_rows.yields = 0
        yield many_rows
        other.cancel()


@pytest.mark.parametrize("search", ["", "pvc", "PVC-", "default/data-"])
async def test_of_very_many_volumes_only_the_shown_rows_are_rendered(
    many_rows: ManyRows, search: str
) -> None:
    tree = await many_rows.report.tree(search)

    assert [row["volume"] for row in tree["volumes"]] == FIRST
    assert tree["more"] == MANY - MOST_VOLUMES
    assert Written.rows == MOST_VOLUMES


@pytest.mark.parametrize("search", ["", "pvc", "nothing is called so"])
async def test_other_tasks_run_while_very_many_volumes_are_searched(
    many_rows: ManyRows, search: str
) -> None:
    await many_rows.report.tree(search)

    assert many_rows.yields >= MANY / YIELD_EVERY


async def test_of_a_long_affinity_a_part_is_shown(many_rows: ManyRows) -> None:
    long = replace(volume(NAMES[0]), affinity=ForeignAffinity("x" * 10**6))
    many_rows.index._volumes[NAMES[0]] = long

    tree = await many_rows.report.tree(NAMES[0])

    assert [len(row["affinity"]) for row in tree["volumes"]] == [LONGEST_TEXT + 1]


async def test_a_search_that_few_match_shows_all_of_them(many_rows: ManyRows) -> None:
    tree = await many_rows.report.tree("pvc-0123")

    assert [row["volume"] for row in tree["volumes"]] == [f"pvc-0123{n}" for n in range(10)]
    assert tree["more"] == 0
    assert {row["state"] for row in tree["volumes"]} == {"refusal"}


async def test_volumes_deleted_during_the_search_are_omitted(many_rows: ManyRows) -> None:
    rendering = asyncio.create_task(many_rows.report.tree(""))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    many_rows.index._volumes.clear()

    tree = await rendering

    assert tree["volumes"] == []
