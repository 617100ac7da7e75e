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

    def is_changed(self, name: NodeName, before: "PollResult") -> bool:
        """Whether this node was added, removed or changed."""
        return self.nodes.get(name) != before.nodes.get(name)

    def recounted(self, before: "PollResult") -> bool:
        """Whether the number of resources changed."""
        known = self.resources is not None and before.resources is not None
        return known and self.resources != before.resources
