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
    widest,
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


TREE = [{"fromSame": ["zone"]}]
TOO_MANY = "too many brackets, commas or lines"


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("x" * 4096, None),
        ("x" * 4097, "longer than 4096 characters"),
        ("[" * 32 + "{" * 20 + "?" * 12, None),
        ("[" * 65, TOO_MANY),
        ("{" * 65, TOO_MANY),
        ("?" * 65, TOO_MANY),
        ("[" * 32 + "{" * 20 + "?" * 13, TOO_MANY),
        ("," * 200 + "\n" * 200, None),
        ("," * 401, TOO_MANY),
        ("\n" * 401, TOO_MANY),
        ("," * 200 + "\n" * 201, TOO_MANY),
    ],
    ids=lambda value: f"{len(value)} characters" if value and len(value) > 40 else str(value),
)
def test_a_text_is_parsed_up_to_its_limits(text: str, reported: str | None) -> None:
    """The tree is the same for each text: only the limits tell them apart."""
    expected = Policy((frozenset({"zone"}),)) if not reported else Unreadable(text[:80], reported)

    assert read_policy(text, lambda _: TREE) == expected


def test_what_is_quoted_of_an_unreadable_policy_is_short() -> None:
    assert read_policy("x" * 300, lambda _: None) == Unreadable(
        "x" * 200, "neither true nor false nor a list of {fromSame: [label, ...]}"
    )


@pytest.mark.parametrize(
    "label", ["", "a\nb", 7, None], ids=["empty", "two lines", "number", "null"]
)
def test_a_label_is_a_text_that_can_be_printed(label: object) -> None:
    reading = read_policy("text", lambda _: [{"fromSame": ["zone", label]}])

    assert reading == Unreadable("text", "rule 1: fromSame is not a list of label names")


def test_policies_together_have_the_rules_of_each_once() -> None:
    zone, rack = frozenset({"zone"}), frozenset({"rack"})

    assert widest([Policy((zone,)), Policy((rack, zone))]) == Policy((zone, rack))
    assert widest([LOCAL_ONLY, Unreadable("text", "why")]) == Unreadable("text", "why")
    assert widest([Unreadable("text", "why"), EVERYWHERE]) == EVERYWHERE


def test_the_rules_of_several_policies_have_a_limit_together() -> None:
    rules = [frozenset({f"zone-{number}"}) for number in range(17)]

    assert widest([Policy(tuple(rules[:8])), Policy(tuple(rules[:16]))]) == Policy(
        tuple(rules[:16])
    )
    assert widest([Policy(tuple(rules[:8])), Policy(tuple(rules[8:]))]) == Unreadable(
        "", "more than 16 rules together"
    )


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
    assert (others.context_options, others.commands, others.file_system) == ("", "", "")


@pytest.mark.parametrize("short", ["placementPolicy", "PLACEMENTPOLICY"])
def test_the_prefix_wins_over_a_key_that_sorts_behind_it(short: str) -> None:
    prefixed = "linstor.csi.linbit.com/placementPolicy"

    def balanced(parameters: dict[str, str]) -> bool:
        return StorageClass.read("a", parameters, lambda text: Unreadable(text, "")).balanced

    assert balanced({prefixed: "Balanced", short: "AutoPlace"})
    assert not balanced({short: "Balanced", prefixed: "AutoPlace"})


def test_long_options_of_a_class_and_those_of_other_drivers_are_not_kept() -> None:
    """Whoever may write StorageClasses can write a megabyte into each."""

    def options(text: str, *, is_ours: bool = True) -> set[object]:
        known = StorageClass.read(
            "a",
            {"mountOpts": text, "postMountXfsOpts": text, "csi.storage.k8s.io/fstype": text},
            lambda _: LOCAL_ONLY,
            is_ours=is_ours,
            mount_options=[text],
        )
        kept = known.context_options, known.commands, known.file_system, *known.mount_options
        return {*kept}

    assert options("noatime") == {"noatime"}
    assert options("noatime", is_ours=False) == {""}
    assert options("x" * 10**6) == {""}
    assert (
        StorageClass.read("a", {}, lambda _: LOCAL_ONLY, mount_options=[""] * 10**5).mount_options
        == ()
    )
