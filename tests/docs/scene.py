"""The cluster of the examples: nine volumes on four nodes, six of which are out of sync."""

from tests.stage import manifests
from tests.stage.stage import Stage

SKIP = "piraeus.io/skip-affinity-controller"


async def set_up(stage: Stage) -> None:
    """Make the volumes, then move replicas while no service runs."""
    for number in range(1, 5):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n{number}"}}
        await stage.cluster.ask("POST", "/api/v1/nodes", node)
    for name in ("pvc-1", "pvc-2", "pvc-3", "pvc-4", "pvc-5"):
        await stage.add(name, ["n1", "n2"])
    stage.place("pvc-6", ["n1"])
    await stage.bind("pvc-6", None)
    stage.place("pvc-7", ["n1"])
    await stage.bind("pvc-7", manifests.on_nodes(["n3"]), storage_class=manifests.ZONE_CLASS)
    await stage.add("pvc-8", ["n1"], annotations={SKIP: "true"})
    await stage.add("pvc-9", ["n4"])
    for name in ("pvc-6", "pvc-7"):
        await stage.until_bound(name)
    stage.world.move("pvc-1", "n1", "n3")
    stage.world.move("pvc-2", "n1", "n3")
    stage.world.move("pvc-2", "n2", "n4")
    stage.world.move("pvc-8", "n1", "n2")
    stage.world.set_flags("pvc-9", "n4", ["INACTIVE"])
