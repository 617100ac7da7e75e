"""What must hold for every placement, not only for the ones we thought of."""

from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.model.affinity import (
    NodeAffinity,
    Term,
    desired_affinity,
    read_affinity,
)
from linstor_affinity_events.model.keys import HOSTNAME_LABEL as HOST
from linstor_affinity_events.model.names import NodeName
from linstor_affinity_events.model.nodes import Labels, Nodes
from linstor_affinity_events.model.policy import EVERYWHERE, LOCAL_ONLY, Policy

ZONE, RACK = "topology.kubernetes.io/zone", "rack"
NODES = Nodes.read(
    {
        f"node-{letter}": {
            f"Aux/{ZONE}": f"zone-{number % 3}",
            # Every other node lacks this label.
            **({f"Aux/{RACK}": f"rack-{number % 2}"} if number % 2 else {}),
        }
        for number, letter in enumerate("abcdef")
    }
).labels

at_least_one_node = st.frozensets(st.sampled_from(sorted(NODES)), min_size=1)
rules = st.lists(st.frozensets(st.sampled_from([HOST, ZONE, RACK])), max_size=4)
pairs = {(key, value) for labels in NODES.values() for key, value in labels.items()}
pairs_and_exists = sorted(pairs | {(key, None) for key, _ in pairs}, key=repr)
terms = st.frozensets(st.sampled_from(pairs_and_exists), max_size=4)
texts = st.text(max_size=20)
any_terms = st.frozensets(st.tuples(texts, st.none() | texts), min_size=1, max_size=4)


def labels_of(serving: frozenset[NodeName]) -> list[Labels]:
    return [NODES[node] for node in serving]


def admitted(affinity: NodeAffinity) -> set[NodeName]:
    return {node for node, labels in NODES.items() if affinity.admits(labels)}


def matches(term: Term, labels: Labels) -> bool:
    return all(key in labels and value in {None, labels[key]} for key, value in term)


@given(serving=at_least_one_node)
def test_local_only_admits_exactly_the_nodes_that_serve(serving: frozenset[NodeName]) -> None:
    affinity = desired_affinity(labels_of(serving), LOCAL_ONLY)

    assert admitted(affinity) == serving


@given(serving=at_least_one_node)
def test_everywhere_admits_every_node(serving: frozenset[NodeName]) -> None:
    affinity = desired_affinity(labels_of(serving), EVERYWHERE)

    assert admitted(affinity) == set(NODES)


@given(serving=at_least_one_node, rules=rules)
def test_no_rule_excludes_a_node_with_data(
    serving: frozenset[NodeName], rules: list[frozenset[str]]
) -> None:
    affinity = desired_affinity(labels_of(serving), Policy(tuple(rules)))

    assert admitted(affinity) >= serving


@given(serving=at_least_one_node, rules=rules, more=rules)
def test_an_additional_rule_never_excludes_a_node(
    serving: frozenset[NodeName], rules: list[frozenset[str]], more: list[frozenset[str]]
) -> None:
    few = desired_affinity(labels_of(serving), Policy((*rules, frozenset({HOST}))))
    many = desired_affinity(labels_of(serving), Policy((*rules, frozenset({HOST}), *more)))

    assert admitted(few) <= admitted(many)


@given(serving=st.permutations(sorted(NODES)), rules=rules, number=st.integers(1, 6))
def test_the_order_of_nodes_and_rules_does_not_matter(
    serving: list[NodeName], rules: list[frozenset[str]], number: int
) -> None:
    chosen = [NODES[node] for node in serving[:number]]

    affinity = desired_affinity(chosen, Policy(tuple(rules)))

    assert affinity == desired_affinity(chosen[::-1], Policy(tuple(rules[::-1])))


@given(messy=st.lists(terms.filter(bool), max_size=6))
def test_normalizing_terms_does_not_change_the_admitted_nodes(messy: list[Term]) -> None:
    tidy = NodeAffinity.of(messy)

    assert admitted(tidy) == {
        node
        for node, labels in NODES.items()
        if not messy or any(matches(term, labels) for term in messy)
    }


@given(key=texts, value=texts)
def test_a_label_with_a_value_exists(key: str, value: str) -> None:
    exists, equals = {"key": key, "operator": "Exists"}, {"key": key, "operator": "In"}
    term = {"matchExpressions": [exists, {**equals, "values": [value]}]}
    spec = {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}

    assert read_affinity(spec) == NodeAffinity.of([frozenset({(key, value)})])


@given(messy=st.lists(terms, max_size=6))
def test_normalizing_is_idempotent(messy: list[Term]) -> None:
    tidy = NodeAffinity.of(messy)

    assert NodeAffinity.of(tidy.terms) == tidy


@given(found=st.lists(any_terms, max_size=5))
def test_an_affinity_round_trips(found: list[Term]) -> None:
    affinity = NodeAffinity.of(found)

    assert read_affinity({"nodeAffinity": affinity.manifest()}) == affinity


@given(found=st.lists(any_terms, max_size=5))
def test_an_affinity_is_written_the_same_way_whatever_the_order(found: list[Term]) -> None:
    one, other = NodeAffinity.of(found), NodeAffinity.of(found[::-1])

    assert one.manifest() == other.manifest()
    assert str(one) == str(other)
