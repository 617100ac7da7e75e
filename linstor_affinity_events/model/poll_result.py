"""What LINSTOR's controller returns from memory, and which changes need a full reconcile."""

from collections.abc import Mapping
from dataclasses import dataclass

from linstor_affinity_events.model.names import NodeName


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node, as far as decisions depend on it."""

    flags: frozenset[str] = frozenset()
    connection: str = ""
    labels: frozenset[tuple[str, str]] = frozenset()
    """The properties that may hold Kubernetes labels."""

    unreadable: bool = False
    """LINSTOR has more about it than is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """All nodes, and the number of resources; None if LINSTOR did not return it."""

    nodes: Mapping[NodeName, NodeState]
    resources: int | None

    def changed_nodes(self, before: "PollResult") -> list[NodeName]:
        """The nodes that were added, removed or changed."""
        either = self.nodes.keys() | before.nodes.keys()
        return sorted(name for name in either if self.nodes.get(name) != before.nodes.get(name))

    def recounted(self, before: "PollResult") -> bool:
        """Whether the number of resources changed."""
        known = self.resources is not None and before.resources is not None
        return known and self.resources != before.resources
