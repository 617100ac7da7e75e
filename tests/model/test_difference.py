"""A change of an affinity in few words."""

import pytest

from linstor_affinity_events.model.affinity import Affinity, ForeignAffinity, NodeAffinity
from linstor_affinity_events.model.difference import Difference, shown
from linstor_affinity_events.model.keys import HOSTNAME_LABEL

ZONE = "topology.kubernetes.io/zone"


def on(*nodes: str) -> NodeAffinity:
    return NodeAffinity.of(frozenset({(HOSTNAME_LABEL, node)}) for node in nodes)


def zones(*names: str) -> NodeAffinity:
    return NodeAffinity.of(frozenset({(ZONE, name)}) for name in names)


@pytest.mark.parametrize(
    ("was", "wanted", "goes", "comes", "stays"),
    [
        pytest.param(on("a", "b"), on("b", "c"), ["a"], ["c"], ["b"], id="move"),
        pytest.param(on("a"), on("a"), [], [], ["a"], id="same"),
        pytest.param(NodeAffinity(), on("a"), ["everywhere"], ["a"], [], id="first"),
        pytest.param(on("a"), NodeAffinity(), ["a"], ["everywhere"], [], id="opened"),
        pytest.param(on("a"), zones("z1"), ["a"], [f"{ZONE}=z1"], [], id="zone"),
        pytest.param(ForeignAffinity("odd"), on("a"), ["odd"], ["a"], [], id="foreign"),
    ],
)
def test_each_term_is_named_once(
    was: Affinity, wanted: Affinity, goes: list[str], comes: list[str], stays: list[str]
) -> None:
    found = Difference.of(was, wanted)

    assert (list(found.goes), list(found.comes), list(found.stays)) == (goes, comes, stays)


def test_a_term_of_several_labels_shows_them_all_in_order() -> None:
    affinity = NodeAffinity.of([frozenset({(ZONE, "z1"), (HOSTNAME_LABEL, "a")})])

    assert shown(affinity) == (f"{HOSTNAME_LABEL}=a,{ZONE}=z1",)
