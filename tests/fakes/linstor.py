"""The port to LINSTOR in memory."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from linstor_affinity_events.engine.ports import Trigger
from linstor_affinity_events.errors import AffinityEventsError, Unreachable
from linstor_affinity_events.model.names import ResourceName, node_name, resource_name
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement, Replica
from linstor_affinity_events.model.poll_result import NodeState, PollResult


class FakeLinstor:
    """Implements engine.ports.Linstor."""

    def __init__(self, *nodes: str) -> None:
        self.node_labels = {name: {"Aux/topology/kubernetes.io/hostname": name} for name in nodes}
        self.known: dict[ResourceName, Definition] = {}
        self.placed: dict[ResourceName, Placement] = {}
        self.broken: AffinityEventsError | None = None
        self.bulk_broken = False
        self.unreadable_nodes: set[str] = set()
        self.delay = 0.0
        """Seconds that each request takes."""
        self.asked: list[str] = []

    def place(self, resource: str, *nodes: str, flags: Mapping[str, str] | None = None) -> None:
        """Put a resource on exactly these nodes; `flags` are blank-separated, by node."""
        name = resource_name(resource)
        self.known.setdefault(name, Definition(resource=name))
        self.placed[name] = Placement(
            name,
            tuple(
                Replica(node_name(node), frozenset((flags or {}).get(node, "").split()))
                for node in nodes
            ),
        )

    async def nodes(self) -> Nodes:
        await self._ask("nodes")
        unreadable = self.unreadable_nodes
        readable = {k: v for k, v in self.node_labels.items() if k not in unreadable}
        return replace(Nodes.read(readable), unreadable=frozenset(map(node_name, unreadable)))

    async def definition(self, resource: ResourceName) -> Definition | None:
        await self._ask("definition")
        return self.known.get(resource)

    async def definitions(self) -> Mapping[ResourceName, Definition]:
        await self._ask("definitions")
        return {
            name: replace(each, saved={}, saved_unread=bool(each.saved))
            for name, each in self.known.items()
        }

    async def placement(self, resource: ResourceName) -> Placement | None:
        await self._ask("placement")
        return self.placed.get(resource) if resource in self.known else None

    async def placements(self) -> Mapping[ResourceName, Placement]:
        await self._ask("placements")
        if self.bulk_broken:
            raise Unreachable("a satellite hangs")
        return dict(self.placed)

    async def forget_saved(self, resource: ResourceName, number: int) -> None:
        await self._ask("forget")
        saved = {k: v for k, v in self.known[resource].saved.items() if k != number}
        self.known[resource] = replace(self.known[resource], saved=saved)

    async def poll(self) -> PollResult:
        await self._ask("poll")
        nodes = {node_name(name): NodeState(connection="ONLINE") for name in self.node_labels}
        resources = sum(len(placement.replicas) for placement in self.placed.values())
        return PollResult(nodes=nodes, resources=resources)

    async def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.broken is not None:
            raise self.broken


class FakeStream:
    """Implements engine.ports.EventStream; each connection ends as configured."""

    name = "fake"

    def __init__(self) -> None:
        self._events: asyncio.Queue[Trigger | AffinityEventsError | None] = asyncio.Queue()
        self.connections = 0
        self.refuse: AffinityEventsError | None = None

    def send(self, event: Trigger) -> None:
        self._events.put_nowait(event)

    def hang_up(self) -> None:
        self._events.put_nowait(None)

    def break_off(self, error: AffinityEventsError) -> None:
        self._events.put_nowait(error)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncIterator[Trigger]]:
        if self.refuse is not None:
            raise self.refuse
        self.connections += 1
        async with aclosing(self._reported()) as events:
            yield events

    async def _reported(self) -> AsyncGenerator[Trigger, None]:
        while True:
            event = await self._events.get()
            if event is None:
                return
            if isinstance(event, AffinityEventsError):
                raise event
            yield event
