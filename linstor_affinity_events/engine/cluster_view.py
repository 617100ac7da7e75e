"""What decisions need besides the volume itself: nodes, defaults, and how the cluster behaves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from linstor_affinity_events.engine.change_backoff import ChangeBackoff
from linstor_affinity_events.engine.ports import Index, Linstor
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.affinity import NO_AFFINITY, NodeAffinity
from linstor_affinity_events.model.decision import Case
from linstor_affinity_events.model.demands import (
    demands_of,
    unconfirmed,
    with_volume_context,
)
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import PvName, ResourceName, Uid
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.policy import Policy, StorageClass
from linstor_affinity_events.model.volume import Volume

IMMUTABLE_FOR = 600.0
"""How long no in-place change is tried after the cluster rejected one of a node affinity."""

NODES_READ_INTERVAL = 1.0


@dataclass(slots=True, kw_only=True)
class ClusterView:
    """Builds the input of a decision from what was read and what is remembered."""

    index: Index
    linstor: Linstor
    now: Callable[[], float]
    """Seconds since the epoch."""

    grace: float = 10.0
    default_policy: Policy | None = None
    everywhere: NodeAffinity = NO_AFFINITY
    """What is written on volumes that any node may use."""

    backoff: ChangeBackoff = field(default_factory=ChangeBackoff)
    nodes: Nodes = field(default_factory=Nodes)
    saved: frozenset[ResourceName] = frozenset()
    """Resources with a saved PV of the reference controller, as of the last full reconcile."""

    _young: dict[PvName, tuple[Uid, float]] = field(default_factory=dict)
    """Volumes that appear young, each with the loop time since when."""
    _nodes_read: float = float("-inf")
    _immutable_until: float = float("-inf")
    _nodes_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def case(
        self,
        volume: Volume,
        definition: Definition | None,
        placement: Placement | None,
        *,
        has_journal_entry: bool = False,
    ) -> Case:
        now = self.now()
        return Case(
            volume=volume,
            duplicates=self.in_use_with(volume.key, but=volume.name),
            has_journal_entry=has_journal_entry,
            definition=definition,
            placement=placement,
            nodes=self.nodes,
            storage_class=self.index.storage_class(volume.storage_class),
            default_policy=self.default_policy,
            everywhere=self.everywhere,
            held_back=self.backoff.against(volume.name),
            immutable=asyncio.get_running_loop().time() < self._immutable_until,
            now=now,
            grace=self.grace,
            seen_for=self._seen_for(volume, now),
        )

    def _seen_for(self, volume: Volume, now: float) -> float:
        """How long a volume has appeared young; with differing wall clocks that may be hours."""
        moment = asyncio.get_running_loop().time()
        uid, since = self._young.get(volume.name, ("", moment))
        if uid == volume.uid:
            return moment - since
        if self._is_young(volume, now):
            self._young[volume.name] = (volume.uid, moment)
        return 0.0

    def _is_young(self, volume: Volume, now: float) -> bool:
        return now < volume.created_at + self.grace

    def forget_gone(self) -> None:
        """Drop the state of volumes that no longer exist or are old enough by now."""
        now = self.now()
        for name in tuple(self._young):
            volume = self.index.get(name)
            if volume is None or not self._is_young(volume, now):
                del self._young[name]
        self.backoff.forget_old()

    def remembered(self) -> int:
        """Number of entries kept for volumes."""
        return len(self._young) + len(self.backoff)

    def in_use_with(self, key: VolumeKey | None, *, but: PvName) -> tuple[PvName, ...]:
        """All other volumes in use that refer to this LINSTOR volume."""
        if key is None:
            return ()
        return tuple(
            other.name
            for other in self.index.of_key(key)
            if other.name != but and not other.terminating and other.in_use
        )

    def unconfirmed(self, manifest: Manifest) -> tuple[str, ...]:
        """What an absent volume demands beyond holding data and its StorageClass does not confirm.
        Raises Unreachable if the StorageClasses are not known yet.
        """
        found = self._class_of(manifest)
        return unconfirmed(demands_of(manifest), original=None, storage_class=found)

    def with_volume_context(self, manifest: Manifest) -> Manifest:
        """The same volume, with what its StorageClass gives in its attributes if linstor-csi wrote
        nothing there. Raises Unreachable if the StorageClasses are not known yet.
        """
        return with_volume_context(manifest, self._class_of(manifest))

    def _class_of(self, manifest: Manifest) -> StorageClass | None:
        if not self.index.classes_known:
            raise Unreachable("the StorageClasses have not been listed yet")
        return self.index.storage_class(str(manifest["spec"].get("storageClassName") or ""))

    async def read_nodes(self) -> None:
        """Read all nodes again."""
        self.nodes = await self.linstor.nodes()
        self._nodes_read = asyncio.get_running_loop().time()

    def knows_nodes_of(self, placement: Placement) -> bool:
        """Whether the last read has every node with its data, be it one that can't be read."""
        return placement.serving_nodes - self.nodes.labels.keys() <= self.nodes.unreadable

    async def ensure_nodes(self, placement: Placement | None) -> None:
        """Read the nodes again if the last read lacks a node with data."""
        if placement is None or self.knows_nodes_of(placement):
            return
        asked = asyncio.get_running_loop().time()
        async with self._nodes_lock:
            if self._nodes_read < asked - NODES_READ_INTERVAL:
                await self.read_nodes()

    def cluster_refused_change(self) -> None:
        """Remember that a node affinity is immutable in this cluster."""
        self._immutable_until = asyncio.get_running_loop().time() + IMMUTABLE_FOR
