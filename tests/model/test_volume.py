"""When two observations of a volume lead to the same decision."""

from dataclasses import fields, replace
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.errors import BadPolicy
from linstor_affinity_events.model.affinity import (
    LABEL_SIZE,
    MOST_SIZE,
    MOST_TERMS,
    ForeignAffinity,
    NodeAffinity,
    desired_affinity,
    read_affinity,
)
from linstor_affinity_events.model.names import ClaimName, Uid
from linstor_affinity_events.model.policy import (
    LOCAL_ONLY,
    MAX_LABELS,
    MAX_RULES,
    MAX_TEXT,
    Policy,
    Unreadable,
)
from linstor_affinity_events.model.volume import Volume
from tests.model.manifests import volume

Json = dict[str, Any]


@pytest.fixture
def observed() -> Volume:
    found = describe(volume())
    assert found is not None
    return found


def test_another_incarnation_or_age_changes_no_decision(observed: Volume) -> None:
    assert observed.same_inputs(replace(observed, uid=Uid("another"), created_at=1.0))


COUNTS: Json = {
    "key": None,
    "affinity": NodeAffinity.of([frozenset({("a", "b")})]),
    "terminating": True,
    "phase": "Failed",
    "claim": ClaimName(namespace="other", name="other"),
    "skip": True,
    "storage_class": "another",
    "override": LOCAL_ONLY,
    "context": LOCAL_ONLY,
}
DOES_NOT_COUNT = {"name", "uid", "handle", "created_at", "marked", "made_by_us", "override_names"}
"""The incarnation, what a field above says as well, and what is decided by other news."""


def test_each_field_of_a_volume_is_a_decision_input_or_excluded() -> None:
    assert {field.name for field in fields(Volume)} == COUNTS.keys() | DOES_NOT_COUNT


@pytest.mark.parametrize("changed", [{name: value} for name, value in COUNTS.items()], ids=COUNTS)
def test_every_decision_input_is_compared(observed: Volume, changed: Json) -> None:
    assert not replace(observed, **changed).same_inputs(observed)


def test_an_affinity_of_another_form_names_all_its_labels() -> None:
    expressions = [{"key": "zone", "operator": "In", "values": ["a", "b"]}]
    more = [{"key": "rack", "operator": "In", "values": ["r"]}, {"key": "x", "operator": "Exists"}]
    terms = [{"matchExpressions": expressions}, {"matchExpressions": more}, {"matchFields": [1]}]

    found = read_affinity({"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}})

    assert isinstance(found, ForeignAffinity)
    assert found.labels == {"zone", "rack", "x"}
    assert found.text == f"not managed: {terms[0]}"


def test_an_affinity_without_terms_is_of_another_form() -> None:
    required = {"nodeSelectorTerms": [], "other": 1}

    found = read_affinity({"nodeAffinity": {"required": required}})

    assert found == ForeignAffinity("not managed: no terms")


@pytest.mark.parametrize(
    ("terms", "labels", "form"),
    [
        pytest.param(MOST_TERMS, 1, NodeAffinity, id="most terms"),
        pytest.param(MOST_TERMS + 1, 1, ForeignAffinity, id="more terms"),
        pytest.param(1, MAX_LABELS, NodeAffinity, id="most labels"),
        pytest.param(1, MAX_LABELS + 1, ForeignAffinity, id="more labels"),
    ],
)
def test_an_affinity_of_more_parts_than_are_ever_set_is_of_another_form(
    terms: int, labels: int, form: type
) -> None:
    """Its terms are not compared with each other, which takes time for each pair."""
    required = {
        "nodeSelectorTerms": [
            {
                "matchExpressions": [
                    {"key": f"label-{label}", "operator": "In", "values": [f"value-{term}"]}
                    for label in range(labels)
                ]
            }
            for term in range(terms)
        ]
    }

    found = read_affinity({"nodeAffinity": {"required": required}})

    assert isinstance(found, form)
    assert found.labels == {f"label-{label}" for label in range(labels)}


def test_of_an_affinity_with_very_many_labels_only_some_are_kept() -> None:
    """Whoever may update a volume without affinity can set one of a megabyte."""
    expressions = [{"key": f"label-{n}", "operator": "Exists"} for n in range(10**5)]

    found = read_affinity(
        {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}}
    )

    assert isinstance(found, ForeignAffinity)
    assert 100 < len(found.labels) <= MOST_SIZE / LABEL_SIZE
    assert len(found.text) < 300


def test_no_long_handle_or_class_of_a_volume_is_kept() -> None:
    """The API server accepts texts of a megabyte there."""
    manifest = volume()
    manifest["spec"]["storageClassName"] = "x" * 10**6
    manifest["spec"]["csi"]["volumeHandle"] = "pvc-" + "x" * 10**6

    found = describe(manifest)

    assert found is not None
    assert found.key is None
    assert len(found.handle) < 200
    assert len(found.storage_class) < 200


@pytest.mark.parametrize(("length", "form"), [(60, NodeAffinity), (64, ForeignAffinity)])
def test_an_affinity_of_longer_labels_than_are_ever_set_is_of_another_form(
    length: int, form: type
) -> None:
    """Every volume keeps its affinity in memory."""
    required = {
        "nodeSelectorTerms": [
            {
                "matchExpressions": [
                    {"key": f"{term}-{label}", "operator": "In", "values": ["v"]}
                    for label in ("a" * (length - 5), "b" * (length - 5))
                ]
            }
            for term in range(100, 100 + MOST_TERMS)
        ]
    }

    found = read_affinity({"nodeAffinity": {"required": required}})

    assert isinstance(found, form)
    assert sum(LABEL_SIZE + len(label) for label in found.labels) <= MOST_SIZE


def test_labels_that_no_affinity_may_have_are_not_wanted_either() -> None:
    """What this service sets has to be of its own form when it is read."""
    rules = tuple(frozenset({f"rule-{rule}", "zone"}) for rule in range(8))
    labels = {f"rule-{rule}": "r" * 63 for rule in range(8)}
    nodes = [{**labels, "zone": str(node)} for node in range(20)]
    desired_affinity(nodes, Policy(rules))

    longer = [{**each, "zone": "z" * 300 + each["zone"]} for each in nodes]
    with pytest.raises(BadPolicy, match="too long"):
        desired_affinity(longer, Policy(rules))


def test_of_very_many_override_annotations_only_some_names_are_kept() -> None:
    annotations = {f"override.piraeus.io/{n}": "" for n in range(10**4)}

    found = describe(volume(metadata={"annotations": annotations}))

    assert found is not None
    assert isinstance(found.override, Unreadable)
    assert len(found.override_names) == MAX_RULES + 1


def test_the_overrides_of_a_volume_are_parsed_up_to_a_total_length() -> None:
    def volume_with(*texts: str) -> Volume:
        annotations = {f"override.piraeus.io/{n}": text for n, text in enumerate(texts)}
        found = describe(volume(metadata={"annotations": annotations}))
        assert found is not None
        return found

    half = "- fromSame: [" + "a" * (MAX_TEXT // 2 - 20) + "]"
    assert isinstance(volume_with(half, half).override, Policy)
    assert isinstance(volume_with(half, half, half).override, Unreadable)
    nested = volume_with("- " * 1000 + "a").override
    assert isinstance(nested, Unreadable)
    assert "too many brackets" in nested.why
