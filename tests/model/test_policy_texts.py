"""How policies are written for people, and which part of a policy's text is reported as wrong."""

import pytest

from linstor_affinity_events.model.keys import HOSTNAME_LABEL
from linstor_affinity_events.model.policy import (
    EVERYWHERE,
    LOCAL_ONLY,
    Policy,
    PolicyReading,
    StorageClass,
    Unreadable,
    read_policy,
)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (EVERYWHERE, "everywhere"),
        (LOCAL_ONLY, "local only"),
        (Policy((frozenset({"zone", "rack"}),)), "same rack+zone"),
        (
            Policy((frozenset({HOSTNAME_LABEL}), frozenset({"zone"}))),
            f"same {HOSTNAME_LABEL} or same zone",
        ),
        (Policy((frozenset({"zone"}), frozenset())), "same zone or any"),
    ],
)
def test_policies_are_described_in_words(policy: Policy, text: str) -> None:
    assert str(policy) == text


@pytest.mark.parametrize(
    ("tree", "reported"),
    [
        (1, "neither true nor false nor a list of {fromSame: [label, ...]}"),
        ([{}, {"fromsame": []}], "rule 2 is not of the form fromSame: [label, ...]"),
        ([{"fromSame": "zone"}], "rule 1: fromSame is not a list of label names"),
        ([{"fromSame": ["x"] * 17}], "rule 1: more than 16 labels"),
        ([{}] * 17, "more than 16 rules"),
    ],
    ids=str,
)
def test_the_invalid_rule_is_named(tree: object, reported: str) -> None:
    assert read_policy("text", lambda _: tree) == Unreadable("text", reported)


def test_a_rule_without_labels_admits_every_node() -> None:
    assert read_policy("- {}", lambda _: [{}]) == EVERYWHERE


def test_the_spelling_with_the_prefix_wins_whatever_the_order() -> None:
    prefixed, short = "linstor.csi.linbit.com/allowRemoteVolumeAccess", "allowRemoteVolumeAccess"

    def reading(text: str) -> PolicyReading:
        return Unreadable(text, "reported")

    for keys in ((prefixed, short), (short, prefixed)):
        parameters = {key: key for key in keys}
        assert StorageClass.read("a", parameters, reading).policy == Unreadable(
            prefixed, "reported"
        )
    others = StorageClass.read("a", {"csi.storage.k8s.io/allowRemoteVolumeAccess": "x"}, reading)
    assert (others.name, others.policy) == ("a", None)
    assert (others.context_options, others.commands) == ("", "")
