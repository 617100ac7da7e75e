"""Policy texts come from anybody who may annotate a volume: none of them may do harm."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from linstor_affinity_events.adapters.kubernetes.policy_yaml import _cached, parse_policy
from linstor_affinity_events.model.policy import (
    EVERYWHERE,
    LOCAL_ONLY,
    MAX_LABELS,
    MAX_RULES,
    MAX_TEXT,
    Policy,
    Unreadable,
    widest,
)

BOMB = "\n".join(
    [
        "- &a0 [x, x, x, x, x, x, x, x, x]",
        *(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)),
    ]
)
QUADRATIC_BOMB = "- fromSame: &a [" + ", ".join(["zone"] * 300) + "]\n" + "- fromSame: *a\n" * 100

yamlish = st.text(alphabet="-[]{}:&*!?|>%@`'\"#,\n \\Ux0fromSame1\t", max_size=60)
labels = st.from_regex(r"[a-z]([a-z0-9./-]{0,20}[a-z0-9])?", fullmatch=True)


@given(text=st.text() | yamlish)
@example(text='"\\UFFFFFFFF"')
@example(text='"\\U00110000"')
@example(text='"\\ud800"')
@example(text="%YAML 9999999999.1\n---\n- a")
@example(text="&a [*a]")
@example(text="- fromSame: &a [*a]")
@example(text="- ? [a]\n  : b")
@example(text="- <<: {fromSame: [a]}")
@example(text="--- a\n--- b")
@example(text="!!python/object/apply:os.system [true]")
@example(text="\0")
def test_any_text_is_a_policy_or_reported_as_invalid(text: str) -> None:
    assert isinstance(parse_policy(text), Policy | Unreadable)


@given(rules=st.lists(st.frozensets(labels, max_size=4), max_size=4))
def test_rules_round_trip(rules: list[frozenset[str]]) -> None:
    lines = [f"- fromSame: [{', '.join(map(repr, sorted(rule)))}]" for rule in rules]

    policy = parse_policy("\n".join(lines) or "[]")

    assert policy == Policy(tuple(dict.fromkeys(rules)))


@given(
    text=st.sampled_from(["yes", "no", "on", "off", "null", "~", "1.0", "0x1", "1e3", "=", ".inf"])
)
def test_yaml_scalars_of_other_types_stay_text(text: str) -> None:
    assert parse_policy(f"- fromSame: [{text}]") == Policy((frozenset({text}),))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BOMB, id="billion laughs"),
        pytest.param("[" * 8000, id="open brackets"),
        pytest.param("[" * 2000 + "]" * 2000, id="deep brackets"),
        pytest.param("- " * 4000 + "x", id="deep lists"),
        pytest.param("{a: " * 2000 + "x" + "}" * 2000, id="deep objects"),
        pytest.param("x" * 1_000_000, id="a megabyte"),
        pytest.param("- fromSame: [zone]\n" * 60_000, id="a megabyte of rules"),
        pytest.param("&a " * 5000, id="anchors"),
        pytest.param("? " * 8000, id="keys"),
    ],
)
def test_a_monstrous_policy_is_unreadable(text: str) -> None:
    policy = parse_policy(text)

    assert isinstance(policy, Unreadable)
    assert len(policy.text) + len(policy.why) < 1000


@pytest.mark.parametrize("escape", [r"\ud800", r"\uDFFF", r"\U0000D800"])
def test_a_label_with_a_lone_surrogate_is_unreadable(escape: str) -> None:
    # It could be neither logged nor sent in an Event.
    assert isinstance(parse_policy(f'- fromSame: ["{escape}"]'), Unreadable)


def test_a_policy_of_many_aliases_stays_small() -> None:
    policy = parse_policy(QUADRATIC_BOMB)

    assert isinstance(policy, Unreadable)
    assert policy.why == f"more than {MAX_RULES} rules"


def test_equal_rules_are_merged() -> None:
    policy = parse_policy("- &a {fromSame: [zone, zone]}\n" + "- *a\n" * (MAX_RULES - 1))

    assert policy == Policy((frozenset({"zone"}),))


def test_the_number_of_rules_and_labels_is_limited() -> None:
    rules = [f"- fromSame: [z{number}]" for number in range(MAX_RULES + 1)]
    labels = [f"z{number}" for number in range(MAX_LABELS + 1)]

    assert isinstance(parse_policy("\n".join(rules[:-1])), Policy)
    assert isinstance(parse_policy("\n".join(rules)), Unreadable)
    assert isinstance(parse_policy(f"- fromSame: [{', '.join(labels[:-1])}]"), Policy)
    assert isinstance(parse_policy(f"- fromSame: [{', '.join(labels)}]"), Unreadable)


def test_the_limit_of_rules_holds_for_several_policies_together() -> None:
    rules = [Policy((frozenset({f"z{number}"}),)) for number in range(MAX_RULES + 1)]

    assert isinstance(widest(rules[:-1]), Policy)
    assert isinstance(widest(rules), Unreadable)
    assert widest([*rules, EVERYWHERE]) == EVERYWHERE


def test_cached_texts_are_few_and_short() -> None:
    _cached.cache_clear()

    for number in range(1000):
        parse_policy(f"{number}" + "x" * MAX_TEXT)
    assert _cached.cache_info().currsize == 0

    for number in range(1000):
        parse_policy(f"x{number}")
    assert _cached.cache_info().currsize == 256


@given(text=st.sampled_from(["1", "t", "T", "TRUE", "true", "True"]))
def test_true_values_of_go_mean_every_node(text: str) -> None:
    assert parse_policy(text) == EVERYWHERE


@given(text=st.sampled_from(["0", "f", "F", "FALSE", "false", "False"]))
def test_false_values_of_go_mean_local_only(text: str) -> None:
    assert parse_policy(text) == LOCAL_ONLY
