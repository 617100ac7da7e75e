"""A full reconcile lets other tasks run, however much there is to be queued."""

import asyncio

import pytest

from linstor_affinity_events.engine.full_reconcile import YIELD_EVERY, queue_unfinished
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.placement import Definition
from tests.adapters.peers import running
from tests.engine.setup import Setup, cluster_with, instead, setup_on
from tests.fakes.linstor import FakeLinstor

NUMBER = 10 * YIELD_EVERY


class MostAtOnce:
    """The most keys that are queued between two turns of another task."""

    def __init__(self, setup: Setup) -> None:
        self._queue, self.found = setup.queue, 0

    async def watch(self) -> None:
        before = len(self._queue)
        while True:
            await asyncio.sleep(0)
            now = len(self._queue)
            self.found, before = max(self.found, now - before), now


async def test_other_tasks_run_while_very_many_entries_are_queued() -> None:
    async with cluster_with() as cluster:
        setup = setup_on(cluster, FakeLinstor("n1"))
        keys = {PvName(f"pv-{n}"): VolumeKey(ResourceName(f"r{n}")) for n in range(NUMBER)}

        async def list_all() -> Listed:
            return Listed(keys, whole=True, first=True, last=True)

        instead(setup.journal, all=list_all)
        most = MostAtOnce(setup)
        async with running(most.watch()):
            await asyncio.sleep(0)
            await queue_unfinished(setup.replacer, setup.queue, setup.volumes.index)
            await asyncio.sleep(0)

    assert len(setup.queue) == NUMBER
    assert most.found <= YIELD_EVERY


@pytest.mark.parametrize("saved", [True, False])
async def test_other_tasks_run_while_very_many_saved_volumes_are_queued(*, saved: bool) -> None:
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1")
        for number in range(NUMBER):
            name = ResourceName(f"r{number}")
            linstor.known[name] = Definition(resource=name, saved={-1: "x"} if saved else {})
        setup = setup_on(cluster, linstor)
        most = MostAtOnce(setup)
        async with setup.volumes.watching(), running(most.watch()):
            await asyncio.sleep(0)
            await setup.full_reconciler.reconcile_all("start")
            await asyncio.sleep(0)

    assert len(setup.queue) == len(setup.cluster_view.saved) == (NUMBER if saved else 0)
    assert most.found <= YIELD_EVERY
