"""A list is read page by page, and a watch ends in time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, Query
from linstor_affinity_events.adapters.kubernetes.pages import ListLimits, Pages, present_version
from linstor_affinity_events.adapters.kubernetes.responses import WatchEvents
from linstor_affinity_events.adapters.kubernetes.volumes import VOLUMES_PATH
from linstor_affinity_events.adapters.kubernetes.watch import WATCH_END_GRACE, bounded_watch
from linstor_affinity_events.errors import Expired, Unreachable
from tests.adapters.peers import loads
from tests.contracts.manifests import volume
from tests.fakes.kube_server import FakeCluster, KubeServer

PV = "persistentvolumes"
NAMES = [f"pv-{number:02}" for number in range(20)]
KIB = 1024


@pytest.fixture(autouse=True)
def filled(cluster: FakeCluster) -> None:
    for name in NAMES:
        made = volume(name)
        made["metadata"]["annotations"] = {"x": "x" * 10 * KIB}
        cluster.create(PV, made)


async def read(pages: Pages) -> list[str]:
    return [item["metadata"]["name"] async for page in pages for item in page]


async def test_pages_that_are_too_long_are_read_again_with_fewer_objects(
    api: KubeApi, kube: KubeServer
) -> None:
    pages = Pages(api, VOLUMES_PATH, limits=ListLimits(page=64 * KIB))

    assert await read(pages) == NAMES
    # 500, 125, 31 and 7 objects are too many, 1 is not; then two or three at a time.
    assert len(kube.log.matching("GET", "limit=")) <= 5 + 10


async def test_an_object_that_is_longer_than_a_page_is_read_alone(
    api: KubeApi, kube: KubeServer
) -> None:
    assert await read(Pages(api, VOLUMES_PATH, limits=ListLimits(page=KIB))) == NAMES


async def test_a_list_ends_at_its_limit_and_another_one_continues_it(api: KubeApi) -> None:
    limits = ListLimits(objects=12)
    first = Pages(api, VOLUMES_PATH, limits=limits)
    begun = await read(first)
    second = Pages(api, VOLUMES_PATH, limits=limits, token=first.token)
    rest = await read(second)

    assert (begun, rest) == (NAMES[:12], NAMES[12:])
    assert (first.from_start, second.from_start) == (True, False)
    assert (bool(first.token), bool(second.token)) == (True, False)


async def test_a_list_without_restarts_says_that_it_expired(api: KubeApi, kube: KubeServer) -> None:
    pages = Pages(api, VOLUMES_PATH, size=5)
    await anext(pages)
    kube.compact()

    with pytest.raises(Expired):
        await read(pages)


async def test_a_list_that_starts_over_includes_the_first_object(
    api: KubeApi, kube: KubeServer
) -> None:
    first = Pages(api, VOLUMES_PATH, limits=ListLimits(objects=12))
    await read(first)
    kube.faults.add(path_regex="continue=", status=410)

    second = Pages(api, VOLUMES_PATH, limits=ListLimits(restarts=1), token=first.token)

    assert await read(second) == NAMES
    assert second.from_start


async def test_the_present_version_takes_one_object(api: KubeApi, kube: KubeServer) -> None:
    version = await present_version(api, VOLUMES_PATH)

    assert version == (await api.get(VOLUMES_PATH))["metadata"]["resourceVersion"]
    assert len(kube.log.matching("GET", r"limit=1$")) == 1


class UnresponsiveApi(KubeApi):
    """An API server whose watches neither send anything nor end."""

    @asynccontextmanager
    async def watch(self, path: str, query: Query) -> AsyncIterator[WatchEvents]:
        async def nothing() -> WatchEvents:
            await asyncio.Event().wait()
            yield {}

        yield nothing()


@pytest.mark.virtual_clock
async def test_a_watch_that_does_not_end_is_ended() -> None:
    unresponsive = UnresponsiveApi(loads("http://nowhere.invalid"))

    with pytest.raises(Unreachable, match="did not end after its timeout"):
        async with bounded_watch(unresponsive, VOLUMES_PATH, version="1", seconds=60.0) as events:
            await anext(events)

    assert asyncio.get_running_loop().time() == 60.0 + WATCH_END_GRACE
