"""Where the replicas of one LINSTOR resource are, and its resource definition."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from linstor_affinity_events.model.names import NodeName, ResourceName

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_SERVING = frozenset(
    {
        "DELETE",
        "DISKLESS",
        "DISK_REMOVE_REQUESTED",
        "DISK_REMOVING",
        "DRBD_DELETE",
        "DRBD_DISKLESS",
        "EBS_INITIATOR",
        "EVICTED",
        "FAILED_DEPLOYMENT",
        "FAILED_DISCONNECT",
        "INACTIVE",
        "INACTIVE_PERMANENTLY",
        "NVME_INITIATOR",
        "TIE_BREAKER",
    }
)
"""Flags of a replica without data, or soon without. One with EVACUATE still has it."""

_MOVING = frozenset({"DELETE", "DRBD_DELETE", "REACTIVATE", "RESTORE_FROM_SNAPSHOT"})


@dataclass(frozen=True, slots=True)
class Replica:
    """The replica of a resource on one node, as LINSTOR last reported it."""

    node: NodeName
    flags: frozenset[str] = frozenset()

    @property
    def serves(self) -> bool:
        """Whether a pod on this node would find the data on its own disk."""
        return self.flags.isdisjoint(NOT_SERVING)

    @property
    def against(self) -> tuple[str, ...]:
        """The flags because of which it does not serve."""
        return tuple(sorted(self.flags & NOT_SERVING))

    @property
    def moves(self) -> bool:
        """Whether LINSTOR is still changing it, so that more changes follow without an event."""
        return any(
            flag in _MOVING or flag.startswith("DISK_") or flag.endswith("ING")
            for flag in self.flags
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """All replicas of a resource at one time. No replicas means unknown, never nowhere."""

    resource: ResourceName
    replicas: tuple[Replica, ...] = ()

    @property
    def serving_nodes(self) -> frozenset[NodeName]:
        return frozenset(replica.node for replica in self.replicas if replica.serves)

    @property
    def in_motion(self) -> bool:
        return any(replica.moves for replica in self.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A resource definition, as far as it matters to affinities."""

    resource: ResourceName
    skip: bool = False
    """The operator set the skip property: exclude all its volumes."""

    saved: "Mapping[int, str]" = field(default_factory=lambda: MappingProxyType({}))
    """Per volume number, the saved PV of the reference controller, while it was replacing it. -1
    is a property of the definition itself, as before its version 1.5."""
