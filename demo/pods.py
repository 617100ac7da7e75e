"""Pods that are Pending because of their volume, and when they are scheduled: real parts only."""

import time
from dataclasses import dataclass

from rich.table import Table

from tests.testbed.manifests import ZONE
from tests.testbed.scheduling import Pods
from tests.testbed.testbed import Testbed

WAITING = {"web-0": "n1", "web-1": "n2", "web-2": "n3"}
"""Pods, and the node with the only replica of the volume of each."""

SPARE = "n4"
WHY = "didn't match PersistentVolume's node affinity"


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A pod that was Pending, and the seconds since another replica was requested from LINSTOR."""

    pod: str
    volume_on: str
    went_to: str
    to_volume: float
    to_node: float


async def prepare(testbed: Testbed, pods: Pods) -> None:
    """Create the Kubernetes nodes, and a volume for each pod."""
    for known in testbed.world.nodes.values():
        await pods.add_node(known.name, known.props[f"Aux/topology/{ZONE}"])
    for pod, node in WAITING.items():
        await testbed.add(_volume(pod), [node])


async def schedule(testbed: Testbed, pods: Pods) -> list[Scheduled]:
    """Create each pod while its only node is cordoned, then create a replica elsewhere."""
    found = []
    for pod, node in WAITING.items():
        await pods.cordon(node)
        await pods.add(pod, f"claim-{_volume(pod)}")
        await pods.until_unschedulable(pod, WHY)
        began = time.monotonic()
        testbed.world.create_replica(_volume(pod), SPARE)
        went = await pods.until_scheduled(pod)
        scheduled = time.monotonic()
        updated = await testbed.until_on(_volume(pod), node, SPARE)
        found.append(Scheduled(pod, node, went, updated - began, scheduled - began))
        await pods.delete(pod)
        await pods.uncordon(node)
    return found


def _volume(pod: str) -> str:
    return f"data-{pod}"


def table(found: list[Scheduled]) -> Table:
    made = Table(title=f'Pods that were Pending: "{WHY}"', title_justify="left")
    for heading in ("pod", "what happened"):
        made.add_column(heading)
    for heading in ("ms to the PV", "ms from Pending\nto scheduled"):
        made.add_column(heading, justify="right")
    for each in found:
        made.add_row(
            each.pod,
            f"{each.volume_on} is cordoned; a replica comes to {SPARE}, the pod to {each.went_to}",
            f"{1000 * each.to_volume:.0f}",
            f"{1000 * each.to_node:.0f}",
        )
    return made
