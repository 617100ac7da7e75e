"""Lists and watches: the index is what the cluster is, whatever happens to the connection."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.index import ClassStore, VolumeIndex
from linstor_affinity_events.adapters.kubernetes.informer import YIELD_EVERY, Informer, read_list
from linstor_affinity_events.adapters.kubernetes.volumes import CLASSES_PATH, VOLUMES_PATH
from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.model.keys import FINALIZER, OURSELVES, VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.policy import EVERYWHERE, LOCAL_ONLY
from linstor_affinity_events.model.volume import Volume
from tests.adapters.peers import TIMEOUT, loads, running, until
from tests.contracts.manifests import affinity, volume
from tests.fakes.kube_server import FakeCluster, KubeServer
from tests.fakes.kube_server.metadata import Writer

Json = dict[str, Any]

PV = "persistentvolumes"
LISTS = r"persistentvolumes\?.*(sendInitialEvents|limit)"


class Watched:
    """An index kept by an informer, and the changes that it reported."""

    def __init__(self, api: KubeApi, *, watch_for: float = 300.0, pause: float = 0.01) -> None:
        self.changed: list[str] = []
        self.index = VolumeIndex(self._reported)
        delays = Backoff(first=pause, most=5 * pause, chance=random.Random(1))
        self.informer = Informer(api, VOLUMES_PATH, self.index, delays=delays, watch_for=watch_for)

    def _reported(self, reported: Volume) -> None:
        self.changed.append(reported.name)

    @property
    def names(self) -> set[str]:
        return {v.name for resource in self.index.resources() for v in self.index.of(resource)}

    async def synced(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.informer.synced.wait()


@pytest.fixture
async def watched(api: KubeApi) -> AsyncIterator[Watched]:
    watched = Watched(api)
    async with running(watched.informer.run()):
        yield watched


@asynccontextmanager
async def watching(api: KubeApi) -> AsyncIterator[Watched]:
    """A second one, begun when the test wants it."""
    watched = Watched(api)
    async with running(watched.informer.run()):
        yield watched


def lists(kube: KubeServer) -> int:
    return len(kube.log.matching("GET", LISTS))


async def test_the_first_list_is_streamed(
    api: KubeApi, kube: KubeServer, cluster: FakeCluster
) -> None:
    for number in range(3):
        cluster.create(PV, volume(f"pv-{number}"))

    async with watching(api) as watched:
        await watched.synced()

    assert watched.names == {"pv-0", "pv-1", "pv-2"}
    assert [request.query.count("sendInitialEvents=true") for request in kube.log.latest] == [1]


async def test_an_older_server_is_listed_in_pages(
    api: KubeApi, kube: KubeServer, cluster: FakeCluster
) -> None:
    kube.initial_events_supported = False
    cluster.load(PV, [volume(f"pv-{number}") for number in range(1201)])

    async with watching(api) as watched:
        await watched.synced()
        await until(lambda: kube.open_watches == 1)

    assert len(watched.index) == 1201
    assert len(kube.log.matching("GET", "limit=500")) == 3


async def test_volumes_are_listed_in_pages_whatever_their_annotations_are(
    api: KubeApi, kube: KubeServer, cluster: FakeCluster
) -> None:
    kube.initial_events_supported = False
    for number in range(20):
        made = volume(f"pv-{number}")
        made["metadata"]["annotations"] = {"x": "," * 262_000}
        cluster.create(PV, made)

    async with watching(api) as watched:
        await watched.synced()

    assert len(watched.index) == 20


LARGEST = "\x01" * 1_400_000
"""JSON writes each character as six bytes; the API server does so with "<" as well."""


async def test_volumes_are_listed_whatever_one_of_them_contains(
    api: KubeApi, cluster: FakeCluster
) -> None:
    made = volume("pv-1")
    cluster.create(PV, {**made, "spec": {**made["spec"], "mountOptions": [LARGEST]}})
    cluster.create(PV, volume("pv-2"))

    async with watching(api) as watched:
        await watched.synced()

    assert watched.names == {"pv-1", "pv-2"}


async def test_changes_are_reported_whatever_one_of_them_contains(
    watched: Watched, cluster: FakeCluster
) -> None:
    await watched.synced()
    made = volume("pv-1")
    cluster.create(PV, {**made, "spec": {**made["spec"], "mountOptions": [LARGEST]}})
    cluster.create(PV, volume("pv-2"))

    await until(lambda: watched.names == {"pv-1", "pv-2"})
    assert watched.informer.failure is None


async def test_changes_after_a_paged_list_are_reported(
    api: KubeApi, kube: KubeServer, cluster: FakeCluster
) -> None:
    kube.initial_events_supported = False

    async with watching(api) as watched:
        await watched.synced()
        cluster.create(PV, volume("pv-1"))
        await until(lambda: watched.names == {"pv-1"})


async def test_changes_are_reported(watched: Watched, cluster: FakeCluster) -> None:
    await watched.synced()

    cluster.create(PV, volume("pv-1"))
    await until(lambda: watched.names == {"pv-1"})
    cluster.patch(PV, "pv-1", {"spec": {"nodeAffinity": affinity("n1")}})
    await until(lambda: str(watched.index.get(PvName("pv-1"))).count("n1") == 1)
    cluster.patch(PV, "pv-1", {"metadata": {"finalizers": None}})
    cluster.delete(PV, "pv-1")
    await until(lambda: not watched.names)


async def test_a_broken_watch_resumes_from_its_last_version(
    watched: Watched, kube: KubeServer, cluster: FakeCluster
) -> None:
    await watched.synced()

    kube.cut_watches()
    cluster.create(PV, volume("pv-1"))
    await until(lambda: watched.names == {"pv-1"})

    assert lists(kube) == 1


@pytest.mark.fast_clock(100)
async def test_a_watch_that_timed_out_resumes_from_its_last_version() -> None:
    cluster = FakeCluster()

    async with KubeServer(cluster) as kube:
        api = KubeApi(loads(kube.url))
        watched = Watched(api, watch_for=20.0)
        async with running(watched.informer.run()):
            await asyncio.sleep(70)
            cluster.create(PV, volume("pv-1"))
            await until(lambda: watched.names == {"pv-1"})
        await api.close()
        assert len(kube.log.matching("GET", "timeoutSeconds=20")) >= 3

    assert lists(kube) == 1


async def test_after_an_expired_version_deleted_objects_are_dropped(
    watched: Watched, kube: KubeServer, cluster: FakeCluster
) -> None:
    cluster.create(PV, volume("pv-1"))
    cluster.create(PV, volume("pv-2"))
    await until(lambda: watched.names == {"pv-1", "pv-2"})

    kube.cut_watches()
    cluster.patch(PV, "pv-1", {"metadata": {"finalizers": None}})
    cluster.delete(PV, "pv-1")
    kube.compact()

    await until(lambda: watched.names == {"pv-2"})
    assert lists(kube) == 2


async def test_an_expired_watch_lists_again(
    watched: Watched, kube: KubeServer, cluster: FakeCluster
) -> None:
    await watched.synced()

    kube.expire_watches()
    cluster.create(PV, volume("pv-1"))

    await until(lambda: watched.names == {"pv-1"})


async def test_a_volume_recreated_during_a_gap_is_the_new_one(
    watched: Watched, kube: KubeServer, cluster: FakeCluster
) -> None:
    cluster.create(PV, volume("pv-1"))
    await until(lambda: watched.names == {"pv-1"})

    kube.cut_watches()
    cluster.patch(PV, "pv-1", {"metadata": {"finalizers": None}})
    cluster.delete(PV, "pv-1")
    new = cluster.create(PV, volume("pv-1"))
    kube.compact()

    def uid() -> str:
        found = watched.index.get(PvName("pv-1"))
        return "" if found is None else found.uid

    await until(lambda: uid() == new["metadata"]["uid"])


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
async def test_no_error_response_ends_an_informer(
    api: KubeApi, kube: KubeServer, cluster: FakeCluster, status: int
) -> None:
    kube.faults.add(status=status, times=2)
    cluster.create(PV, volume("pv-1"))

    async with watching(api) as watched:
        await watched.synced()

    assert watched.names == {"pv-1"}


async def test_a_lost_server_is_reported_and_retried(
    watched: Watched, kube: KubeServer, cluster: FakeCluster
) -> None:
    await watched.synced()
    good = watched.informer.failure

    await kube.stop()
    await until(lambda: watched.informer.failure is not None)
    cluster.create(PV, volume("pv-1"))
    await kube.start()
    await until(lambda: watched.names == {"pv-1"})

    assert (good, watched.informer.failure) == (None, None)


async def test_it_is_not_synced_before_the_list_is_complete(api: KubeApi, kube: KubeServer) -> None:
    kube.faults.add(path_regex="sendInitialEvents", status=500, times=3)

    async with watching(api) as watched:
        begun = watched.informer.failure
        await watched.synced()

    assert begun == "not listed yet"


@pytest.mark.fast_clock(20)
async def test_a_watch_that_expires_at_once_is_retried_with_backoff() -> None:
    async with KubeServer(FakeCluster()) as kube:
        kube.faults.add(status=410, times=10**9)
        api = KubeApi(loads(kube.url))
        async with running(Watched(api, pause=1.0).informer.run()):
            await asyncio.sleep(10)
        await api.close()

    assert len(kube.log.latest) < 20


async def test_an_index_finds_volumes_by_resource(watched: Watched, cluster: FakeCluster) -> None:
    csi = {"driver": "linstor.csi.linbit.com"}
    cluster.create(PV, volume("pv-1", csi={**csi, "volumeHandle": "RD-1"}))
    cluster.create(PV, volume("pv-2", csi={**csi, "volumeHandle": "rd-1/1"}))
    cluster.create(PV, volume("pv-3", csi={**csi, "volumeHandle": "rd-2"}))
    await until(lambda: len(watched.index) == 3)

    found = watched.index.of(ResourceName("rd-1"))

    assert {str(v.key): v.name for v in found} == {"rd-1/0": "pv-1", "rd-1/1": "pv-2"}
    assert set(watched.index.resources()) == {"rd-1", "rd-2"}


async def test_an_index_forgets_a_resource_with_its_last_volume(
    watched: Watched, cluster: FakeCluster
) -> None:
    cluster.create(PV, volume("pv-1", metadata={"finalizers": []}))
    await until(lambda: len(watched.index) == 1)

    cluster.patch(PV, "pv-1", {"metadata": {"finalizers": None}})
    cluster.delete(PV, "pv-1")
    await until(lambda: len(watched.index) == 0)

    assert not watched.index.resources()
    assert not watched.index.of(ResourceName("pv-1"))


async def test_volumes_of_other_drivers_are_not_stored(
    watched: Watched, cluster: FakeCluster
) -> None:
    cluster.create(PV, volume("other", csi={"driver": "x.example.com", "volumeHandle": "x"}))
    cluster.create(PV, volume("ours"))
    await until(lambda: watched.names == {"ours"})

    assert watched.index.get(PvName("other")) is None


async def test_volumes_with_an_unmanaged_handle_are_stored_separately(
    watched: Watched, cluster: FakeCluster
) -> None:
    csi = {"driver": "linstor.csi.linbit.com", "volumeHandle": "a b/c"}
    cluster.create(PV, volume("pv-1", csi=csi))
    await until(lambda: len(watched.index) == 1)

    assert [v.name for v in watched.index.unmanaged()] == ["pv-1"]
    assert not watched.index.resources()


async def test_existing_volumes_are_not_reported_as_changes(
    api: KubeApi, cluster: FakeCluster
) -> None:
    cluster.create(PV, volume("pv-1"))

    async with watching(api) as watched:
        await watched.synced()

    assert watched.changed == []


def annotated(key: str, value: str) -> Json:
    return {"metadata": {"annotations": {key: value}}}


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"spec": {"nodeAffinity": affinity("n1")}}, id="affinity"),
        pytest.param(annotated("piraeus.io/skip-affinity-controller", "x"), id="skip annotation"),
        pytest.param(annotated("override.piraeus.io/policy", "false"), id="override annotation"),
    ],
)
async def test_a_change_of_a_decision_input_is_reported(
    watched: Watched, cluster: FakeCluster, patch: Json
) -> None:
    await watched.synced()
    cluster.create(PV, volume("pv-1"))
    await until(lambda: watched.changed == ["pv-1"])

    cluster.patch(PV, "pv-1", patch)

    await until(lambda: watched.changed == ["pv-1", "pv-1"])


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda cluster: cluster.patch(PV, "pv-1", {"metadata": {"labels": {"a": "b"}}}),
            id="a label",
        ),
        pytest.param(
            lambda cluster: cluster.patch(PV, "pv-1", {"metadata": {"finalizers": [FINALIZER]}}),
            id="our finalizer",
        ),
        pytest.param(
            lambda cluster: cluster.create(PV, volume("pv-2"), writer=Writer(name=OURSELVES)),
            id="a volume that we made",
        ),
    ],
)
async def test_a_change_of_anything_else_is_not_reported(
    watched: Watched, cluster: FakeCluster, change: Callable[[FakeCluster], object]
) -> None:
    await watched.synced()
    cluster.create(PV, volume("pv-1"))
    await until(lambda: watched.changed == ["pv-1"])

    change(cluster)
    cluster.create(PV, volume("the-last"))
    await until(lambda: "the-last" in watched.names)

    assert watched.changed == ["pv-1", "the-last"]


async def test_a_volume_watch_receives_each_change(watched: Watched, cluster: FakeCluster) -> None:
    await watched.synced()

    with watched.index.follow(PvName("pv-1")) as volume_watch:
        cluster.create(PV, volume("pv-1"))
        async with asyncio.timeout(TIMEOUT):
            await volume_watch.event()
        created = volume_watch.latest
        cluster.delete(PV, "pv-1")
        async with asyncio.timeout(TIMEOUT):
            await volume_watch.event()
        deleted = volume_watch.latest

    assert created is not None
    assert deleted is not None
    assert created["metadata"]["uid"] == deleted["metadata"]["uid"]


async def test_a_volume_watch_receives_nothing_of_other_volumes(
    watched: Watched, cluster: FakeCluster
) -> None:
    await watched.synced()

    with watched.index.follow(PvName("pv-1")) as volume_watch:
        cluster.create(PV, volume("pv-2"))
        await until(lambda: watched.names == {"pv-2"})

    assert volume_watch.latest is None


async def test_a_phase_change_is_a_sign_of_life_of_the_binder(
    watched: Watched, cluster: FakeCluster
) -> None:
    await watched.synced()
    cluster.create(PV, volume("pv-1"))
    await until(lambda: watched.names == {"pv-1"})
    before = watched.index.phase_changed_at

    status = Writer(name="kube-controller-manager", subresource="status")
    cluster.patch(PV, "pv-1", {"status": {"phase": "Released"}}, writer=status)
    await until(lambda: watched.index.phase_changed_at > before)

    assert before == float("-inf")


Classes = tuple[ClassStore, list[int]]
"""A store, and one item for each change that it reported."""


def class_of(name: str, **parameters: str) -> Json:
    return {
        "metadata": {"name": name},
        "provisioner": "linstor.csi.linbit.com",
        "parameters": parameters,
    }


@pytest.fixture
async def classes(
    api: KubeApi, cluster: FakeCluster
) -> AsyncIterator[tuple[ClassStore, list[int]]]:
    cluster.create("storageclasses", class_of("local", allowRemoteVolumeAccess="false"))
    store, reported = ClassStore(), list[int]()
    store.on_change = lambda: reported.append(1)
    delays = Backoff(first=0.01, most=0.05, chance=random.Random(1))
    informer = Informer(api, CLASSES_PATH, store, delays=delays, watch_for=300.0)
    async with running(informer.run()):
        async with asyncio.timeout(TIMEOUT):
            await informer.synced.wait()
        yield store, reported


async def test_classes_are_stored_by_name(classes: Classes) -> None:
    store, reported = classes

    assert store.found["local"].policy == LOCAL_ONLY
    assert reported == []


async def test_a_new_class_is_reported(classes: Classes, cluster: FakeCluster) -> None:
    store, reported = classes

    cluster.create("storageclasses", class_of("open", allowRemoteVolumeAccess="true"))
    await until(lambda: "open" in store.found)

    assert store.found["open"].policy == EVERYWHERE
    assert reported == [1]


async def test_a_deleted_class_is_dropped(classes: Classes, cluster: FakeCluster) -> None:
    store, _ = classes

    cluster.delete("storageclasses", "local")

    await until(lambda: not store.found)


async def test_a_class_changed_during_a_gap_is_reported(
    classes: Classes, cluster: FakeCluster, kube: KubeServer
) -> None:
    store, reported = classes

    kube.cut_watches()
    cluster.delete("storageclasses", "local")
    cluster.create("storageclasses", class_of("local", allowRemoteVolumeAccess="true"))
    kube.compact()
    await until(lambda: store.found["local"].policy == EVERYWHERE)

    assert reported == [1]


def test_a_key_that_changes_moves_the_volume() -> None:
    # A volume's handle never changes in place; one that was recreated under its name may.
    index = VolumeIndex(lambda _: None)
    first = volume("pv-1", metadata={"uid": "1"})
    second = volume(
        "pv-1",
        metadata={"uid": "2"},
        csi={"driver": "linstor.csi.linbit.com", "volumeHandle": "rd-2/7"},
    )

    index.changed(first)
    index.changed(second)

    assert set(index.resources()) == {"rd-2"}
    [found] = index.of(ResourceName("rd-2"))
    assert found.key == VolumeKey(ResourceName("rd-2"), 7)


async def test_other_tasks_run_while_a_page_is_stored(api: KubeApi, cluster: FakeCluster) -> None:
    """What others wrote into one object may take milliseconds to read."""
    for number in range(4 * YIELD_EVERY):
        cluster.create(PV, volume(f"pvc-{number}"))
    stored, most = 0, 0

    class Counting:
        def begin_list(self) -> None: ...

        def listed(self, _: Mapping[str, Any]) -> None:
            nonlocal stored
            stored += 1

        def end_list(self) -> None: ...

        def changed(self, _: Mapping[str, Any]) -> None: ...

        def gone(self, _: Mapping[str, Any]) -> None: ...

    async def others() -> None:
        nonlocal most
        last = 0
        while True:
            most, last = max(most, stored - last), stored
            await asyncio.sleep(0)

    async with running(others()):
        await read_list(api, VOLUMES_PATH, Counting())
        await until(lambda: most > 0)

    assert stored == 4 * YIELD_EVERY
    assert most <= YIELD_EVERY
