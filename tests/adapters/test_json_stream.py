"""Long arrays in pieces: the same elements as in one piece, however it is cut."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.adapters.linstor.json_stream import Objects, Overlong
from linstor_affinity_events.errors import Unreachable

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
objects = st.lists(st.dictionaries(st.text(), trees, max_size=4), max_size=8)


def taken(pieces: list[bytes], **options: Any) -> list[Any]:
    reader = Objects("LINSTOR", **options)
    found = [each for piece in pieces for each in reader.feed(piece)]
    return [*found, *reader.feed(b"", last=True)]


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@given(given=objects, size=st.integers(1, 50), indent=st.sampled_from([None, 0, 3]))
def test_an_array_cut_into_chunks_anywhere_is_parsed_the_same(
    given: list[Any], size: int, indent: int | None
) -> None:
    body = json.dumps(given, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")
    try:
        body.decode()
    except UnicodeDecodeError:
        return

    assert taken(cut(body, size)) == given


def test_half_a_surrogate_pair_is_replaced() -> None:
    """No encoding has one, so that a name or a text with it could neither be sent nor hashed."""
    body = rb'[{"\ud800": ["\ud800 \udc00"], "b": "\ud83d\ude00"}]'

    assert taken([body]) == [{"?": ["? ?"], "b": "\U0001f600"}]


@given(body=st.binary(max_size=200), size=st.integers(1, 20))
def test_any_input_is_an_array_of_objects_or_an_error(body: bytes, size: int) -> None:
    try:
        found = taken(cut(body, size))
    except Unreachable:
        return

    assert found == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"[", b"{}", b"null", b"[1]", b'["a"]', b"[null]", b"[[]]", b"[{}"),
        *(b"[{},]", b"[,{}]", b"[{}{}]", b"[{},,{}]", b"[{}]]", b"[{}] x", b"x[{}]", b'[{"a":}]'),
        *(b"\xff", b'[{"a":"\xff"}]', b"[" * 100_000, b'[{"a":' * 100_000),
        *(b'[{"a":NaN}]', b'[{"a":-Infinity}]', b'[{"a":' + b"1" * 5000 + b"}]"),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_anything_else_is_rejected(body: bytes) -> None:
    for size in (1000, 7):
        with pytest.raises(Unreachable):
            taken(cut(body, size))


def test_the_error_names_the_response_and_quotes_it() -> None:
    with pytest.raises(Unreachable, match=r"LINSTOR did not return a list of objects \('<html>"):
        taken([b"<html>"])


blanks = st.text(" \n\t\r", max_size=3)
named = st.fixed_dictionaries(
    {"name": st.text("ab-1", min_size=1, max_size=8)}, optional={"x": trees}
)


@given(
    given=st.lists(st.tuples(st.dictionaries(st.text(), trees) | named, blanks, blanks)),
    size=st.integers(1, 60),
    longest=st.integers(30, 80),
    escape=st.booleans(),
)
def test_elements_that_are_too_long_are_skipped_and_no_others(
    given: list[tuple[dict[str, Any], str, str]], size: int, longest: int, escape: bool
) -> None:
    texts = [json.dumps(tree, ensure_ascii=escape) for tree, _, _ in given]
    parts = [before + text + after for text, (_, before, after) in zip(texts, given, strict=True)]
    body = ("[" + ",".join(parts) + "]").encode(errors="replace")
    # A blank between two elements counts as a part of what is too long.
    expected = [
        Overlong(tree["name"] if next(iter(tree)) == "name" and is_plain(tree["name"]) else "")
        if len(text) > longest
        else tree
        for tree, text in zip(json.loads(body), texts, strict=True)
    ]

    assert taken(cut(body, size), longest=longest) == expected


def is_plain(value: object) -> bool:
    """Whether it is a text that JSON writes as it is."""
    return isinstance(value, str) and bool(value) and json.dumps(value)[1:-1] == value


def test_an_element_with_brackets_and_quotes_in_its_strings_is_skipped_to_its_end() -> None:
    long = {"name": "a", "props": {'"]}\\': ['}],{"name": "b"}]', "\\", {}, [[]]] * 50}}
    body = json.dumps([long, {"name": "c"}, long]).encode()

    for size in (1, 2, 3, 7, 100, len(body)):
        found = taken(cut(body, size), longest=100)
        assert found == [Overlong("a"), {"name": "c"}, Overlong("a")]


@pytest.mark.parametrize("end", ["", "}", "}]}", "}}]", "},]", "} {}]", "}, 1]"])
def test_an_array_is_rejected_if_it_is_not_valid_after_an_element_that_is_too_long(
    end: str,
) -> None:
    with pytest.raises(Unreachable):
        taken([b'[{"a": "' + b"x" * 1000 + b'"', end.encode()], longest=100)


def test_an_element_that_is_not_valid_is_not_skipped() -> None:
    with pytest.raises(Unreachable):
        taken(cut(b'[{"a":},' + b'{"b": 1},' * 100 + b"{}]", 10), longest=50)


def test_an_element_without_end_is_rejected() -> None:
    with pytest.raises(Unreachable):
        taken([b'[{"a": "', *[b"x" * 1000] * 50], longest=10_000)


def test_an_element_in_many_chunks_is_not_parsed_again_with_each() -> None:
    class Counting(Objects):
        tries = 0

        def _whole(self) -> Any:
            self.tries += 1
            return super()._whole()

    reader = Counting("LINSTOR")
    body = json.dumps([{"a": "x" * 100_000}]).encode()

    found = [each for piece in cut(body, 100) for each in reader.feed(piece)]
    found += reader.feed(b"", last=True)

    assert len(found) == 1
    assert reader.tries < 30


def test_no_depth_is_an_error_of_another_kind() -> None:
    """Escapes have an element written again, which takes more of the stack than to parse it."""
    for depth in range(700, 1100):
        nested = b"[" * depth + b"]" * depth
        objects = Objects("it")
        with suppress(Unreachable):
            list(objects.feed(b'[{"name":"n","x":%s,"y":"\\u0041"}]' % nested, last=True))
