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
from tests.real_parts.daemon import Daemon, free_port
from tests.stage import clusters, manifests
from tests.stage.clusters import ApiError, until
from tests.stage.manifests import DRIVER, HOSTNAME, ZONE
from tests.stage.stage import Stage

Json = dict[str, Any]

NODES = {"n1": "z1", "n2": "z2", "n3": "z1", "n4": "z2"}
"""Names, and the zones they are in."""

KUBERNETES_HOSTNAME = "kubernetes.io/hostname"
TOPOLOGY_KEYS = [HOSTNAME, KUBERNETES_HOSTNAME, ZONE]

NOW_CLASS, LATER_CLASS, TWO_CLASS = "csi-immediate", "csi-first-consumer", "csi-two-replicas"
CLASSES = {
    NOW_CLASS: ("Immediate", 1),
    LATER_CLASS: ("WaitForFirstConsumer", 1),
    TWO_CLASS: ("Immediate", 2),
}
"""When their volumes are made, and how many replicas they have; pods go where one of them is."""

CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
PODS = "/api/v1/namespaces/default/pods"
ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments"


@dataclass(frozen=True, slots=True, kw_only=True)
class CsiStage:
    """A stage where volumes come from the real driver instead of from the test."""

    stage: Stage
    driver: Daemon
    provisioner: Daemon
    attacher: Daemon
    resizer: Daemon
    scheduler: Daemon

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
    ) -> AsyncIterator["CsiStage"]:
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(clusters.real(real))
            stage = await stack.enter_async_context(Stage.of(cluster, timing=timing))
            await _prepare(stage)
            # The name of a socket may not be longer than some hundred characters.
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csi-")))
            socket = scratch / "csi.sock"

            def daemon(name: str, *flags: str) -> Daemon:
                made = Daemon([str(programs[name]), *flags], logs / f"{name}.log")
                stack.push_async_callback(made.kill)
                made.start()
                return made

            def sidecar(name: str, *flags: str) -> Daemon:
                where = (f"--csi-address={socket}", f"--kubeconfig={real.kubeconfig}")
                return daemon(name, *where, "--timeout=1m", "--leader-election=false", *flags)

            yield cls(
                stage=stage,
                driver=daemon(
                    "linstor-csi",
                    f"--csi-endpoint=unix://{socket}",
                    f"--linstor-endpoint={stage.linstor.url}",
                    "--property-namespace=Aux/topology",
                    "--label-by-storage-pool=false",
                    "--log-level=debug",
                    *driver_flags,
                ),
                provisioner=sidecar(
                    "csi-provisioner",
                    "--default-fstype=ext4",
                    "--feature-gates=Topology=true",
                    "--extra-create-metadata",
                    "--worker-threads=10",
                    "--v=5",
                ),
                attacher=sidecar("csi-attacher", "--worker-threads=10", "--v=5"),
                resizer=sidecar(
                    "csi-resizer", "--handle-volume-inuse-error=false", "--workers=10", "--v=5"
                ),
                scheduler=daemon(
                    "kube-scheduler",
                    f"--kubeconfig={real.kubeconfig}",
                    "--leader-elect=false",
                    "--bind-address=127.0.0.1",
                    f"--secure-port={free_port()}",
                    "--authentication-skip-lookup=true",
                    f"--cert-dir={scratch / 'scheduler'}",
                    "--v=3",
                ),
            )
            await _clear(stage)

    async def claim(
        self, name: str, *, storage_class: str = NOW_CLASS, size: str = "64Mi", block: bool = False
    ) -> Json:
        wish = manifests.claim(name, storage_class=storage_class)
        wish["spec"]["resources"]["requests"]["storage"] = size
        if block:
            wish["spec"]["volumeMode"] = "Block"
        return await self.stage.cluster.ask("POST", CLAIMS, wish)

    async def bound_volume(self, claim: str) -> Json:
        """The volume of a claim, once both are Bound to each other."""
        observer = self.stage.observer

        def found() -> Json | None:
            known = observer.claims.get(("default", claim), {})
            volume = observer.volumes.get(known.get("spec", {}).get("volumeName", ""), {})
            phases = {each.get("status", {}).get("phase") for each in (known, volume)}
            return volume if phases == {"Bound"} else None

        await observer.until(lambda: found() is not None, f"{claim} is bound")
        volume = found()
        assert volume is not None
        return volume

    async def pod(self, name: str, claim: str) -> Json:
        return await self.stage.cluster.ask("POST", PODS, _pod(name, claim))

    async def node_of(self, pod: str) -> str:
        """The node that the scheduler chose; empty while it found none."""
        found = await self.stage.cluster.ask("GET", f"{PODS}/{pod}")
        return str(found["spec"].get("nodeName", ""))

    async def until_scheduled(self, pod: str, *, patience: float = 60.0) -> str:
        async def scheduled() -> bool:
            return bool(await self.node_of(pod))

        await until(scheduled, f"{pod} has a node", patience=patience)
        return await self.node_of(pod)

    async def attachments(self) -> dict[tuple[str, str], Json]:
        """By the names of volume and node."""
        listed = await self.stage.cluster.ask("GET", ATTACHMENTS)
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

    async def until_unschedulable(self, pod: str, why: str) -> None:
        """Wait until the scheduler gave up on a pod for now, with these words among its own."""

        async def told() -> bool:
            found = await self.stage.cluster.ask("GET", f"{PODS}/{pod}")
            conditions = found.get("status", {}).get("conditions") or ()
            return any(why in str(each.get("message")) for each in conditions)

        await until(told, f"{pod} is not scheduled for its {why}")

    async def cordon(self, node: str) -> None:
        path = f"/api/v1/nodes/{node}"
        await self.stage.cluster.ask("PATCH", path, {"spec": {"unschedulable": True}})

    async def uncordon(self, node: str) -> None:
        wish = {"spec": {"unschedulable": None, "taints": None}}
        await self.stage.cluster.ask("PATCH", f"/api/v1/nodes/{node}", wish)

    async def delete_pod(self, name: str) -> None:
        """At once, as if its kubelet had stopped it already."""
        await self.stage.cluster.ask("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})


async def _prepare(stage: Stage) -> None:
    await _clear(stage)
    for name, zone in NODES.items():
        stage.world.add_node(name, labels={HOSTNAME: name, ZONE: zone})
        await _add_node(stage, name, zone)
    await _put(stage, "/apis/storage.k8s.io/v1/csidrivers", _driver())
    for name, (mode, replicas) in CLASSES.items():
        wanted = manifests.storage_class(
            name,
            {
                f"{DRIVER}/autoPlace": str(replicas),
                f"{DRIVER}/storagePool": "fpool",
                f"{DRIVER}/allowRemoteVolumeAccess": "false",
            },
        )
        await _put(
            stage, "/apis/storage.k8s.io/v1/storageclasses", wanted | {"volumeBindingMode": mode}
        )


async def _add_node(stage: Stage, name: str, zone: str) -> None:
    labels = {KUBERNETES_HOSTNAME: name, HOSTNAME: name, ZONE: zone}
    attach = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
    room = {"cpu": "8", "memory": "16Gi", "pods": "100"}
    await _put(
        stage,
        "/api/v1/nodes",
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": attach},
        },
    )
    # Admission takes a new node for one that is not ready yet.
    usable = {"spec": {"taints": None, "unschedulable": None}}
    await stage.cluster.ask("PATCH", f"/api/v1/nodes/{name}", usable)
    ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
    status = {"status": {"allocatable": room, "capacity": room, "conditions": ready}}
    await stage.cluster.ask("PATCH", f"/api/v1/nodes/{name}/status", status)
    await _put(
        stage,
        "/apis/storage.k8s.io/v1/csinodes",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": name},
            "spec": {"drivers": [{"name": DRIVER, "nodeID": name, "topologyKeys": TOPOLOGY_KEYS}]},
        },
    )


async def _put(stage: Stage, path: str, wanted: Json) -> None:
    try:
        await stage.cluster.ask("POST", path, wanted)
    except ApiError as error:
        if error.status != 409:
            raise


async def _clear(stage: Stage) -> None:
    listed = await stage.cluster.ask("GET", PODS)
    for pod in listed["items"]:
        await stage.cluster.ask(
            "DELETE", f"{PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0}
        )
    await stage.clear()
    listed = await stage.cluster.ask("GET", ATTACHMENTS)
    for each in listed["items"]:
        await stage._remove(f"{ATTACHMENTS}/{each['metadata']['name']}", each)


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


def _pod(name: str, claim: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [
                {
                    "name": "app",
                    "image": "app",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
