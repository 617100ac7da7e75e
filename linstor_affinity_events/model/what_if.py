"""Assumptions of a "what if" question: the same decisions on a changed view of LINSTOR."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from linstor_affinity_events.model.names import NodeName, ResourceName
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement, Replica

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What to assume about LINSTOR instead of its real state."""

    gone: frozenset[NodeName] = frozenset()
    """Nodes that are permanently lost, with all replicas on them."""

    replicas: "Mapping[ResourceName, Collection[NodeName]]" = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Resources that have replicas with data on exactly these nodes."""

    def __bool__(self) -> bool:
        return bool(self.gone or self.replicas)

    def definition(
        self, resource: ResourceName, definition: Definition | None
    ) -> Definition | None:
        """A resource with assumed replicas is assumed to exist."""
        if definition is None and resource in self.replicas:
            return Definition(resource=resource)
        return definition

    def placement(self, resource: ResourceName, placement: Placement | None) -> Placement | None:
        """The placement under the assumptions."""
        if resource in self.replicas:
            placement = Placement(resource, tuple(Replica(n) for n in self.replicas[resource]))
        if placement is None or not self.gone:
            return placement
        left = tuple(r for r in placement.replicas if r.node not in self.gone)
        return replace(placement, replicas=left)

    def nodes(self, nodes: Nodes) -> Nodes:
        """The nodes under the assumptions."""
        left = {name: labels for name, labels in nodes.labels.items() if name not in self.gone}
        return replace(nodes, labels=left)
