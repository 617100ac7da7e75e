"""A full reconcile lets other tasks run, however much there is to be queued."""

import asyncio
from collections.abc import Callable

import pytest

from linstor_affinity_events.engine.full_reconcile import YIELD_EVERY, queue_unfinished
from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.placement import Definition
from linstor_affinity_events.model.policy import StorageClass
from tests.adapters.peers import running
from tests.engine.setup import RD, Setup, bind, cluster_with, instead, setup_on, until
from tests.fakes.linstor import FakeLinstor

NUMBER = 10 * YIELD_EVERY


class MostAtOnce:
    """By how much a number grows between two turns of another task, at most."""

    def __init__(self, number: Callable[[], int]) -> None:
        self._number, self.found = number, 0

    async def watch(self) -> None:
        before = self._number()
        while True:
            await asyncio.sleep(0)
            now = self._number()
            self.found, before = max(self.found, now - before), now


def most_queued(setup: Setup) -> MostAtOnce:
    return MostAtOnce(lambda: len(setup.queue))


@pytest.mark.parametrize("full", [True, False])
async def test_other_tasks_run_while_very_many_volumes_of_one_resource_are_decided(
    *, full: bool
) -> None:
    """In a full reconcile, or when the resource is reconciled."""
    names = [f"pvc-{number}" for number in range(2 * YIELD_EVERY)]
    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1")
        linstor.place(RD, "n1")
        setup = setup_on(cluster, linstor)
        read, decided = setup.volumes.index.storage_class, 0

        def counted(name: str) -> StorageClass | None:
            """Each decision reads it once."""
            nonlocal decided
            decided += 1
            return read(name)

        instead(setup.volumes.index, storage_class=counted)
        async with setup.at_work():
            for number, name in enumerate(names):
                bind(cluster, name, "n1", handle=f"{RD}/{number}")
            await until(lambda: len(setup.volumes.index) == len(names))
            begun, most = decided, MostAtOnce(lambda: decided)
            async with running(most.watch()):
                await asyncio.sleep(0)
                if full:
                    await setup.full_reconciler.reconcile_all("start")
                else:
                    setup.queue.add(RD)
                    # Its clock stands still while a task always has something to do.
                    while decided < begun + len(names):  # noqa: ASYNC110, no Event is set
                        await asyncio.sleep(0)
                await asyncio.sleep(0)

    assert decided >= begun + len(names)
    assert most.found <= YIELD_EVERY


async def test_other_tasks_run_while_very_many_entries_are_queued() -> None:
    async with cluster_with() as cluster:
        setup = setup_on(cluster, FakeLinstor("n1"))
        keys = {PvName(f"pv-{n}"): VolumeKey(ResourceName(f"r{n}")) for n in range(NUMBER)}

        async def list_all() -> Listed:
            return Listed(keys, whole=True, first=True, last=True)

        instead(setup.journal, all=list_all)
        most = most_queued(setup)
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
        most = most_queued(setup)
        async with setup.volumes.watching(), running(most.watch()):
            await asyncio.sleep(0)
            await setup.full_reconciler.reconcile_all("start")
            await asyncio.sleep(0)

    assert len(setup.queue) == len(setup.cluster_view.saved) == (NUMBER if saved else 0)
    assert most.found <= YIELD_EVERY
