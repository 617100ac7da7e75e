"""A whole LINSTOR cluster: nodes, their comings and goings, and what may be wrong with it."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import partial

from tests.fakes.linstor_server.event_log import NODES
from tests.fakes.linstor_server.faults import Faults
from tests.fakes.linstor_server.node_json import node_json
from tests.fakes.linstor_server.objects import Definition, Node, Replica, folded
from tests.fakes.linstor_server.state import change_props
from tests.fakes.linstor_server.timing import Timing
from tests.fakes.linstor_server.transitions import Transitions

HOSTNAME_LABEL = "kubernetes.io/hostname"


class LinstorWorld(Transitions, Faults):
    """One LINSTOR cluster. Whatever takes time needs a running loop; set-up does not."""

    def __init__(self, *, timing: Timing | None = None) -> None:
        Transitions.__init__(self, timing or Timing())
        Faults.__init__(self)
        self.requests: Counter[str] = Counter()
        """By method and path template, such as `GET /v1/nodes/{node}`."""
        self.bytes_sent: Counter[str] = Counter()
        """Bytes of bodies as they went out, by the same keys."""

    def add_node(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        namespace: str = "Aux/topology",
        hostname_label: bool = True,
    ) -> Node:
        """Add a node with Kubernetes labels as properties, its host name among them."""
        own = {HOSTNAME_LABEL: name} if hostname_label else {}
        shown = own | dict(labels or {})
        node = self._new_node(name, {f"{namespace}/{key}": value for key, value in shown.items()})
        self._emit_node("node-create", node)
        return node

    def set_node_prop(self, name: str, key: str, value: str | None) -> None:
        """Set a property, or remove it with None."""
        self.change_node(name, override={} if value is None else {key: value}, delete=[key])

    def change_node(
        self, name: str, *, override: Mapping[str, str], delete: Iterable[str] = ()
    ) -> None:
        node = self.node(name)
        change_props(node.props, override, delete)
        # LINSTOR's old_node is the same object as its new one, so both show the new values.
        shown = node_json(node)
        self.event_log.emit(NODES, [("node-modified", {"old_node": shown, "new_node": shown})])

    def delete_node(self, name: str) -> None:
        """Take a node out of the cluster for good; what it still held goes with it."""
        node = self.node(name)
        self.node_lost(name)
        self._emit_node("node-delete", node)

    def go_offline(self, name: str) -> None:
        """Lose a satellite: one event per replica on it, and nothing on the nodes stream."""
        node = self.node(name)
        if not node.online:
            return
        with self._watching(_definitions_on(node), anyway=node.replicas.values()):
            node.online = False
            for replica in node.replicas.values():
                replica.in_use = False

    def come_online(self, name: str) -> None:
        """Have a satellite back: one event per replica on it, and pending deletions go on."""
        node = self.node(name)
        if node.online:
            return
        with self._watching(_definitions_on(node), anyway=node.replicas.values()):
            node.online = True
            for replica in node.replicas.values():
                replica.up = "DELETE" not in replica.flags
        for replica in node.replicas.values():
            if not replica.up:
                self._later(self.timing.delete_delay, partial(self._drop, replica))

    def evacuate(
        self, name: str, *, target: str | Collection[str] = (), avoid: Collection[str] = ()
    ) -> None:
        """Mark a node and move its diskful replicas away, each deleted once its heir is up.

        Heirs go to the given nodes or, without any, to healthy ones. A replica for which
        there is no place stays, marked.
        """
        node = self.node(name)
        targets = [self.node(t) for t in ((target,) if isinstance(target, str) else target)]
        avoided = {folded(name) for name in avoid}
        among = targets or [n for key, n in self.nodes.items() if key not in avoided]
        node.flags.add("EVACUATE")
        self._emit_node("node-evacuate", node)
        for replica in tuple(node.replicas.values()):
            if replica.diskful and "DELETE" not in replica.flags:
                replica.flags |= {"EVACUATE"}
                heir = self._place_for(replica, among)
                if heir:
                    self.move(replica.definition.name, name, heir.name)

    def evict(self, name: str) -> None:
        """Give a node up, as LINSTOR does by itself with one that is offline for too long."""
        node = self.node(name)
        node.flags.add("EVICTED")
        for replica in node.replicas.values():
            replica.flags |= {"EVICTED"}
        self._emit_node("node-evicted", node)

    def restore(self, name: str) -> None:
        """Take a node back after an evacuation or an eviction."""
        node = self.node(name)
        node.flags -= {"EVACUATE", "EVICTED"}
        for replica in node.replicas.values():
            replica.flags -= {"EVACUATE", "EVICTED"}
        self._emit_node("node-restored", node)

    def _place_for(self, replica: Replica, among: Iterable[Node]) -> Node | None:
        taken = replica.definition.replicas
        free = [node for node in among if node.healthy and folded(node.name) not in taken]
        return min(free, key=lambda node: len(node.replicas), default=None)

    def _emit_node(self, name: str, node: Node) -> None:
        self.event_log.emit(NODES, [(name, {"node": node_json(node)})])


def _definitions_on(node: Node) -> list[Definition]:
    return [replica.definition for replica in node.replicas.values()]
