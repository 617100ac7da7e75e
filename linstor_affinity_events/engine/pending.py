"""The volumes with a journal entry, by name and by resource."""

from collections.abc import Collection, Iterator, Mapping

from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName


class Pending(Mapping[PvName, VolumeKey]):
    """The LINSTOR volume of each. Others may have written entries by the thousand, so nothing here
    scans all of them.
    """

    def __init__(self) -> None:
        self._keys: dict[PvName, VolumeKey] = {}
        self._names: dict[ResourceName, dict[VolumeKey, dict[PvName, None]]] = {}

    def __getitem__(self, name: PvName) -> VolumeKey:
        return self._keys[name]

    def __iter__(self) -> Iterator[PvName]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, name: PvName, key: VolumeKey) -> None:
        self.discard(name)
        self._keys[name] = key
        self._names.setdefault(key.resource, {}).setdefault(key, {})[name] = None

    def discard(self, name: PvName) -> None:
        key = self._keys.pop(name, None)
        if key is None:
            return
        of_resource = self._names[key.resource]
        del of_resource[key][name]
        if not of_resource[key]:
            del of_resource[key]
        if not of_resource:
            del self._names[key.resource]

    def of(self, resource: ResourceName) -> list[PvName]:
        """The volumes of one resource."""
        return [name for names in self._names.get(resource, {}).values() for name in names]

    def of_key(self, key: VolumeKey) -> Collection[PvName]:
        """The volumes that are for one LINSTOR volume."""
        return self._names.get(key.resource, {}).get(key, ())

    def resources(self) -> Collection[ResourceName]:
        return self._names.keys()
