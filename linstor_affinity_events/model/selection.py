"""Which volumes a user selected."""

from dataclasses import dataclass

from linstor_affinity_events.model.affinity import NodeAffinity, Term
from linstor_affinity_events.model.keys import HOSTNAME_LABEL
from linstor_affinity_events.model.names import NodeName
from linstor_affinity_events.model.placement import Placement
from linstor_affinity_events.model.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Selects volumes that match every criterion; an empty criterion matches all."""

    names: tuple[str, ...] = ()
    namespaces: frozenset[str] = frozenset()
    storage_classes: frozenset[str] = frozenset()
    nodes: frozenset[NodeName] = frozenset()

    def takes(self, volume: Volume) -> bool:
        """Whether the volume matches by what Kubernetes alone knows."""
        namespace = "" if volume.claim is None else volume.claim.namespace
        return (
            (not self.names or any(is_called(name, volume) for name in self.names))
            and (not self.namespaces or namespace in self.namespaces)
            and (not self.storage_classes or volume.storage_class in self.storage_classes)
        )

    def matches_node(self, volume: Volume, placement: Placement | None) -> bool:
        """Whether a selected node has a replica of it, or is in its affinity."""
        if not self.nodes:
            return True
        replicas = () if placement is None else placement.replicas
        return any(r.node in self.nodes for r in replicas) or any(
            key == HOSTNAME_LABEL and value is not None and value.lower() in self.nodes
            for term in _terms(volume)
            for key, value in term
        )


def _terms(volume: Volume) -> frozenset[Term]:
    return volume.affinity.terms if isinstance(volume.affinity, NodeAffinity) else frozenset()


def is_called(name: str, volume: Volume) -> bool:
    """Whether a user may mean the volume by this: the name of the PersistentVolume, the claim as
    `name` or `namespace/name`, the resource definition, or the volume handle.
    """
    if name in {volume.name, volume.handle}:
        return True
    if volume.claim is not None and name in {volume.claim.name, str(volume.claim)}:
        return True
    return volume.key is not None and name.lower() in {volume.key.resource, str(volume.key)}
