"""The main job, crashes and late writes, with the CSI sidecars and a hostile claim beside it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.adapters.kubernetes.session import configuration_from
from linstor_affinity_events.adapters.kubernetes.volumes import KubeVolumes
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.model.claim_ref import tombstone_patch
from linstor_affinity_events.model.manifest import Manifest, is_terminating
from linstor_affinity_events.model.markers import mark_patch, unmarking
from linstor_affinity_events.model.names import PvName
from tests.e2e.conftest import MakeService
from tests.e2e.steps import STEPS
from tests.e2e.test_lifecycle import finished
from tests.fakes.sidecars import HttpApi, Sidecars
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters, manifests
from tests.testbed.clusters import Cluster, until
from tests.testbed.manifests import CLAIMS, preserved
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import After, Asked
from tests.testbed.service import running
from tests.testbed.testbed import Testbed
from tests.testbed.warm import WarmStarts

Json = dict[str, Any]

PV = "/api/v1/persistentvolumes"
HOSTILE = "hostile"
DOWN = 60.0
"""How long nobody resumes what was cut off: four resyncs of the binder."""

CLUSTERS_AT_ONCE = 2
OBSERVED_WITHIN = 30.0


@asynccontextmanager
async def beset(testbed: Testbed) -> AsyncIterator[Sidecars]:
    """Let the sidecars work, attach the volume, and have a claim that calls it its own."""
    async with Sidecars(HttpApi(testbed.cluster)) as sidecars:
        await testbed.add("pvc-1", ["n1"])
        sidecars.attach("pvc-1")
        hostile = manifests.claim(HOSTILE)
        hostile["metadata"]["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
        hostile["spec"]["volumeName"] = "pvc-1"
        await testbed.cluster.ask("POST", CLAIMS, hostile)

        async def until_idle() -> bool:
            found = await testbed.cluster.ask("GET", f"{PV}/pvc-1")
            return any(f.startswith("external-attacher/") for f in found["metadata"]["finalizers"])

        await until(until_idle, "the attacher holds the volume")
        yield sidecars


async def nothing_lost(testbed: Testbed, sidecars: Sidecars, before: Json) -> None:
    """All of the volume is there, its data too, and nobody else has got it."""
    await testbed.until_on("pvc-1", "n2")
    await until(lambda: finished(testbed), "no note is left")
    await testbed.until_bound("pvc-1")

    async def unchanged() -> bool:
        return preserved(await testbed.cluster.ask("GET", f"{PV}/pvc-1")) == preserved(before)

    await until(unchanged, "all fields are as before")
    hostile = await testbed.cluster.ask("GET", f"{CLAIMS}/{HOSTILE}")
    assert hostile["status"]["phase"] != "Bound"
    assert sidecars.reclaimed == []
    owner = before["spec"]["claimRef"]["uid"]
    for observed in testbed.observer.history["pvc-1"]:
        assert observed.manifest["spec"]["claimRef"]["uid"] == owner


async def test_with_csi_sidecars_nothing_is_lost(testbed: Testbed, service_on: MakeService) -> None:
    async with beset(testbed) as sidecars:
        before = await testbed.cluster.ask("GET", f"{PV}/pvc-1")

        async with running(service_on(testbed)):
            testbed.world.move("pvc-1", "n1", "n2")
            await nothing_lost(testbed, sidecars, before)

    assert ("default", "claim-pvc-1") not in testbed.observer.lost


async def test_a_concurrent_resize_is_in_the_new_volume(
    testbed: Testbed, service_on: MakeService
) -> None:
    async with beset(testbed), running(service_on(testbed)):
        testbed.world.move("pvc-1", "n1", "n2")
        wish = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        await testbed.cluster.ask("PATCH", f"{CLAIMS}/claim-pvc-1", wish)
        await testbed.until_on("pvc-1", "n2")

        def resized() -> bool:
            pv = testbed.observer.volumes["pvc-1"]
            claim = testbed.observer.claims["default", "claim-pvc-1"]
            sizes = {pv["spec"]["capacity"]["storage"], claim["status"]["capacity"]["storage"]}
            return sizes == {"3Gi"}

        await testbed.observer.until(resized, "volume and claim have the new size")
        await until(lambda: finished(testbed), "no note is left")
        await testbed.until_bound("pvc-1")


async def test_no_late_write_affects_the_new_volume(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    async with running(service_on(testbed)):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await testbed.until_bound("pvc-1")
        await until(lambda: finished(testbed), "no note is left")
    now = await testbed.cluster.ask("GET", f"{PV}/pvc-1")
    observed = [each.manifest for each in testbed.observer.history["pvc-1"]]
    old = [pv for pv in observed if pv["metadata"]["uid"] != now["metadata"]["uid"]]
    assert any(is_terminating(pv) for pv in old)

    async with service_side(testbed.cluster) as volumes:
        for pv in old:
            await refused(volumes, pv)

    assert await testbed.cluster.ask("GET", f"{PV}/pvc-1") == now


async def refused(volumes: KubeVolumes, pv: Manifest) -> None:
    """Send every write that the service may have sent when the volume was like this."""
    name = PvName("pvc-1")
    with pytest.raises((Again, Refused)):
        await volumes.delete(pv)
    with pytest.raises((Again, Refused)):
        await volumes.remove(pv)
    for patch in (mark_patch(pv), tombstone_patch(pv), unmarking(pv).patch):
        with pytest.raises((Again, Refused)):
            await volumes.patch(name, patch)


@asynccontextmanager
async def service_side(cluster: Cluster) -> AsyncIterator[KubeVolumes]:
    """The service's own way to volumes."""
    load = configuration_from(kubeconfig=str(cluster.kubeconfig), context="", server="")
    api = KubeApi(load)
    await api.open()
    try:
        yield KubeVolumes(api, VolumeIndex(lambda _: None))
    finally:
        await api.close()


