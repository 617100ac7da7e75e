"""Something that happens at a certain step of a replacement."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.e2e.steps import STEPS
from tests.testbed.csi import NODES, CsiTestbed
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Asked, Before
from tests.testbed.service import running


@asynccontextmanager
async def move_and(
    csi: CsiTestbed,
    proxied: ProxiedTestbed,
    name: str,
    step: str,
    then: Callable[[], Awaitable[None]],
) -> AsyncIterator[str]:
    """Run the service, move the volume's replica, and do something just before a step of what
    follows; yields the node that it moves to.
    """
    label, nth = STEPS[step]
    happened = False

    async def now(_: Asked) -> None:
        nonlocal happened
        happened = True
        await then()

    (at,) = (replica.node.name for replica in csi.testbed.world.definition(name).replicas.values())
    to = next(node for node in NODES if node != at)
    proxied.on(label, Before(now), nth=nth)
    async with running(proxied.service()):
        csi.testbed.world.move(name, at, to)
        yield to
    assert happened
