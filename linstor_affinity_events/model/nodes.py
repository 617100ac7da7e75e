"""The LINSTOR nodes and the labels that policies use."""

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
"""linstor-csi's node plugin sets it together with the other labels of a node."""

LONGEST_KEY, LONGEST_VALUE = 253 + 1 + 63, 63
"""The longest label that Kubernetes accepts. Whoever may write to LINSTOR may put more there, for
each node of a cluster.
"""

EITHER_NAMESPACE = f"{TOPOLOGY_NAMESPACE} or {PLAIN_NAMESPACE}"


def namespace_of(properties: Mapping[str, str]) -> str:
    """The namespace of a node's labels: Aux/topology if it has the Kubernetes host name, else Aux.

    The reference controller decides this once for all nodes, by whether any of them has the host
    name there. Then adding or removing a single node could change the labels of all others.
    """
    return TOPOLOGY_NAMESPACE if _MARKER in properties else PLAIN_NAMESPACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """All nodes at one moment, with their labels: properties under the namespace, and the name."""

    namespace: str = EITHER_NAMESPACE
    """The namespace of the labels, for messages."""

    labels: Mapping[NodeName, Labels] = field(default_factory=dict)
    unreadable: frozenset[NodeName] = frozenset()
    """Nodes of which LINSTOR has more than is read, so that their labels are not known."""

    all_labels: frozenset[str] = field(init=False, repr=False, compare=False)
    """The keys of the labels that any node has, as far as they are known."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "all_labels", frozenset().union(*self.labels.values()))

    @classmethod
    def read(cls, properties: Mapping[str, Mapping[str, str]], *, namespace: str = "") -> Self:
        """Read the labels from each node's properties; an empty namespace is detected per node."""
        given = namespace.strip("/")
        return cls(
            namespace=given or EITHER_NAMESPACE,
            labels={
                node_name(name): _labels(name, found, given or namespace_of(found))
                for name, found in properties.items()
            },
        )


def _labels(name: str, properties: Mapping[str, str], namespace: str) -> Labels:
    prefix = namespace + "/"
    found = {
        key[len(prefix) :]: as_label_value(value)
        for key, value in properties.items()
        if key.startswith(prefix) and len(key) - len(prefix) <= LONGEST_KEY
    }
    return {**found, HOSTNAME_LABEL: name}


def as_label_value(text: str) -> str:
    """What is kept of a label's value: of one that is too long so much that it stays invalid."""
    return text[: LONGEST_VALUE + 1]