async def crashed_and_resumed(
    testbed: Testbed, step: str, directory: Path, starts: WarmStarts
) -> None:
    """Kill the service when a write of it took effect and before it learns so, let all others go
    on alone for a while, start it again.
    """
    label, nth = STEPS[step]
    async with (
        ProxiedTestbed.of(testbed, directory, starts) as proxied,
        beset(testbed) as sidecars,
    ):
        before = await testbed.cluster.ask("GET", f"{PV}/pvc-1")
        doomed, dead = proxied.service(), asyncio.Event()

        async def kill(_: Asked) -> None:
            await doomed.kill()
            dead.set()

        proxied.on(label, After(kill), nth=nth)
        async with running(doomed):
            testbed.world.move("pvc-1", "n1", "n2")
            async with asyncio.timeout(OBSERVED_WITHIN):
                await dead.wait()
        await asyncio.sleep(DOWN)
        assert sidecars.reclaimed == []
        async with running(proxied.service()):
            await nothing_lost(testbed, sidecars, before)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_killed_after_any_write_and_down_for_a_minute_nothing_is_lost(
    tmp_path: Path, warm_starts: WarmStarts
) -> None:
    async def run(step: str) -> None:
        directory = tmp_path / step.replace(" ", "-")
        directory.mkdir()
        async with clusters.fake(directory) as cluster, Testbed.of(cluster) as testbed:
            await testbed.prepare()
            await crashed_and_resumed(testbed, step, directory, warm_starts)

    async with asyncio.TaskGroup() as group:
        for step in STEPS:
            group.create_task(run(step), name=step)


@pytest.mark.long
@pytest.mark.real
@pytest.mark.timeout(1200)
async def test_with_csi_sidecars_on_a_real_cluster_nothing_is_lost(
    real_binaries: Path, tmp_path: Path, warm_starts: WarmStarts
) -> None:
    async def run(real: RealCluster, steps: Iterable[str], directory: Path) -> None:
        for step in steps:
            directory_of = directory / step.replace(" ", "-")
            directory_of.mkdir()
            async with clusters.real(real) as cluster, Testbed.of(cluster) as testbed:
                await testbed.clear()
                await testbed.prepare()
                await crashed_and_resumed(testbed, step, directory_of, warm_starts)
                await testbed.clear()

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for number in range(CLUSTERS_AT_ONCE):
            directory = tmp_path / f"cluster-{number}"
            directory.mkdir()
            real = await stack.enter_async_context(
                RealCluster(binaries=real_binaries, directory=directory)
            )
            mine = list(STEPS)[number::CLUSTERS_AT_ONCE]
            group.create_task(run(real, mine, directory))
