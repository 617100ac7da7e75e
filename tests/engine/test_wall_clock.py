"""Wall clocks that differ by hours, or jump: nothing but an age is ever read from one."""

import asyncio
from itertools import cycle, pairwise

from linstor_affinity_events.errors import Unreachable
from tests.engine.setup import PV, RD, Setup, cluster_with, instead, setup_on, until
from tests.fakes.linstor import FakeLinstor

HOUR = 3600.0
LONG_AGO, FAR_AHEAD = 0.0, 4e9


def clock() -> float:
    return asyncio.get_running_loop().time()


def move(setup: Setup) -> None:
    setup.linstor.place(PV, "n2")
    setup.queue.add(RD, source="promotion")


async def test_a_volume_created_in_the_future_is_deferred_only_for_the_grace_period() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2", "n3"))
        setup.cluster_view.now = lambda: LONG_AGO
        async with setup.at_work():
            begun = clock()
            move(setup)
            await until(lambda: setup.nodes() == {"n2"})

            assert setup.cluster_view.grace <= clock() - begun < 2 * setup.cluster_view.grace


async def test_a_wall_clock_jump_affects_neither_reconciles_nor_backoff() -> None:
    """Each reading differs by hours from the last."""
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2", "n3"))
        readings = cycle((LONG_AGO, FAR_AHEAD, LONG_AGO + HOUR, FAR_AHEAD - HOUR))
        setup.cluster_view.now = lambda: next(readings)
        async with setup.at_work():
            working, failures = setup.linstor.placement, []

            async def broken(resource: object) -> None:
                failures.append(clock())
                raise Unreachable("down")

            instead(setup.linstor, placement=broken)
            move(setup)
            await until(lambda: len(failures) == 4)
            pauses = [b - a for a, b in pairwise(failures)]
            instead(setup.linstor, placement=working)
            await until(lambda: setup.nodes() == {"n2"})

            assert pauses == sorted(pauses)
            assert pauses[0] > 0.3
            assert pauses[-1] <= 2.0
            await setup.full_reconciler.reconcile_all("period")
