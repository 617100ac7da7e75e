"""Nodes, pods and kube-scheduler, without a kubelet: what is scheduled stays Pending."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_parts.build import SCHEDULER, ensure_built
from tests.real_parts.daemon import Daemon, free_port
from tests.testbed.clusters import ApiError, Cluster, until
from tests.testbed.manifests import DRIVER, HOSTNAME, ZONE

Json = dict[str, Any]

KUBERNETES_HOSTNAME = "kubernetes.io/hostname"
TOPOLOGY_KEYS = [HOSTNAME, KUBERNETES_HOSTNAME, ZONE]
PODS = "/api/v1/namespaces/default/pods"


def scheduler(program: Path, kubeconfig: Path, directory: Path) -> Daemon:
    """Kube-scheduler, not started yet, with its certificates and its log in a directory."""
    flags = (
        f"--kubeconfig={kubeconfig}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_port()}",
        "--authentication-skip-lookup=true",
        f"--cert-dir={directory / 'scheduler'}",
        "--v=3",
    )
    return Daemon([str(program), *flags], directory / "kube-scheduler.log")


@asynccontextmanager
async def with_pods(cluster: Cluster, kubeconfig: Path, directory: Path) -> AsyncIterator["Pods"]:
    """Pods of a real cluster, which a kube-scheduler with its log in a directory schedules."""
    program = (await asyncio.to_thread(ensure_built, SCHEDULER)) / "kube-scheduler"
    daemon = scheduler(program, kubeconfig, directory)
    daemon.start()
    try:
        yield Pods(cluster)
    finally:
        await daemon.kill()


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods of a real cluster, each with one claim, and the nodes that they go to."""

    cluster: Cluster

    async def add_node(self, name: str, zone: str) -> None:
        """One that is ready, with the labels that LINBIT's node plugin publishes."""
        labels = {KUBERNETES_HOSTNAME: name, HOSTNAME: name, ZONE: zone}
        attach = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
        free = {"cpu": "8", "memory": "16Gi", "pods": "100"}
        await put(
            self.cluster,
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": labels, "annotations": attach},
            },
        )
        # Admission takes a new node for one that is not ready yet.
        usable = {"spec": {"taints": None, "unschedulable": None}}
        await self.cluster.ask("PATCH", f"/api/v1/nodes/{name}", usable)
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        status = {"status": {"allocatable": free, "capacity": free, "conditions": ready}}
        await self.cluster.ask("PATCH", f"/api/v1/nodes/{name}/status", status)
        driver = {"name": DRIVER, "nodeID": name, "topologyKeys": TOPOLOGY_KEYS}
        await put(
            self.cluster,
            "/apis/storage.k8s.io/v1/csinodes",
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "CSINode",
                "metadata": {"name": name},
                "spec": {"drivers": [driver]},
            },
        )

    async def add(self, name: str, claim: str) -> Json:
        return await self.cluster.ask("POST", PODS, _pod(name, claim))

    async def node_of(self, pod: str) -> str:
        """The node that the scheduler chose; empty while it found none."""
        found = await self.cluster.ask("GET", f"{PODS}/{pod}")
        return str(found["spec"].get("nodeName", ""))

    async def until_scheduled(self, pod: str, *, within: float = 60.0) -> str:
        async def scheduled() -> bool:
            return bool(await self.node_of(pod))

        await until(scheduled, f"{pod} has a node", within=within)
        return await self.node_of(pod)

    async def until_unschedulable(self, pod: str, why: str) -> None:
        """Wait until the scheduler gave up on a pod for now, with these words among its own."""

        async def reported() -> bool:
            found = await self.cluster.ask("GET", f"{PODS}/{pod}")
            conditions = found.get("status", {}).get("conditions") or ()
            return any(why in str(each.get("message")) for each in conditions)

        await until(reported, f"{pod} is not scheduled for its {why}")

    async def cordon(self, node: str) -> None:
        path = f"/api/v1/nodes/{node}"
        await self.cluster.ask("PATCH", path, {"spec": {"unschedulable": True}})

    async def uncordon(self, node: str) -> None:
        wish = {"spec": {"unschedulable": None, "taints": None}}
        await self.cluster.ask("PATCH", f"/api/v1/nodes/{node}", wish)

    async def delete(self, name: str) -> None:
        """At once, as if its kubelet had stopped it already."""
        await self.cluster.ask("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})


async def put(cluster: Cluster, path: str, wanted: Json) -> None:
    """Make an object unless there is one of that name."""
    try:
        await cluster.ask("POST", path, wanted)
    except ApiError as error:
        if error.status != 409:
            raise


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
