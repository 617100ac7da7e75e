"""The cluster of the examples: nine volumes on four nodes, six of which are out of sync."""

from tests.testbed import manifests
from tests.testbed.testbed import Testbed

SKIP = "piraeus.io/skip-affinity-controller"


async def set_up(testbed: Testbed) -> None:
    """Make the volumes, then move replicas while no service runs."""
    for number in range(1, 5):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"n{number}"}}
        await testbed.cluster.ask("POST", "/api/v1/nodes", node)
    for name in ("pvc-1", "pvc-2", "pvc-3", "pvc-4", "pvc-5"):
        await testbed.add(name, ["n1", "n2"])
    testbed.place("pvc-6", ["n1"])
    await testbed.bind("pvc-6", None)
    testbed.place("pvc-7", ["n1"])
    await testbed.bind("pvc-7", manifests.on_nodes(["n3"]), storage_class=manifests.ZONE_CLASS)
    await testbed.add("pvc-8", ["n1"], annotations={SKIP: "true"})
    await testbed.add("pvc-9", ["n4"])
    for name in ("pvc-6", "pvc-7"):
        await testbed.until_bound(name)
    testbed.world.move("pvc-1", "n1", "n3")
    testbed.world.move("pvc-2", "n1", "n3")
    testbed.world.move("pvc-2", "n2", "n4")
    testbed.world.move("pvc-8", "n1", "n2")
    testbed.world.set_flags("pvc-9", "n4", ["INACTIVE"])
