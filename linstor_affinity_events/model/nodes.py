"""The LINSTOR nodes and the labels that policies speak of."""

from collections.abc import Iterable, Mapping
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


def property_namespace(properties: Iterable[Mapping[str, str]]) -> str:
    """Find where labels are kept: Aux/topology if some node's Kubernetes host name is, else Aux.

    Source: the reference controller does the same when --property-namespace is empty.
    """
    marker = f"{TOPOLOGY_NAMESPACE}/{KUBERNETES_HOSTNAME}"
    return TOPOLOGY_NAMESPACE if any(marker in p for p in properties) else PLAIN_NAMESPACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """All nodes at one moment, with their labels: properties under the namespace, and the name."""

    namespace: str = PLAIN_NAMESPACE
    labels: Mapping[NodeName, Labels] = field(default_factory=dict)

    @classmethod
    def read(cls, properties: Mapping[str, Mapping[str, str]], *, namespace: str = "") -> Self:
        """Sort out each node's properties; an empty namespace is found by itself."""
        found = namespace.strip("/") or property_namespace(properties.values())
        prefix = found + "/"
        return cls(
            namespace=found,
            labels={
                node_name(name): {
                    **{k[len(prefix) :]: v for k, v in given.items() if k.startswith(prefix)},
                    HOSTNAME_LABEL: name,
                }
                for name, given in properties.items()
            },
        )
