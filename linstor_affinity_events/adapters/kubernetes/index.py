"""The cache of the driver's PersistentVolumes, indexed by resource, and of StorageClasses."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from linstor_affinity_events.adapters.kubernetes.objects import describe, storage_class
from linstor_affinity_events.adapters.kubernetes.recent import remember
from linstor_affinity_events.adapters.kubernetes.siblings import Siblings
from linstor_affinity_events.adapters.kubernetes.watch import EventDeadline
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.markers import is_safe_to_release, wrote_phase
from linstor_affinity_events.model.names import PvName, ResourceName, Uid
from linstor_affinity_events.model.policy import StorageClass
from linstor_affinity_events.model.volume import Volume

MOST_DELETED = 5_000
"""How many volumes that others deleted are remembered once they are gone."""


class FollowedVolume:
    """Implements engine.ports.VolumeWatch."""

    def __init__(self) -> None:
        self.latest: Manifest | None = None
        self.gone: Manifest | None = None
        self._event_arrived = asyncio.Event()

    def changed(self, manifest: Manifest) -> None:
        self.latest = manifest
        self._event_arrived.set()

    def deleted(self, manifest: Manifest) -> None:
        self.gone = manifest
        self.changed(manifest)

    async def event(self) -> None:
        await self._event_arrived.wait()
        self._event_arrived.clear()


class VolumeIndex:
    """Implements engine.ports.Index, and the store that an informer fills."""

    def __init__(self, on_change: Callable[[Volume], None]) -> None:
        self._on_change = on_change
        self._volumes: dict[PvName, Volume] = {}
        self._siblings = Siblings()
        self._unmanaged: dict[PvName, Volume] = {}
        self._followed: dict[PvName, list[FollowedVolume]] = {}
        self._listed: set[PvName] = set()
        self._deleting: dict[PvName, Uid] = {}
        self._deleted: dict[PvName, Uid] = {}
        self._synced = False
        self.classes = ClassStore()
        self.deadline = EventDeadline()
        self.phase_changed_at = float("-inf")

    def of(self, resource: ResourceName) -> Collection[Volume]:
        return self._siblings.of(resource)

    def of_key(self, key: VolumeKey) -> Collection[Volume]:
        return self._siblings.of_key(key)

    def get(self, name: PvName) -> Volume | None:
        return self._volumes.get(name)

    def deleted_by_others(self, name: PvName, uid: Uid | None) -> bool:
        if uid is None:
            return name in self._deleted
        return uid in {self._deleting.get(name), self._deleted.get(name)}

    def resources(self) -> Collection[ResourceName]:
        return self._siblings.resources()

    def all(self) -> Collection[Volume]:
        """Return every volume of the driver, including those whose handle is not valid."""
        return self._volumes.values()

    def unmanaged(self) -> Collection[Volume]:
        return self._unmanaged.values()

    def storage_class(self, name: str) -> StorageClass | None:
        return self.classes.found.get(name)

    @property
    def classes_known(self) -> bool:
        return self.classes.synced

    def __len__(self) -> int:
        return len(self._volumes)

    @contextmanager
    def follow(self, name: PvName) -> Iterator[FollowedVolume]:
        followed = FollowedVolume()
        self._followed.setdefault(name, []).append(followed)
        try:
            yield followed
        finally:
            self._followed[name].remove(followed)
            if not self._followed[name]:
                del self._followed[name]

    def begin_list(self) -> None:
        self._listed = set()

    def listed(self, manifest: Mapping[str, Any]) -> None:
        self._listed.add(manifest["metadata"]["name"])
        self._changed(manifest)

    def end_list(self) -> None:
        for name in self._volumes.keys() - self._listed:
            self._drop(name)
        # Which volumes have come and gone since is not known.
        self._deleted.clear()
        self._listed = set()
        self._synced = True

    def changed(self, manifest: Mapping[str, Any]) -> None:
        """Take over an event. The first one in which a volume is being deleted shows it as it was
        then; a list does not.
        """
        if "deletionTimestamp" in manifest["metadata"]:
            self._see_deletion(manifest)
        self._changed(manifest)

    def _see_deletion(self, manifest: Mapping[str, Any]) -> None:
        """Remember a volume that was deleted before anything had set what each controller sets
        first that replaces volumes.
        """
        metadata = manifest["metadata"]
        name, uid = PvName(metadata["name"]), Uid(metadata.get("uid", ""))
        if self._deleting.get(name) != uid:
            self._deleting.pop(name, None)
        before = self._volumes.get(name)
        began = before is not None and before.uid == uid and not before.terminating
        if began and not is_safe_to_release(manifest):
            self._deleting[name] = uid

    def _changed(self, manifest: Mapping[str, Any]) -> None:
        name = PvName(manifest["metadata"]["name"])
        for followed in self._followed.get(name, ()):
            followed.changed(manifest)
        self._deleted.pop(name, None)
        volume, before = describe(manifest), self._volumes.get(name)
        if volume is None:
            self._drop(name)
            return
        if volume == before:
            # A new list repeats everything: keep the existing objects, not a second copy.
            return
        if (
            before is not None
            and before.uid == volume.uid
            and before.phase != volume.phase
            and not wrote_phase(manifest)
        ):
            # The binder's doing: neither a new incarnation nor a phase that this service wrote.
            self.phase_changed_at = asyncio.get_running_loop().time()
        if before is not None and before.key != volume.key:
            self._drop(name)
        self._volumes[name] = volume
        if volume.key is None:
            self._unmanaged[name] = volume
        else:
            self._siblings.put(volume.key, volume)
        if self._synced and self._is_relevant(volume, before):
            self._on_change(volume)

    @staticmethod
    def _is_relevant(volume: Volume, before: Volume | None) -> bool:
        """Return whether a change by another client may lead to another decision. The service's own
        writes during and at the end of a replacement are known already.
        """
        if volume.marked:
            return False
        if before is None or before.uid != volume.uid:
            return not volume.made_by_us
        return not volume.same_inputs(before)

    def gone(self, manifest: Mapping[str, Any]) -> None:
        self._see_deletion(manifest)
        name = PvName(manifest["metadata"]["name"])
        for followed in self._followed.get(name, ()):
            followed.deleted(manifest)
        self._drop(name)

    def _drop(self, name: PvName) -> None:
        if (uid := self._deleting.pop(name, None)) is not None:
            remember(self._deleted, name, uid, most=MOST_DELETED)
        volume = self._volumes.pop(name, None)
        if volume is None:
            return
        self._unmanaged.pop(name, None)
        if volume.key is not None:
            self._siblings.drop(volume.key, volume)


class ClassStore:
    """All StorageClasses: a volume may name any of them, though few belong to the driver."""

    def __init__(self) -> None:
        self.found: dict[str, StorageClass] = {}
        self._listed: dict[str, StorageClass] | None = None
        self.synced = False
        self.on_change: Callable[[], None] = lambda: None

    def begin_list(self) -> None:
        self._listed = {}

    def listed(self, manifest: Mapping[str, Any]) -> None:
        if self._listed is not None:
            self._listed[manifest["metadata"]["name"]] = storage_class(manifest)

    def end_list(self) -> None:
        before, self.found = self.found, self._listed or {}
        self._listed = None
        if self.synced and before != self.found:
            self.on_change()
        self.synced = True

    def changed(self, manifest: Mapping[str, Any]) -> None:
        read = storage_class(manifest)
        if self._listed is not None:
            self._listed[read.name] = read
        if self.found.get(read.name) != read:
            self.found[read.name] = read
            self.on_change()

    def gone(self, manifest: Mapping[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        if self._listed is not None:
            self._listed.pop(name, None)
        if self.found.pop(name, None) is not None:
            self.on_change()
