"""The labels that LINSTOR's nodes have for policies."""

import pytest

from linstor_affinity_events.model.names import node_name
from linstor_affinity_events.model.nodes import (
    EITHER_NAMESPACE,
    LONGEST_KEY,
    LONGEST_VALUE,
    Nodes,
    namespace_of,
)

HOST = "Aux/topology/kubernetes.io/hostname"
ZONE, PLAIN_ZONE = "Aux/topology/zone", "Aux/zone"


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, "Aux"),
        ({ZONE: "a"}, "Aux"),
        ({HOST: "n1"}, "Aux/topology"),
        ({HOST: ""}, "Aux/topology"),
        ({HOST: "n1", PLAIN_ZONE: "a"}, "Aux/topology"),
    ],
)
def test_the_host_name_decides_the_namespace(properties: dict[str, str], expected: str) -> None:
    assert namespace_of(properties) == expected


def test_each_node_has_the_labels_of_its_own_namespace_and_its_name() -> None:
    nodes = Nodes.read({"N1": {HOST: "h", ZONE: "a", PLAIN_ZONE: "b"}, "n2": {PLAIN_ZONE: "c"}})

    assert nodes.namespace == EITHER_NAMESPACE == "Aux/topology or Aux"
    assert nodes.labels == {
        node_name("N1"): {
            "kubernetes.io/hostname": "h",
            "zone": "a",
            "linbit.com/hostname": "N1",
        },
        node_name("n2"): {"zone": "c", "linbit.com/hostname": "n2"},
    }


@pytest.mark.parametrize("given", ["Aux/own", "/Aux/own/", "Aux/own/"])
def test_a_configured_namespace_applies_to_all_nodes(given: str) -> None:
    properties = {"n1": {HOST: "h", "Aux/own/zone": "a", "Aux/owner": "b"}}

    nodes = Nodes.read(properties, namespace=given)

    assert nodes.namespace == "Aux/own"
    assert nodes.labels == {node_name("n1"): {"zone": "a", "linbit.com/hostname": "n1"}}


def test_the_labels_that_any_node_has_are_known() -> None:
    nodes = Nodes.read({"n1": {PLAIN_ZONE: "a"}, "n2": {}})

    assert nodes.all_labels == {"zone", "linbit.com/hostname"}


def test_no_longer_labels_are_kept_than_kubernetes_accepts() -> None:
    """A value that is too long stays too long, so that it is never taken for another one."""
    value, key = "v" * LONGEST_VALUE, "k" * LONGEST_KEY
    properties = {f"Aux/{key}": value, "Aux/a": f"{value}{value}", f"Aux/{key}k": value}

    labels = Nodes.read({"n1": properties}).labels[node_name("n1")]

    assert labels == {key: value, "a": f"{value}v", "linbit.com/hostname": "n1"}
