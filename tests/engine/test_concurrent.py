"""What is done side by side ends together."""

import asyncio

import pytest

from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.planner import READERS, Finding, Planner
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import Refused, Unreachable
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.placement import Definition
from linstor_affinity_events.model.what_if import WhatIf
from tests.engine.setup import Setup, cluster_with, instead, setup_on
from tests.fakes.linstor import FakeLinstor

NAMES = [f"pvc-{number:02}" for number in range(15)]


async def after(seconds: float, result: str) -> str:
    await asyncio.sleep(seconds)
    return result


async def failing(error: Exception) -> str:
    raise error


def others() -> set[asyncio.Task[object]]:
    """The tasks that run beside the test's own."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def test_results_are_in_the_order_given() -> None:
    assert await together(after(2.0, "one"), after(1.0, "two")) == ("one", "two")


async def test_if_one_fails_its_error_is_raised_and_the_others_are_cancelled() -> None:
    with pytest.raises(Unreachable, match="away"):
        await together(after(100.0, "late"), failing(Unreachable("away")))

    assert others() == set()


async def test_of_two_failures_one_is_raised() -> None:
    with pytest.raises((Refused, Unreachable)):
        await together(failing(Refused("no")), failing(Unreachable("away")))


def planner(setup: Setup) -> Planner:
    cluster_view = ClusterView(index=setup.volumes.index, linstor=setup.linstor, now=lambda: 2e9)
    return Planner(
        cluster_view=cluster_view,
        linstor=setup.linstor,
        volumes=setup.volumes,
        what_if=WhatIf(),
        progress=lambda *_: None,
    )


async def test_a_failed_plan_leaves_no_request_in_flight() -> None:
    linstor = FakeLinstor("n1")
    for name in NAMES:
        linstor.place(name, "n1")

    async def definition(resource: ResourceName) -> Definition | None:
        if resource == NAMES[3]:
            raise Unreachable("LINSTOR is away")
        await asyncio.sleep(100.0)
        return None

    async with cluster_with(*NAMES) as cluster:
        setup = setup_on(cluster, linstor)
        instead(linstor, definition=definition)
        async with setup.volumes.watching():
            before = others()

            with pytest.raises(Unreachable, match="LINSTOR is away"):
                await planner(setup).survey(list(setup.volumes.index.all()), [], set())

            assert others() == before


async def test_a_plan_stops_reading_claims_after_a_failure() -> None:
    linstor = FakeLinstor("n1", "n2")
    for name in NAMES:
        linstor.place(name, "n2")
    async with cluster_with(*NAMES) as cluster:
        setup = setup_on(cluster, linstor)
        async with setup.volumes.watching():
            planned = planner(setup)
            volumes = list(setup.volumes.index.all())
            findings: list[Finding] = await planned.survey(volumes, [], set())
            asked: list[PvName] = []

            async def read(name: PvName) -> None:
                asked.append(name)
                if len(asked) == READERS:
                    raise Unreachable("Kubernetes is away")
                await asyncio.sleep(1.0)

            instead(setup.volumes, read=read)
            with pytest.raises(Unreachable, match="Kubernetes is away"):
                await planned.obstacles(findings)
            await asyncio.sleep(10.0)

            assert len(asked) == READERS
