"""Entries, properties and markers of those who may write them and have no right to the data."""

import asyncio
import json
from typing import Any

from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.keys import OURSELVES
from linstor_affinity_events.model.names import PvName, ResourceName
from tests.engine.setup import PV, Setup, until
from tests.fakes.kube_server import FakeCluster
from tests.fakes.kube_server.metadata import Writer
from tests.testbed import manifests

Json = dict[str, Any]

EVIL = PvName("evil")
REPORTED = json.dumps({"reclaimPolicy": "Delete", "skipReclaim": None})
FORGED = Writer(name=OURSELVES)
"""A field manager's name is what the client says it is."""


def foreign_claim(cluster: FakeCluster, *, mode: str = "Filesystem", **claim: Any) -> Json:
    """A claim that asks for a volume which is not there."""
    wish = manifests.claim("evil", **claim)
    wish["spec"] |= {"volumeName": "evil", "volumeMode": mode}
    return cluster.create("persistentvolumeclaims", wish, namespace="default")


def volume_for(claim: Json | None, handle: str, **spec: Any) -> Json:
    nodes = manifests.on_nodes(["n1"])
    return manifests.volume("evil", claim=claim, node_affinity=nodes, handle=handle, **spec)


def entry(wanted: Json, volume: str) -> tuple[str, Json]:
    ref = wanted["spec"].get("claimRef")
    claim = ref and {key: ref[key] for key in ("namespace", "name", "uid")}
    reported = {"format": 1, "pv": wanted["metadata"]["name"], "volume": volume, "uid": "nobody"}
    return "1", {**reported, "claim": claim, "state": "deleting", "holder": "", "wanted": wanted}


async def reconciled(setup: Setup, minutes: int) -> None:
    for _ in range(minutes):
        await setup.full_reconciler.reconcile_all("period")
        await asyncio.sleep(60.0)


def is_on(cluster: FakeCluster, *nodes: str) -> bool:
    found = cluster.get("persistentvolumes", PV)
    return found is not None and manifests.nodes_of(found) == set(nodes)


VICTIM = ResourceName("theirs")
"""No name that csi-provisioner gives, which would show whose it is."""


async def left_absent(setup: Setup, cluster: FakeCluster) -> None:
    """The volume for VICTIM is removed, and nobody tries to create it any more. This instance has
    observed the replacement, and another one had begun it.
    """
    setup.faults.refuse("create", Unreachable)
    async with setup.at_work():
        setup.queue.add(VICTIM, source="promotion")
        await until(lambda: cluster.get("persistentvolumes", PV) is None)
        await asyncio.sleep(30.0)
    setup.faults.allow("create")
    setup.replacer._interrupted.ended(PV)
    setup.queue.closed = False
