"""The LINSTOR nodes and the labels that policies speak of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from linstor_affinity_events.model.keys import (
    HOSTNAME_LABEL,
    KUBERNETES_HOSTNAME,
    PLAIN_NAMESPACE,
    TOPOLOGY_NAMESPACE,
)
from linstor_affinity_events.model.names import NodeName, node_name

Labels = Mapping[str, str]


_MARKER = f"{TOPOLOGY_NAMESPACE}/{KUBERNETES_HOSTNAME}"
"""linstor-csi's node plugin sets it together with a node's other labels."""

EITHER_NAMESPACE = f"{TOPOLOGY_NAMESPACE} or {PLAIN_NAMESPACE}"


def namespace_of(properties: Mapping[str, str]) -> str:
    """Find where one node keeps its labels: Aux/topology if its Kubernetes host name is there, else
    Aux.

    The reference controller decides that for all nodes at once, by whether any of them has the
    host name there. Then a single node that comes or goes would change the labels of all others.
    """
    return TOPOLOGY_NAMESPACE if _MARKER in properties else PLAIN_NAMESPACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """All nodes at one moment, with their labels: properties under the namespace, and the name."""

    namespace: str = EITHER_NAMESPACE
    """Where labels are kept, for messages."""

    labels: Mapping[NodeName, Labels] = field(default_factory=dict)

    @classmethod
    def read(cls, properties: Mapping[str, Mapping[str, str]], *, namespace: str = "") -> Self:
        """Sort out each node's properties; an empty namespace is found by itself, node by node."""
        given = namespace.strip("/")
        return cls(
            namespace=given or EITHER_NAMESPACE,
            labels={
                node_name(name): _labels(name, found, given or namespace_of(found))
                for name, found in properties.items()
            },
        )

    def having(self, label: str) -> bool:
        """Whether any node has the label."""
        return any(label in labels for labels in self.labels.values())


def _labels(name: str, properties: Mapping[str, str], namespace: str) -> Labels:
    prefix = namespace + "/"
    found = {k[len(prefix) :]: v for k, v in properties.items() if k.startswith(prefix)}
    return {**found, HOSTNAME_LABEL: name}
