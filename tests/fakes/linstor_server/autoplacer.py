"""Where LINSTOR's autoplacer would put replicas; pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.fakes.linstor_server.objects import Definition, Node, folded

POOL = "fpool"
"""The only pool with room that nodes have here."""

_NO_TIE_BREAKER = "DrbdOptions/auto-add-quorum-tiebreaker"


class NotEnoughNodes(Exception):
    """Fewer nodes than asked for can take a replica."""


def choose_nodes(
    definition: Definition,
    nodes: Mapping[str, Node],
    of_group: Mapping[str, Any],
    asked: Mapping[str, Any],
) -> list[Node]:
    """The nodes that get a diskful replica now; what the request leaves open, the group says.

    Without an additional count, replicas that are there already count as placed.
    """
    wish = {**of_group, **{key: value for key, value in asked.items() if value}}
    diskful = [each for each in definition.replicas.values() if each.diskful]
    missing = int(wish.get("additional_place_count", 0))
    if not missing:
        missing = int(wish.get("place_count", 1)) - len(diskful)
    if missing <= 0:
        return []
    pools = wish.get("storage_pool_list") or ()
    allowed = {folded(name) for name in wish.get("node_name_list") or nodes}
    free = [
        node
        for key, node in nodes.items()
        if node.healthy and key in allowed and key not in definition.replicas
    ]
    if len(free) < missing or (pools and POOL not in pools):
        raise NotEnoughNodes
    return sorted(free, key=lambda node: len(node.replicas))[:missing]


def tie_breaker(definition: Definition, nodes: Iterable[Node]) -> Node | None:
    """Where a third voice goes once two replicas with a disk are there."""
    replicas = definition.replicas
    diskful = [each for each in replicas.values() if each.diskful]
    wanted = definition.has_drbd and definition.props.get(_NO_TIE_BREAKER) != "False"
    if not wanted or len(diskful) != 2 or len(replicas) > 2:
        return None
    free = (node for node in nodes if node.healthy and folded(node.name) not in replicas)
    return next(free, None)
