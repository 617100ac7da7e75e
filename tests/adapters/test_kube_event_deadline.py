"""A watch that should have delivered something is not waited for."""

import asyncio
import errno
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, Query
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.informer import Informer
from linstor_affinity_events.adapters.kubernetes.responses import WatchEvents
from linstor_affinity_events.adapters.kubernetes.volumes import VOLUMES_PATH, KubeVolumes
from linstor_affinity_events.adapters.kubernetes.watch import EVENT_OVERDUE_AFTER, EventDeadline
from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.model.names import PvName
from tests.adapters.peers import loads, running
from tests.contracts.manifests import volume

pytestmark = pytest.mark.virtual_clock

Json = dict[str, Any]

TOOK = 0.5
"""Seconds that a write takes."""


def at(version: int) -> Json:
    manifest = volume("pv-1")
    manifest["metadata"] |= {"uid": "uid-1", "resourceVersion": str(version)}
    return manifest


class OneWatchAtATime(KubeApi):
    """An API server that delivers what the test tells it to, and accepts every write."""

    def __init__(self) -> None:
        super().__init__(loads("http://nowhere.invalid"))
        self.watches = 0
        self.version = 1
        self._events = asyncio.Queue[Json]()

    def deliver(self, kind: str, manifest: Json) -> None:
        self._events.put_nowait({"type": kind, "object": manifest})

    @asynccontextmanager
    async def watch(self, path: str, query: Query) -> AsyncIterator[WatchEvents]:
        self.watches += 1
        self._events = events = asyncio.Queue[Json]()
        if "sendInitialEvents" in query:
            metadata = {"annotations": {"k8s.io/initial-events-end": "true"}}
            self.deliver("BOOKMARK", {"metadata": {**metadata, "resourceVersion": "1"}})

        async def delivered() -> WatchEvents:
            while True:
                yield await events.get()

        yield delivered()

    async def create(
        self, path: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        await asyncio.sleep(TOOK)
        self.version += 1
        return at(self.version)

    async def patch(
        self, path: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        await asyncio.sleep(TOOK)
        self.version += body["metadata"].get("annotations") is not None
        return at(self.version)


@asynccontextmanager
async def synced() -> AsyncIterator[tuple[OneWatchAtATime, KubeVolumes, Informer]]:
    api, index = OneWatchAtATime(), VolumeIndex(lambda _: None)
    informer = Informer(
        api,
        VOLUMES_PATH,
        index,
        delays=Backoff(first=0.01, most=0.01, chance=random.Random(1)),
        watch_for=900.0,
        deadline=index.deadline,
    )
    async with running(informer.run()):
        await informer.synced.wait()
        yield api, KubeVolumes(api, index), informer


async def long() -> None:
    await asyncio.sleep(3 * EVENT_OVERDUE_AFTER)


async def test_a_watch_that_does_not_deliver_a_creation_is_replaced() -> None:
    async with synced() as (api, volumes, informer):
        await volumes.create(volume("pv-1"))
        await asyncio.sleep(EVENT_OVERDUE_AFTER - 0.1)
        assert api.watches == 1

        await asyncio.sleep(0.2)

        assert api.watches == 2
        assert informer.failure is None
        await long()
        assert api.watches == 2


async def test_a_watch_that_does_not_deliver_a_change_is_replaced() -> None:
    async with synced() as (api, volumes, _):
        patch = {"metadata": {"resourceVersion": "1", "annotations": {"a": "b"}}}
        await volumes.patch(PvName("pv-1"), patch)

        await long()

        assert api.watches == 2


@pytest.mark.parametrize("after", [TOOK / 2, TOOK + 1.0, TOOK + EVENT_OVERDUE_AFTER - 0.1])
async def test_a_watch_that_delivers_something_stays(after: float) -> None:
    """Also when the event overtakes the response."""
    async with synced() as (api, volumes, _):
        await asyncio.sleep(1.0)
        creation = asyncio.create_task(volumes.create(volume("pv-1")))
        await asyncio.sleep(after)
        api.deliver("ADDED", at(2))
        await creation

        await long()

        assert api.watches == 1


async def test_a_patch_that_changes_nothing_leads_to_no_event() -> None:
    async with synced() as (api, volumes, _):
        await volumes.patch(PvName("pv-1"), {"metadata": {"resourceVersion": "1"}})

        await long()

        assert api.watches == 1


async def test_the_first_of_several_changes_counts() -> None:
    """Others follow all the time, and must not put it off."""
    async with synced() as (api, volumes, _):
        async with asyncio.timeout(TOOK + EVENT_OVERDUE_AFTER + 1.0):
            while api.watches == 1:
                await volumes.create(volume("pv-1"))


async def test_the_reason_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with synced() as (_, volumes, _):
        await volumes.create(volume("pv-1"))

        await long()

    errors = [str(vars(record).get("error", vars(record))) for record in caplog.records]
    assert any("has not delivered a change of 10 s ago" in error for error in errors)


async def test_a_timeout_of_the_connection_is_another_reason() -> None:
    """TCP reports ETIMEDOUT when keepalive probes are not acknowledged."""
    deadline = EventDeadline()

    with pytest.raises(TimeoutError, match="keepalive"):
        async with deadline.enforced(VOLUMES_PATH):
            raise TimeoutError(errno.ETIMEDOUT, "keepalive")
