"""The cluster at rest: objects by name, and changes to them that no stream has an event for."""

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any

from tests.fakes.linstor_server.objects import (
    DEFAULT_GROUP,
    Definition,
    Group,
    Node,
    NotThere,
    Replica,
    Taken,
    VolumeDefinition,
    folded,
)

NO_DISK = frozenset({"DISKLESS", "DRBD_DISKLESS"})
_MINOR_NUMBERS_FROM = 1000
_PORTS_FROM = 7000

_RESOURCE_PROPS = {"DrbdOptions/Resource/quorum": "off"}
_DRBD_RESOURCE_PROPS = {
    "DrbdOptions/auto-add-quorum-tiebreaker": "False",
    "DrbdOptions/auto-verify-alg": "sha512",
}
_GROUPED_RESOURCE_PROPS = {"DrbdOptions/auto-verify-alg": "sha512"}
_VOLUME_PROPS = {
    "DrbdCurrentGi": "7FEE6CA24DC11710",
    "DrbdOptions/Disk/block-size": "512",
    "StorDriver/internal/AllocationGranularity": "1",
}


class State:
    """Names are found in any spelling and shown in their first one, as LINSTOR does."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        """By folded name, as all such dictionaries here."""
        self.definitions: dict[str, Definition] = {}
        self.groups: dict[str, Group] = {folded(DEFAULT_GROUP): Group(name=DEFAULT_GROUP)}
        self._minors = count(_MINOR_NUMBERS_FROM)
        self._node_numbers = count(1)

    def node(self, name: str) -> Node:
        try:
            return self.nodes[folded(name)]
        except KeyError:
            raise NotThere("Node", name) from None

    def definition(self, rd: str) -> Definition:
        try:
            return self.definitions[folded(rd)]
        except KeyError:
            raise NotThere("Resource definition", rd) from None

    def group(self, name: str) -> Group:
        try:
            return self.groups[folded(name)]
        except KeyError:
            raise NotThere("Resource group", name) from None

    def volume(self, rd: str, number: int) -> VolumeDefinition:
        try:
            return self.definition(rd).volumes[number]
        except KeyError:
            raise NotThere("Volume definition", f"{rd}/{number}") from None

    def replica(self, rd: str, node: str) -> Replica:
        try:
            return self.definition(rd).replicas[folded(node)]
        except KeyError:
            raise NotThere("Resource", f"{rd} on {node}") from None

    def add_definition(
        self,
        rd: str,
        *,
        volumes: int = 1,
        layers: Iterable[str] = ("DRBD", "STORAGE"),
        props: Mapping[str, str] | None = None,
        volume_props: Mapping[str, str] | None = None,
        size_kib: int = 8192,
        group: str = DEFAULT_GROUP,
    ) -> Definition:
        """Add a definition with so many volumes; `volume_props` go to each of them."""
        own_group = self.group(group)
        if folded(rd) in self.definitions:
            raise Taken("Resource definition", rd)
        definition = Definition(
            name=rd,
            layers=tuple(layer.upper() for layer in layers),
            props=dict(_RESOURCE_PROPS),
            group=own_group.name,
        )
        if definition.has_drbd:
            in_default = own_group.name == DEFAULT_GROUP
            definition.props |= _DRBD_RESOURCE_PROPS if in_default else _GROUPED_RESOURCE_PROPS
        definition.props |= props or {}
        self.definitions[folded(rd)] = definition
        for _ in range(volumes):
            self.add_volume(rd, size_kib=size_kib, props=volume_props)
        return definition

    def add_volume(
        self,
        rd: str,
        *,
        number: int | None = None,
        size_kib: int = 8192,
        props: Mapping[str, str] | None = None,
    ) -> VolumeDefinition:
        definition = self.definition(rd)
        if number is None:
            number = next(free for free in count() if free not in definition.volumes)
        if number in definition.volumes:
            raise Taken("Volume definition", f"{rd}/{number}")
        volume = VolumeDefinition(
            number=number,
            minor=next(self._minors),
            size_kib=size_kib,
            props=_VOLUME_PROPS | dict(props or {}),
        )
        definition.volumes[number] = volume
        definition.encoded.clear()
        return volume

    def change_definition(
        self, rd: str, *, override: Mapping[str, str], delete: Iterable[str] = ()
    ) -> None:
        definition = self.definition(rd)
        change_props(definition.props, override, delete)
        definition.encoded.clear()

    def change_volume(
        self, rd: str, number: int, *, override: Mapping[str, str], delete: Iterable[str] = ()
    ) -> None:
        change_props(self.volume(rd, number).props, override, delete)
        self.definition(rd).encoded.clear()

    def resize_volume(self, rd: str, number: int, size_kib: int) -> None:
        self.volume(rd, number).size_kib = size_kib
        self.definition(rd).encoded.clear()

    def delete_volume(self, rd: str, number: int) -> None:
        self.volume(rd, number)
        definition = self.definition(rd)
        del definition.volumes[number]
        definition.encoded.clear()

    def add_group(
        self,
        name: str,
        *,
        props: Mapping[str, str] | None = None,
        select_filter: Mapping[str, Any] | None = None,
    ) -> Group:
        if folded(name) in self.groups:
            raise Taken("Resource group", name)
        group = Group(name=name, props=dict(props or {}), select_filter=dict(select_filter or {}))
        self.groups[folded(name)] = group
        return group

    def delete_group(self, name: str) -> None:
        """Refused while a definition is in it."""
        group = self.group(name)
        for definition in self.definitions.values():
            if definition.group == group.name:
                why = f"is still in resource group '{name}'"
                raise Taken("Resource definition", definition.name, why=why)
        del self.groups[folded(name)]

    def set_definition_prop(self, rd: str, key: str, value: str | None) -> None:
        """Set a property, or remove it with None. LINSTOR sends no event."""
        self.change_definition(rd, override={} if value is None else {key: value}, delete=[key])

    def set_volume_prop(self, rd: str, number: int, key: str, value: str | None) -> None:
        """Set a property, or remove it with None. LINSTOR sends no event."""
        override = {} if value is None else {key: value}
        self.change_volume(rd, number, override=override, delete=[key])

    def place(
        self, rd: str, node: str, *, diskless: bool = False, flags: Iterable[str] = ()
    ) -> Replica:
        """Have a replica there as if it always had been: no event, no delay."""
        return self._put(rd, node, diskless=diskless, flags=flags, up=True)

    def set_flags(self, rd: str, node: str, flags: Iterable[str]) -> None:
        """Replace the flags of a replica without a word, and without any consequence."""
        self.replica(rd, node).flags = frozenset(flags)

    def move_silently(self, rd: str, from_node: str, to_node: str) -> None:
        """Move a replica as LINSTOR moves what has no DRBD: nothing on any stream."""
        diskless = not self.replica(rd, from_node).diskful
        self.place(rd, to_node, diskless=diskless)
        self._remove(self.replica(rd, from_node))

    def node_lost(self, name: str) -> None:
        """Forget a node and all its replicas. LINSTOR sends no event."""
        node = self.node(name)
        for replica in tuple(node.replicas.values()):
            self._remove(replica)
        del self.nodes[folded(name)]

    def _new_node(self, name: str, props: Mapping[str, str]) -> Node:
        if folded(name) in self.nodes:
            raise Taken("Node", name)
        own = {"CurStltConnName": "default", "NodeUname": name}
        node = Node(name=name, number=next(self._node_numbers), props={**props, **own})
        self.nodes[folded(name)] = node
        return node

    def _put(
        self, rd: str, node_name: str, *, diskless: bool, flags: Iterable[str] = (), up: bool
    ) -> Replica:
        definition, node = self.definition(rd), self.node(node_name)
        if folded(node_name) in definition.replicas:
            raise Taken("Resource", f"{rd} on {node_name}")
        wanted = frozenset(flags)
        if diskless:
            wanted |= NO_DISK if definition.has_drbd else {"DISKLESS"}
        used = {replica.drbd_id for replica in definition.replicas.values()}
        replica = Replica(
            definition=definition,
            node=node,
            flags=wanted,
            drbd_id=next(free for free in count() if free not in used),
            port=_PORTS_FROM + len(node.replicas),
            up=up,
            has_disk="DISKLESS" not in wanted,
        )
        definition.replicas[folded(node_name)] = replica
        node.replicas[folded(rd)] = replica
        return replica

    def _is_there(self, replica: Replica) -> bool:
        """Whether this very incarnation still exists."""
        return replica.definition.replicas.get(folded(replica.node.name)) is replica

    def _remove(self, replica: Replica) -> None:
        definition = replica.definition
        del definition.replicas[folded(replica.node.name)]
        del replica.node.replicas[folded(definition.name)]
        if definition.deleting and not definition.replicas:
            self.definitions.pop(folded(definition.name), None)


def change_props(props: dict[str, str], override: Mapping[str, str], delete: Iterable[str]) -> None:
    """Deletions first, as a key in both keeps its new value."""
    for key in delete:
        props.pop(key, None)
    props.update(override)
