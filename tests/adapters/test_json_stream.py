"""Long arrays in pieces: the same elements as in one piece, however it is cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.adapters.linstor.json_stream import Objects
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
