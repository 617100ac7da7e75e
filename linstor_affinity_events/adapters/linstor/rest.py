"""LINSTOR's REST API: reads nodes, definitions and placements, and removes saved PVs."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Self
from urllib.parse import quote

from linstor_affinity_events.adapters.linstor.client import LinstorClient
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection
from linstor_affinity_events.adapters.linstor.rows import (
    MOST_REPLICAS,
    Count,
    Replicas,
    Row,
    definition_of,
    node_state,
    properties_of,
    single_object,
    text_of,
)
from linstor_affinity_events.adapters.transport.bodies import MIB
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import Missing, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import SAVED_PV_PROPERTY
from linstor_affinity_events.model.names import NodeName, ResourceName, node_name
from linstor_affinity_events.model.nodes import Labels, Nodes
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.poll import NodeState, PollResult

log = logging.getLogger(__name__)

MOST_NODES = 10_000
MOST_LABELS = 100_000
"""The most labels of all nodes. Kubernetes has up to 5,000 nodes, with some 20 labels each."""

MOST_SAVED = 64 * MIB

YIELD_EVERY = 500
"""Placements between cooperative yields: 50,000 without one took 30 ms."""


class LinstorRest:
    """Implements engine.ports.Linstor and LinstorPoll. Use as an async context manager."""

    def __init__(
        self, connection: LinstorConnection, *, namespace: str = "", timeout: float = 10.0
    ) -> None:
        self._connection, self._namespace = connection, namespace
        self._client = LinstorClient(connection, timeout=timeout)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.__aexit__()

    @property
    def url(self) -> str:
        """The controller that responded last."""
        return self._connection.url

    async def version(self) -> str:
        """Return LINSTOR's version, which needs no login."""
        tree = await self._client.get("/v1/controller/version")
        return str(single_object(tree, "version").get("version", "unknown"))

    async def nodes(self) -> Nodes:
        labels: dict[NodeName, Labels] = {}
        count = Count("labels of nodes", MOST_LABELS)
        namespace = Nodes.read({}, namespace=self._namespace).namespace

        def take(node: Row) -> None:
            properties = {text_of(node, "name"): properties_of(node)}
            read = Nodes.read(properties, namespace=self._namespace).labels
            count.add(sum(map(len, read.values())))
            labels.update(read)

        await self._client.read_list("/v1/nodes", take, most=MOST_NODES)
        return Nodes(namespace=namespace, labels=labels)

    async def poll(self) -> PollResult:
        """Read what the controller has in memory. The count is None if it lacks that endpoint."""
        nodes: dict[NodeName, NodeState] = {}
        count = Count("labels of nodes", MOST_LABELS)

        def take(row: Row) -> None:
            state = node_state(row, self._namespace)
            count.add(len(state.labels))
            nodes[node_name(text_of(row, "name"))] = state

        await self._client.read_list("/v1/nodes", take, most=MOST_NODES)
        try:
            counted = single_object(await self._client.get("/v1/stats/resources"), "count").get(
                "count"
            )
        except Unreachable as error:
            log.debug(
                "LINSTOR did not return the number of its resources", extra=facts(error=error)
            )
            return PollResult(nodes=nodes, resources=None)
        return PollResult(nodes=nodes, resources=counted if type(counted) is int else None)

    async def definition(self, resource: ResourceName) -> Definition | None:
        found: list[Definition] = []

        def take(raw: Row) -> None:
            definition = definition_of(raw)
            if definition.resource == resource and not found:
                found.append(definition)

        await self._client.read_list(
            "/v1/resource-definitions?with_volume_definitions=true&resource_definitions="
            + _escaped(resource),
            take,
        )
        return found[0] if found else None

    async def definitions(self) -> Mapping[ResourceName, Definition]:
        found: dict[ResourceName, Definition] = {}
        count = Count("characters of saved PersistentVolumes", MOST_SAVED)

        def take(raw: Row) -> None:
            definition = definition_of(raw)
            count.add(sum(map(len, definition.saved.values())))
            found[definition.resource] = definition

        await self._client.read_long_list(
            "/v1/resource-definitions?with_volume_definitions=true", take
        )
        return found

    async def placement(self, resource: ResourceName) -> Placement | None:
        rows = Replicas()
        try:
            await self._client.read_list(
                f"/v1/resource-definitions/{_escaped(resource)}/resources", rows.take
            )
        except Missing:
            return None
        if resource in rows.too_many:
            raise Unreachable(f"LINSTOR returned more than {MOST_REPLICAS} replicas of {resource}")
        found = (placement for placement in rows.placements() if placement.resource == resource)
        return next(found, Placement(resource))

    async def placements(self) -> Mapping[ResourceName, Placement]:
        rows = Replicas()
        await self._client.read_long_list("/v1/view/resources", rows.take)
        found = yielding(rows.placements(), every=YIELD_EVERY)
        return {placement.resource: placement async for placement in found}

    async def forget_saved(self, resource: ResourceName, number: int) -> None:
        body = {"override_props": {}, "delete_props": [SAVED_PV_PROPERTY]}
        with suppress(Missing):
            await self._set(resource, number, body, wanted=None)

    async def move_saved(self, resource: ResourceName, text: str) -> None:
        """Move a saved PV from the definition to volume 0, where version 1.5 of the reference
        controller has it. Raises Missing if there is no volume 0.
        """
        body = {"override_props": {SAVED_PV_PROPERTY: text}, "delete_props": []}
        await self._set(resource, 0, body, wanted=text)
        await self.forget_saved(resource, -1)

    async def _set(
        self, resource: ResourceName, number: int, body: object, *, wanted: str | None
    ) -> None:
        """Set the properties of a definition (-1) or of one of its volumes."""
        path = f"/v1/resource-definitions/{_escaped(resource)}"
        if number >= 0:
            path += f"/volume-definitions/{number}"
        try:
            await self._client.put(path, body)
        except Unreachable:
            # With a hung satellite, LINSTOR stores the change but returns 500.
            definition = await self.definition(resource)
            if definition is not None and definition.saved.get(number) != wanted:
                raise


def _escaped(name: str) -> str:
    return quote(name, safe="")
