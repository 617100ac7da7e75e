"""The volumes of one resource."""

from collections.abc import Collection

from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.volume import Volume


class _Many:
    """Others may create thousands of volumes for one resource: none is looked for among all."""

    def __init__(self, *volumes: Volume) -> None:
        self.by_name: dict[PvName, Volume] = {}
        self.by_key: dict[VolumeKey | None, dict[PvName, Volume]] = {}
        for volume in volumes:
            self.put(volume)

    def put(self, volume: Volume) -> None:
        self.by_name[volume.name] = volume
        self.by_key.setdefault(volume.key, {})[volume.name] = volume

    def drop(self, volume: Volume) -> None:
        del self.by_name[volume.name]
        of_key = self.by_key[volume.key]
        del of_key[volume.name]
        if not of_key:
            del self.by_key[volume.key]


class Siblings:
    """Volumes by resource, of which there is nearly always one each: to save memory that one is
    stored as it is.
    """

    def __init__(self) -> None:
        self._found: dict[ResourceName, Volume | _Many] = {}

    def of(self, resource: ResourceName) -> Collection[Volume]:
        found = self._found.get(resource)
        if isinstance(found, _Many):
            return found.by_name.values()
        return () if found is None else (found,)

    def of_key(self, key: VolumeKey) -> Collection[Volume]:
        """Those that refer to one LINSTOR volume."""
        found = self._found.get(key.resource)
        if isinstance(found, _Many):
            return found.by_key.get(key, {}).values()
        return () if found is None or found.key != key else (found,)

    def resources(self) -> Collection[ResourceName]:
        return self._found.keys()

    def put(self, key: VolumeKey, volume: Volume) -> None:
        """Add a volume, or replace the one of that name and key."""
        found = self._found.get(key.resource)
        if isinstance(found, _Many):
            found.put(volume)
        elif found is None or found.name == volume.name:
            self._found[key.resource] = volume
        else:
            self._found[key.resource] = _Many(found, volume)

    def drop(self, key: VolumeKey, volume: Volume) -> None:
        """Remove a volume that is there."""
        found = self._found[key.resource]
        if isinstance(found, _Many):
            found.drop(volume)
            if found.by_name:
                return
        del self._found[key.resource]
