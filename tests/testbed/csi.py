"""LINBIT's CSI driver, the sidecars and the scheduler at work, with the flags of Piraeus.

There is no kubelet: nodes are objects with the labels that the driver's node plugin would publish,
scheduled pods stay Pending, and nobody grows file systems.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.linstor_server import Timing
from tests.real_parts.cluster import RealCluster
from tests.real_parts.daemon import Daemon
from tests.testbed import clusters, manifests
from tests.testbed.clusters import until
from tests.testbed.manifests import DRIVER, HOSTNAME, ZONE
from tests.testbed.scheduling import PODS, Pods, put, scheduler
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

NODES = {"n1": "z1", "n2": "z2", "n3": "z1", "n4": "z2"}
"""Names, and the zones they are in."""

NOW_CLASS, LATER_CLASS, TWO_CLASS = "csi-immediate", "csi-first-consumer", "csi-two-replicas"
CLASSES = {
    NOW_CLASS: ("Immediate", 1),
    LATER_CLASS: ("WaitForFirstConsumer", 1),
    TWO_CLASS: ("Immediate", 2),
}
"""When their volumes are made, and how many replicas they have; pods go where one of them is."""

ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


@asynccontextmanager
async def csi_parts(
    programs: Mapping[str, Path],
    kubeconfig: Path,
    *,
    linstor: str,
    logs: Path,
    driver_flags: Sequence[str] = (),
) -> AsyncIterator[None]:
    """Run the driver and its sidecars for the length of the block."""
    async with AsyncExitStack() as stack:
        # The name of a socket may not be longer than some hundred characters.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csi-")))
        socket = scratch / "csi.sock"

        def start(name: str, *flags: str) -> None:
            made = Daemon([str(programs[name]), *flags], logs / f"{name}.log")
            stack.push_async_callback(made.kill)
            made.start()

        def start_sidecar(name: str, *flags: str) -> None:
            where = (f"--csi-address={socket}", f"--kubeconfig={kubeconfig}")
            start(name, *where, "--timeout=1m", "--leader-election=false", *flags)

        start(
            "linstor-csi",
            f"--csi-endpoint=unix://{socket}",
            f"--linstor-endpoint={linstor}",
            "--property-namespace=Aux/topology",
            "--label-by-storage-pool=false",
            "--log-level=debug",
            *driver_flags,
        )
        start_sidecar(
            "csi-provisioner",
            "--default-fstype=ext4",
            "--feature-gates=Topology=true",
            "--extra-create-metadata",
            "--worker-threads=10",
            "--v=5",
        )
        start_sidecar("csi-attacher", "--worker-threads=10", "--v=5")
        start_sidecar("csi-resizer", "--handle-volume-inuse-error=false", "--workers=10", "--v=5")
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class CsiTestbed:
    """A test bed where volumes come from the real driver instead of from the test."""

    testbed: Testbed
    pods: Pods

    @classmethod
    @asynccontextmanager
    async def of(
        cls,
        real: RealCluster,
        programs: Mapping[str, Path],
        logs: Path,
        *,
        timing: Timing | None = None,
        driver_flags: Sequence[str] = (),
    ) -> AsyncIterator["CsiTestbed"]:
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(clusters.real(real))
            testbed = await stack.enter_async_context(Testbed.of(cluster, timing=timing))
            await _prepare(testbed)
            await stack.enter_async_context(
                csi_parts(
                    programs,
                    real.kubeconfig,
                    linstor=testbed.linstor.url,
                    logs=logs,
                    driver_flags=driver_flags,
                )
            )
            scheduling = scheduler(programs["kube-scheduler"], real.kubeconfig, logs)
            stack.push_async_callback(scheduling.kill)
            scheduling.start()
            yield cls(testbed=testbed, pods=Pods(cluster))
            await _clear(testbed)

    async def claim(
        self, name: str, *, storage_class: str = NOW_CLASS, size: str = "64Mi", block: bool = False
    ) -> Json:
        wish = manifests.claim(name, storage_class=storage_class)
        wish["spec"]["resources"]["requests"]["storage"] = size
        if block:
            wish["spec"]["volumeMode"] = "Block"
        return await self.testbed.cluster.ask("POST", manifests.CLAIMS, wish)

    async def bound_volume(self, claim: str) -> Json:
        """The volume of a claim, once both are Bound to each other."""
        observer = self.testbed.observer

        def found() -> Json | None:
            known = observer.claims.get(("default", claim), {})
            volume = observer.volumes.get(known.get("spec", {}).get("volumeName", ""), {})
            phases = {each.get("status", {}).get("phase") for each in (known, volume)}
            return volume if phases == {"Bound"} else None

        await observer.until(lambda: found() is not None, f"{claim} is bound")
        volume = found()
        assert volume is not None
        return volume

    async def attachments(self) -> dict[tuple[str, str], Json]:
        """By the names of volume and node."""
        listed = await self.testbed.cluster.ask("GET", ATTACHMENTS)
        return {
            (each["spec"]["source"]["persistentVolumeName"], each["spec"]["nodeName"]): each
            for each in listed["items"]
        }

    async def until_attached(self, volume: str, node: str) -> Json:
        async def attached() -> bool:
            found = (await self.attachments()).get((volume, node), {})
            return bool(found.get("status", {}).get("attached"))

        await until(attached, f"{volume} is attached to {node}")
        return (await self.attachments())[(volume, node)]

    async def until_detached(self, volume: str, node: str) -> None:
        async def detached() -> bool:
            return (volume, node) not in await self.attachments()

        await until(detached, f"{volume} is detached from {node}")


async def _prepare(testbed: Testbed) -> None:
    await _clear(testbed)
    for name, zone in NODES.items():
        testbed.world.add_node(name, labels={HOSTNAME: name, ZONE: zone})
        await Pods(testbed.cluster).add_node(name, zone)
    await put(testbed.cluster, "/apis/storage.k8s.io/v1/csidrivers", _driver())
    for name, (mode, replicas) in CLASSES.items():
        wanted = manifests.storage_class(
            name,
            {
                f"{DRIVER}/autoPlace": str(replicas),
                f"{DRIVER}/storagePool": "fpool",
                f"{DRIVER}/allowRemoteVolumeAccess": "false",
            },
        )
        await put(
            testbed.cluster,
            "/apis/storage.k8s.io/v1/storageclasses",
            wanted | {"volumeBindingMode": mode},
        )


async def _clear(testbed: Testbed) -> None:
    listed = await testbed.cluster.ask("GET", PODS)
    for pod in listed["items"]:
        await testbed.cluster.ask(
            "DELETE", f"{PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0}
        )
    await testbed.clear()
    listed = await testbed.cluster.ask("GET", ATTACHMENTS)
    for each in listed["items"]:
        await testbed._remove(f"{ATTACHMENTS}/{each['metadata']['name']}", each)


def _driver() -> Json:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": DRIVER},
        "spec": {
            "attachRequired": True,
            "fsGroupPolicy": "ReadWriteOnceWithFSType",
            "podInfoOnMount": True,
            "volumeLifecycleModes": ["Persistent"],
            "requiresRepublish": False,
        },
    }
