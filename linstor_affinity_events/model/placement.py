"""Where the replicas of one LINSTOR resource are, and its resource definition."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from linstor_affinity_events.model.names import NodeName, ResourceName

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
_OTHERS = frozenset({"DISK_ADDING", "DISK_ADD_REQUESTED", "EVACUATE"})

_KEPT = {flag: flag for flag in NOT_SERVING | _MOVING | _OTHERS}
"""Flags that decide, or explain a decision. All replicas share the strings."""


def kept_flags(flags: "Collection[str]") -> frozenset[str]:
    """Return the flags of a replica that matter. Of others, which LINSTOR may have in the future,
    one is enough to show that it is still changing the replica.
    """
    kept = {_KEPT[flag] for flag in flags if flag in _KEPT}
    if moving := [flag for flag in flags if flag not in _KEPT and _is_moving(flag)]:
        kept.add(min(moving))
    return frozenset(kept)


def _is_moving(flag: str) -> bool:
    return flag in _MOVING or flag.startswith("DISK_") or flag.endswith("ING")


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
        return any(_is_moving(flag) for flag in self.flags)


@dataclass(frozen=True, slots=True)
class Placement:
    """All replicas of a resource at one time. No replicas means unknown, never nowhere."""

    resource: ResourceName
    replicas: tuple[Replica, ...] = ()
    unreadable: bool = False
    """LINSTOR has more about its replicas than is read, so nothing is known of them."""

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

    saved_unread: bool = False
    """Whether it has saved PVs that were not read, because all definitions were."""

    unreadable: bool = False
    """LINSTOR has more about it than is read, so only its name is known."""

    @property
    def may_have_saved(self) -> bool:
        """Whether it has a saved PV, as far as is known."""
        return bool(self.saved) or self.saved_unread or self.unreadable
