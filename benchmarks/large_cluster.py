"""Thousands of bound volumes on a real control plane, each with its replicas in LINSTOR.

Everything is right from the start: no affinity is to be changed, and the binder finds nothing to
write. One cluster grows from size to size, since filling takes longer than most measurements.
"""

import argparse
import asyncio
import gc
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.command import run
from benchmarks.report import Report
from tests.fakes.linstor_server import LinstorServer, LinstorWorld, Timing
from tests.real_parts.build import ensure_built
from tests.real_parts.cluster import RealCluster
from tests.testbed import clusters, manifests
from tests.testbed.clusters import Cluster

Json = dict[str, Any]
Found = TypeVar("Found")

AT_ONCE = 32
NODES = tuple(f"node-{number:02}.storage.example.com" for number in range(1, 13))
PLACEMENTS = tuple(combinations(range(len(NODES)), 3))
"""Two replicas and a tiebreaker, in all ways there are."""

_CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
_VOLUMES = "/api/v1/persistentvolumes"
_BOUND = {
    "phase": "Bound",
    "accessModes": ["ReadWriteOnce"],
    "capacity": {"storage": "1Gi"},
}
_BY_THE_BINDER = {
    "pv.kubernetes.io/bind-completed": "yes",
    "pv.kubernetes.io/bound-by-controller": "yes",
}
_ATTRIBUTES = {
    f"{manifests.DRIVER}/mount-options": "",
    f"{manifests.DRIVER}/post-mount-xfs-opts": "",
    f"{manifests.DRIVER}/remote-access-policy": "false",
    f"{manifests.DRIVER}/uses-volume-context": "true",
    "storage.kubernetes.io/csiProvisionerIdentity": f"1764000000000-8081-{manifests.DRIVER}",
}


@dataclass(slots=True, kw_only=True)
class LargeCluster:
    """Both sides, and who is there."""

    cluster: Cluster
    real: RealCluster
    world: LinstorWorld
    linstor: LinstorServer
    names: list[str] = field(default_factory=list)

    async def grow(self, size: int) -> float:
        """Add volumes until there are so many; returns the seconds it took."""
        begun = time.monotonic()
        event_log = range(len(self.names), size)
        # A binder that looks on would write to each volume before its claim is complete.
        await self.cluster.stop_binder()
        await concurrently(self._add(number) for number in event_log)
        self.names += [volume_name(number) for number in event_log]
        await self.cluster.start_binder()
        # Millions of objects that stay would be walked through in the midst of a measurement.
        gc.collect()
        gc.freeze()
        return time.monotonic() - begun

    async def _add(self, number: int) -> None:
        name = volume_name(number)
        first, second, third = (NODES[place] for place in PLACEMENTS[number % len(PLACEMENTS)])
        self.world.add_definition(name, size_kib=1 << 20)
        self.world.place(name, first)
        self.world.place(name, second)
        self.world.place(name, third, diskless=True, flags=["TIE_BREAKER"])
        await bind(
            self.cluster, _claim(number), lambda claim: _volume(name, claim, (first, second))
        )


async def bind(cluster: Cluster, claim: Json, volume: Callable[[Json], Json]) -> None:
    """Make a claim and its volume as the binder leaves them, while it does not look on."""
    volume_of_it = claim["spec"]["volumeName"]
    claim["metadata"].setdefault("annotations", {}).update(_BY_THE_BINDER)
    made = await cluster.ask("POST", _CLAIMS, claim)
    await cluster.ask("POST", _VOLUMES, volume(made))
    status = {"phase": "Bound"}
    await cluster.ask("PATCH", f"{_VOLUMES}/{volume_of_it}/status", {"status": status})
    path = f"{_CLAIMS}/{made['metadata']['name']}/status"
    await cluster.ask("PATCH", path, {"status": _BOUND})


@asynccontextmanager
async def large_cluster(
    directory: Path, *, timing: Timing | None = None
) -> AsyncIterator[LargeCluster]:
    """An empty test bed with twelve nodes and the classes."""
    binaries = await asyncio.to_thread(ensure_built)
    world = LinstorWorld(timing=timing)
    try:
        async with (
            RealCluster(binaries=binaries, directory=directory) as parts,
            clusters.real(parts) as cluster,
            LinstorServer(world) as linstor,
        ):
            for number, node in enumerate(NODES):
                world.add_node(node, labels={manifests.ZONE: f"zone-{number % 3 + 1}"})
            for name, parameters in manifests.CLASSES.items():
                made = manifests.storage_class(name, parameters)
                await cluster.ask("POST", "/apis/storage.k8s.io/v1/storageclasses", made)
            yield LargeCluster(cluster=cluster, real=parts, world=world, linstor=linstor)
    finally:
        world.close()
        gc.unfreeze()


def volume_name(number: int) -> str:
    """As the provisioner names volumes; the same ones in each run."""
    return f"pvc-{uuid.UUID(int=random.Random(number).getrandbits(128), version=4)}"  # noqa: S311


def _claim(number: int) -> Json:
    made = manifests.claim(f"data-database-{number:05}-0")
    made["metadata"]["annotations"] = {"volume.kubernetes.io/storage-provisioner": manifests.DRIVER}
    made["spec"]["volumeName"] = volume_name(number)
    return made


def _volume(name: str, claim: Json, nodes: Iterable[str]) -> Json:
    made = manifests.volume(
        name,
        claim=claim,
        node_affinity=manifests.on_nodes(nodes),
        annotations={
            "volume.kubernetes.io/provisioner-deletion-secret-name": "",
            "volume.kubernetes.io/provisioner-deletion-secret-namespace": "",
        },
    )
    made["metadata"]["finalizers"].append("external-attacher/linstor-csi-linbit-com")
    made["spec"]["csi"]["volumeAttributes"] = _ATTRIBUTES
    return made


async def concurrently(jobs: Iterable[Coroutine[Any, Any, None]]) -> None:
    rest = iter(jobs)

    async def work() -> None:
        for job in rest:
            await job

    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(work(), name=f"volume-{number}")


async def at_each(
    sizes: Sequence[int], directory: Path, measure: Callable[[LargeCluster], Awaitable[Found]]
) -> list[Found]:
    """Measure at each size in turn, on one cluster that grows."""
    found = []
    async with large_cluster(directory) as testbed:
        for size in sizes:
            await testbed.grow(size)
            found.append(await measure(testbed))
    return found


async def measure_filling(sizes: Sequence[int], directory: Path) -> list[Report]:
    """How long filling takes, and how much both sides have to say then."""
    rows = []
    async with large_cluster(directory) as testbed:
        for size in sizes:
            took = await testbed.grow(size)
            one = await testbed.cluster.ask("GET", f"{_VOLUMES}/{testbed.names[-1]}")
            rows.append({"volumes": size, "seconds": took, "bytes of one": len(str(one))})
    return [Report(name="filling", title="Filling the cluster", rows=rows)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_cluster", description=__doc__)
    return run(parser, lambda given, logs: measure_filling(given.sizes, logs))


if __name__ == "__main__":
    sys.exit(main())
