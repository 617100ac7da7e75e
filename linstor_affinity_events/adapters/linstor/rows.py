"""Decodes LINSTOR's nodes, definitions and replicas into model types, within limits."""

from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.keys import (
    MAX_VOLUME_NUMBER,
    PLAIN_NAMESPACE,
    SAVED_PV_PROPERTY,
    SKIP_PROPERTY,
)
from linstor_affinity_events.model.names import (
    LONGEST_IN_LINSTOR,
    NodeName,
    ResourceName,
    node_name,
    resource_name,
)
from linstor_affinity_events.model.nodes import as_label_value
from linstor_affinity_events.model.placement import Definition, Placement, Replica, kept_flags
from linstor_affinity_events.model.poll_result import NodeState

MOST_REPLICAS = 64
"""The most replicas of one resource: DRBD connects 32 nodes. Each is compared with each other."""

MOST_FLAGS = 16
"""LINSTOR has some 20, of which most exclude each other."""

LONGEST_FLAG = 64
LONGEST_CONNECTION = 32
"""The most characters kept of a node's connection status, which is a word such as ONLINE."""

LONGEST_PROPERTY = 1024
"""The most characters of a property's name that may be a label, with its namespace."""

MOST_SAVED = 100
"""The most saved PVs of one definition. The volumes of Kubernetes have a definition each."""

MOST_LABELS_SIZE = 32 * 1024 * 1024
LABEL_SIZE = 100
"""What a label takes beside its characters. Kubernetes has up to 5,000 nodes, with some 20 labels
each: they take a third of the limit.
"""

Row = Mapping[str, Any]
T = TypeVar("T")

_NO_SAVED: Mapping[int, str] = MappingProxyType({})


class NodeRows(Generic[T]):
    """Keeps something of each node within a limit of memory. Beyond that, the nodes with the most
    labels are unreadable, and so are those that are too long to be read.
    """

    def __init__(self, most: int = MOST_LABELS_SIZE) -> None:
        self._left = most
        self._largest: list[tuple[int, NodeName]] = []
        self.kept: dict[NodeName, T] = {}
        self.unreadable: set[NodeName] = set()

    def keep(self, name: NodeName, labels: Mapping[str, str], kept: T) -> None:
        if name in self.unreadable:
            return
        size = sum(LABEL_SIZE + _size(key) + _size(value) for key, value in labels.items())
        heappush(self._largest, (-size, name))
        self.kept[name] = kept
        self._left -= size
        while self._left < 0:
            size, largest = heappop(self._largest)
            self._left -= size
            self.skip(largest)

    def skip(self, name: str) -> None:
        node = node_name(name)
        self.kept.pop(node, None)
        self.unreadable.add(node)


def _size(text: str) -> int:
    """The most bytes that its characters take in memory."""
    return len(text) if text.isascii() else 4 * len(text)


def definition_of(raw: Row) -> Definition:
    properties = _texts(raw.get("props"), "definition properties")
    saved: dict[int, str] = {}
    if text := properties.get(SAVED_PV_PROPERTY):
        saved[-1] = text
    for volume in list_of(raw.get("volume_definitions") or [], "volume definitions"):
        number = volume.get("volume_number", 0)
        text = _texts(volume.get("props"), "volume properties").get(SAVED_PV_PROPERTY, "")
        valid = type(number) is int and 0 <= number <= MAX_VOLUME_NUMBER
        if text and valid and len(saved) < MOST_SAVED:
            # Never cut: it may be the only record of a volume. On SQL databases LINSTOR stores 4096
            # characters of a property, on Kubernetes any number; an element has a limit as a whole.
            saved[number] = text
    return Definition(
        resource=resource_name(text_of(raw, "name")),
        skip=bool(properties.get(SKIP_PROPERTY)),
        saved=saved or _NO_SAVED,
    )


def properties_of(node: Row) -> Mapping[str, str]:
    return _texts(node.get("props"), "node properties")


def node_state(node: Row, namespace: str) -> NodeState:
    """Return what a poll compares of a node; labels may also be in this property namespace."""
    given = namespace.strip("/")
    namespaces = (PLAIN_NAMESPACE, given) if given else (PLAIN_NAMESPACE,)
    ours = tuple(f"{each}/" for each in namespaces)
    return NodeState(
        flags=_flags(node),
        connection=str(node.get("connection_status", ""))[:LONGEST_CONNECTION],
        labels=frozenset(
            (key, as_label_value(value))
            for key, value in properties_of(node).items()
            if len(key) <= LONGEST_PROPERTY and key.startswith(ours)
        ),
    )


class Replicas:
    """Groups replicas by resource. There are tens of thousands, but few differ in node or flags, so
    equal ones share one object.
    """

    def __init__(self) -> None:
        self._found: dict[ResourceName, list[Replica]] = {}
        self._shared: dict[Replica, Replica] = {}
        self._unreadable: set[ResourceName] = set()

    def take(self, row: Row) -> None:
        """Add one row of LINSTOR's list of resources. Raises Unreachable if it is not valid."""
        replica = Replica(node_name(text_of(row, "node_name")), kept_flags(_flags(row)))
        replica = self._shared.setdefault(replica, replica)
        name = resource_name(text_of(row, "name"))
        if name in self._unreadable:
            return
        replicas = self._found.setdefault(name, [])
        replicas.append(replica)
        if len(replicas) > MOST_REPLICAS:
            self.skip(name)

    def skip(self, name: str) -> None:
        """This resource has a replica that is too long to be read, or more than possible."""
        resource = resource_name(name)
        self._unreadable.add(resource)
        self._found.pop(resource, None)

    @property
    def unreadable(self) -> Iterable[ResourceName]:
        """The resources whose replicas are not known."""
        return self._unreadable

    def placements(self) -> Iterator[Placement]:
        for name, replicas in self._found.items():
            yield Placement(name, tuple(replicas))
        for name in self._unreadable:
            yield Placement(name, unreadable=True)


def list_of(tree: object, what: str) -> list[Row]:
    if not isinstance(tree, list) or not all(isinstance(item, dict) for item in tree):
        raise Unreachable(f"LINSTOR did not return a list of {what}")
    return tree


def single_object(tree: object, what: str) -> Row:
    if not isinstance(tree, dict):
        raise Unreachable(f"LINSTOR did not return {what}")
    return tree


def text_of(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not 0 < _size(value) <= LONGEST_IN_LINSTOR:
        raise Unreachable(f"LINSTOR returned no {key}, or one that is too long")
    return value


def _flags(row: Row) -> frozenset[str]:
    flags = row.get("flags")
    if not flags:
        return frozenset()
    if not isinstance(flags, list | tuple) or not all(isinstance(f, str) for f in flags):
        raise Unreachable("LINSTOR returned flags that are not strings")
    if len(flags) > MOST_FLAGS or any(len(flag) > LONGEST_FLAG for flag in flags):
        raise Unreachable("LINSTOR returned too many or too long flags")
    return frozenset(flags)


def _texts(value: object, what: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise Unreachable(f"LINSTOR returned {what} that are not strings")
    return value
