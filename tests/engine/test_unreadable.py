"""Objects in LINSTOR that are too large to be read: only what depends on them is left as it is."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from linstor_affinity_events.model.decision import Reason
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.placement import Definition, Placement
from tests.engine.setup import PV, RD, cluster_with, instead, setup_on, until
from tests.fakes.linstor import FakeLinstor

OTHER = ResourceName("pvc-2")


def two_volumes() -> FakeLinstor:
    linstor = FakeLinstor("n1", "n2", "n3")
    linstor.place(PV, "n1")
    linstor.place(OTHER, "n1")
    return linstor


async def test_a_node_that_is_too_large_holds_up_only_volumes_with_data_there() -> None:
    linstor = two_volumes()
    async with cluster_with(PV, OTHER) as cluster:
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            linstor.unreadable_nodes.add("n3")
            linstor.place(PV, "n3")
            linstor.place(OTHER, "n2")
            await setup.full_reconciler.reconcile_all("start")
            await until(lambda: setup.nodes(OTHER) == {"n2"}, within=30.0)
            linstor.asked.clear()
            for _ in range(60):
                setup.engine.trigger(RD, "promotion")
                await asyncio.sleep(1.0)

            assert setup.nodes(PV) == {"n1"}
            # It is not read again and again meanwhile, as a node that is not listed yet is.
            assert "nodes" not in linstor.asked

            linstor.unreadable_nodes.clear()
            await setup.full_reconciler.reconcile_all("poll")
            await until(lambda: setup.nodes(PV) == {"n3"}, within=30.0)


async def test_a_definition_that_is_too_large_is_not_taken_for_a_deleted_one() -> None:
    linstor = two_volumes()
    async with cluster_with(PV, OTHER) as cluster:
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            linstor.known[RD] = Definition(resource=RD, unreadable=True)
            linstor.place(PV, "n2")
            linstor.place(OTHER, "n2")
            await setup.full_reconciler.reconcile_all("start")
            await until(lambda: setup.nodes(OTHER) == {"n2"}, within=30.0)
            await asyncio.sleep(10.0)

            assert setup.nodes(PV) == {"n1"}
            decisions = str(setup.telemetry.counted)
            assert Reason.TOO_LARGE in decisions
            assert Reason.UNKNOWN_RESOURCE not in decisions
            assert any("more properties in LINSTOR" in why for _, _, why in setup.notices.warnings)

            linstor.known[RD] = Definition(resource=RD)
            await setup.full_reconciler.reconcile_all("period")
            await until(lambda: setup.nodes(PV) == {"n2"}, within=30.0)


async def test_replicas_that_are_too_large_in_a_bulk_read_are_read_alone() -> None:
    linstor = two_volumes()
    read = linstor.placements

    async def placements() -> Mapping[ResourceName, Placement]:
        return {**await read(), RD: Placement(RD, unreadable=True)}

    async with cluster_with(PV, OTHER) as cluster:
        setup = setup_on(cluster, linstor)
        instead(linstor, placements=placements)
        async with setup.at_work():
            linstor.place(PV, "n2")
            await setup.full_reconciler.reconcile_all("start")

            await until(lambda: setup.nodes(PV) == {"n2"}, within=30.0)


async def test_what_is_known_of_a_saved_volume_is_kept_while_its_definition_is_too_large() -> None:
    """One that was taken over and could not be dropped must not be taken over a second time."""
    linstor = two_volumes()
    async with cluster_with(PV, OTHER) as cluster:
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            linstor.known[RD] = replace(linstor.known[RD], saved={0: "not valid"})
            await setup.full_reconciler.reconcile_all("start")
            await asyncio.sleep(5.0)
            before = setup.reconciler.remembered()
            linstor.known[RD] = Definition(resource=RD, unreadable=True)
            await setup.full_reconciler.reconcile_all("period")
            await asyncio.sleep(5.0)

            assert setup.reconciler.remembered() >= before > 0
