"""LINSTOR's REST API: reads nodes, definitions and placements, and removes saved PVs."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self
from urllib.parse import quote

from linstor_affinity_events.adapters.linstor.client import BULK_LIMIT, LinstorClient, Take
from linstor_affinity_events.adapters.linstor.connection import LinstorConnection
from linstor_affinity_events.adapters.linstor.rows import (
    NodeRows,
    Replicas,
    Row,
    definition_of,
    node_state,
    properties_of,
    single_object,
    text_of,
)
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.errors import Missing, TooLong, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import SAVED_PV_PROPERTY
from linstor_affinity_events.model.names import ResourceName, few, node_name, resource_name
from linstor_affinity_events.model.nodes import Labels, Nodes
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.poll_result import NodeState, PollResult

log = logging.getLogger(__name__)

MOST_NODES = 10_000
YIELD_EVERY = 500
"""Placements between cooperative yields: 50,000 without one took 30 ms."""


@contextmanager
def _always_there() -> Iterator[None]:
    """LINSTOR has this whatever is in it: a response that denies it is not to be believed."""
    try:
        yield
    except Missing as error:
        raise Unreachable(str(error)) from error


class LinstorRest:
    """Implements engine.ports.Linstor and LinstorPoll. Use as an async context manager."""

    def __init__(
        self, connection: LinstorConnection, *, namespace: str = "", timeout: float = 10.0
    ) -> None:
        self._connection, self._namespace = connection, namespace
        self._client = LinstorClient(connection, timeout=timeout)
        self._unreadable: dict[str, frozenset[str]] = {}
        """What was reported, by its kind."""

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
        with _always_there():
            tree = await self._client.get("/v1/controller/version")
        return str(single_object(tree, "version").get("version", "unknown"))

    async def nodes(self) -> Nodes:
        namespace = Nodes.read({}, namespace=self._namespace).namespace

        def take(node: Row) -> None:
            properties = {text_of(node, "name"): properties_of(node)}
            for name, labels in Nodes.read(properties, namespace=self._namespace).labels.items():
                rows.keep(name, labels, labels)

        rows = NodeRows[Labels]()
        await self._read_nodes(take, rows)
        return Nodes(namespace=namespace, labels=rows.kept, unreadable=frozenset(rows.unreadable))

    async def _read_nodes(self, take: Take, rows: NodeRows[Any]) -> None:
        with _always_there():
            await self._client.read_list(
                "/v1/nodes", take, rows.skip, most=MOST_NODES, limit=BULK_LIMIT
            )
        self._report("node", rows.unreadable)

    async def poll(self) -> PollResult:
        """Read what the controller has in memory. The count is None if it lacks that endpoint."""

        def take(row: Row) -> None:
            state = node_state(row, self._namespace)
            rows.keep(node_name(text_of(row, "name")), dict(state.labels), state)

        rows = NodeRows[NodeState]()
        await self._read_nodes(take, rows)
        nodes = rows.kept | dict.fromkeys(rows.unreadable, NodeState(unreadable=True))
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
        found: dict[ResourceName, Definition] = {}

        def take(raw: Row) -> None:
            definition = definition_of(raw)
            found.setdefault(definition.resource, definition)

        def skip(name: str) -> None:
            found[resource_name(name)] = Definition(resource=resource_name(name), unreadable=True)

        path = "/v1/resource-definitions?with_volume_definitions=true&resource_definitions="
        try:
            await self._client.read_list(path + _escaped(resource), take, skip)
        except Missing:
            return None
        except TooLong:
            return Definition(resource=resource, unreadable=True)
        return found.get(resource)

    async def definitions(self) -> Mapping[ResourceName, Definition]:
        """All definitions. Saved PVs are not kept, which could have any size in all."""
        found: dict[ResourceName, Definition] = {}

        def take(raw: Row) -> None:
            each = definition_of(raw)
            found[each.resource] = Definition(
                resource=each.resource, skip=each.skip, saved_unread=bool(each.saved)
            )

        def skip(name: str) -> None:
            found[resource_name(name)] = Definition(resource=resource_name(name), unreadable=True)

        with _always_there():
            await self._client.read_long_list(
                "/v1/resource-definitions?with_volume_definitions=true", take, skip
            )
        self._report("resource definition", (d.resource for d in found.values() if d.unreadable))
        return found

    async def placement(self, resource: ResourceName) -> Placement | None:
        rows = Replicas()
        path = f"/v1/resource-definitions/{_escaped(resource)}/resources"
        try:
            await self._client.read_list(path, rows.take, rows.skip)
        except Missing:
            return None
        except TooLong:
            return Placement(resource, unreadable=True)
        found = (placement for placement in rows.placements() if placement.resource == resource)
        return next(found, Placement(resource))

    async def placements(self) -> Mapping[ResourceName, Placement]:
        rows = Replicas()
        with _always_there():
            await self._client.read_long_list("/v1/view/resources", rows.take, rows.skip)
        self._report("resource", rows.unreadable)
        found = yielding(rows.placements(), every=YIELD_EVERY)
        return {placement.resource: placement async for placement in found}

    def _report(self, kind: str, unreadable: Iterable[str]) -> None:
        """Warn of those that were readable when they were listed last."""
        known = self._unreadable.get(kind, frozenset())
        self._unreadable[kind] = now = frozenset(unreadable)
        if new := sorted(now - known):
            log.warning(
                "LINSTOR has more about these than is read, usually because of very many "
                "properties: volumes whose decision needs it are left as they are, and all others "
                "are updated. Delete properties that nobody needs; no restart is required",
                extra=facts(kind=kind, names=few(new), number=len(now)),
            )

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
            if definition is None:
                return
            if definition.unreadable or definition.saved.get(number) != wanted:
                raise


def _escaped(name: str) -> str:
    return quote(name, safe="")
