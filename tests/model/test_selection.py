"""Which volumes a person means."""

import dataclasses

import pytest

from linstor_affinity_events.model.affinity import ForeignAffinity, NodeAffinity
from linstor_affinity_events.model.keys import HOSTNAME_LABEL, VolumeKey
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName, Uid, node_name
from linstor_affinity_events.model.placement import Placement, Replica
from linstor_affinity_events.model.selection import Selection, is_called
from linstor_affinity_events.model.volume import Volume

VOLUME = Volume(
    name=PvName("pv-name"),
    uid=Uid("1"),
    handle="Pvc-Handle/1",
    key=VolumeKey(ResourceName("pvc-handle"), 1),
    affinity=NodeAffinity.of([frozenset({(HOSTNAME_LABEL, "Node-A")})]),
    created_at=0.0,
    claim=ClaimName(namespace="shop", name="orders"),
    storage_class="fast",
)


@pytest.mark.parametrize(
    "name",
    [
        "pv-name",
        "orders",
        "shop/orders",
        "pvc-handle",
        "PVC-HANDLE",
        "pvc-handle/1",
        "Pvc-Handle/1",
    ],
)
def test_a_volume_is_selected_by_any_of_its_names(name: str) -> None:
    assert is_called(name, VOLUME)


@pytest.mark.parametrize("name", ["", "pv", "other/orders", "pvc-handle/0", "PV-NAME"])
def test_a_volume_is_not_selected_by_other_names(name: str) -> None:
    assert not is_called(name, VOLUME)


def test_a_volume_without_claim_or_key_is_selected_by_its_name() -> None:
    minimal = dataclasses.replace(VOLUME, claim=None, key=None)

    assert is_called("pv-name", minimal)
    assert not is_called("orders", minimal)
    assert Selection().takes(minimal)
    assert not Selection(namespaces=frozenset({"shop"})).takes(minimal)


@pytest.mark.parametrize(
    ("selection", "takes"),
    [
        (Selection(), True),
        (Selection(namespaces=frozenset({"shop", "other"})), True),
        (Selection(namespaces=frozenset({"other"})), False),
        (Selection(storage_classes=frozenset({"fast"})), True),
        (Selection(storage_classes=frozenset({"slow"})), False),
        (Selection(names=("nobody", "orders")), True),
        (Selection(names=("orders",), storage_classes=frozenset({"slow"})), False),
    ],
)
def test_every_kind_of_selector_must_match(selection: Selection, takes: bool) -> None:
    assert selection.takes(VOLUME) is takes


@pytest.mark.parametrize(
    ("node", "takes"),
    [
        pytest.param("node-a", True, id="in-its-affinity"),
        pytest.param("node-b", True, id="with-a-replica"),
        pytest.param("node-c", False, id="neither"),
    ],
)
def test_a_node_is_selected_by_replica_or_affinity(node: str, takes: bool) -> None:
    placement = Placement(ResourceName("pvc-handle"), (Replica(node_name("node-b")),))
    selection = Selection(nodes=frozenset({node_name(node)}))

    assert selection.matches_node(VOLUME, placement) is takes
    assert selection.matches_node(VOLUME, None) is (node == "node-a")


@pytest.mark.parametrize("affinity", [None, ForeignAffinity("matchFields")])
def test_an_affinity_without_known_terms_names_no_node(
    affinity: NodeAffinity | ForeignAffinity | None,
) -> None:
    volume = dataclasses.replace(VOLUME, affinity=affinity or NodeAffinity.of([]))
    selection = Selection(nodes=frozenset({node_name("node-a")}))

    assert not selection.matches_node(volume, None)
    assert Selection().matches_node(volume, None)


def test_only_the_host_name_of_a_term_names_a_node() -> None:
    volume = dataclasses.replace(VOLUME, affinity=NodeAffinity.of([frozenset({("rack", "r1")})]))

    assert not Selection(nodes=frozenset({node_name("r1")})).matches_node(volume, None)
