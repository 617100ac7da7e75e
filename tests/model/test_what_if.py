"""Questions about another picture of the world."""

from linstor_affinity_events.model.keys import HOSTNAME_LABEL
from linstor_affinity_events.model.names import NodeName, ResourceName
from linstor_affinity_events.model.nodes import Nodes
from linstor_affinity_events.model.placement import Definition, Placement, Replica
from linstor_affinity_events.model.what_if import WhatIf

A, B, C = NodeName("a"), NodeName("b"), NodeName("c")
RD = ResourceName("pvc-1")
NOW = Placement(RD, (Replica(A), Replica(B, frozenset({"DISKLESS"}))))


def test_without_assumptions_nothing_changes() -> None:
    question = WhatIf()

    assert not question
    assert question.placement(RD, NOW) == NOW
    assert question.placement(RD, None) is None
    assert question.definition(RD, None) is None


def test_a_removed_node_has_no_replicas_and_labels() -> None:
    question = WhatIf(gone=frozenset({A}))
    nodes = Nodes(labels={A: {HOSTNAME_LABEL: "a"}, B: {HOSTNAME_LABEL: "b"}})

    altered = question.placement(RD, NOW)

    assert altered is not None
    assert [replica.node for replica in altered.replicas] == [B]
    assert question.nodes(nodes).labels.keys() == {B}


def test_replicas_that_are_not_known_stay_unknown_without_a_node() -> None:
    unknown = Placement(RD, unreadable=True)

    assert WhatIf(gone=frozenset({A})).placement(RD, unknown) == unknown


def test_assumed_replicas_replace_all_others() -> None:
    altered = WhatIf(replicas={RD: (C,)}).placement(RD, NOW)

    assert altered is not None
    assert altered.serving_nodes == {C}


def test_an_assumed_replica_on_a_removed_node_is_removed_too() -> None:
    altered = WhatIf(gone=frozenset({C}), replicas={RD: (B, C)}).placement(RD, NOW)

    assert altered is not None
    assert altered.serving_nodes == {B}


def test_a_resource_lost_by_linstor_can_be_assumed_to_exist() -> None:
    question = WhatIf(replicas={RD: (C,)})

    assert question.definition(RD, None) == Definition(resource=RD)
    assert question.placement(RD, None) == Placement(RD, (Replica(C),))


def test_either_assumption_makes_it_a_what_if() -> None:
    assert WhatIf(gone=frozenset({A}))
    assert WhatIf(replicas={RD: (C,)})


def test_the_result_is_a_placement_of_the_same_resource() -> None:
    left = WhatIf(gone=frozenset({A})).placement(RD, NOW)

    assert left == Placement(RD, NOW.replicas[1:])
    assert WhatIf(gone=frozenset({A})).placement(RD, None) is None
