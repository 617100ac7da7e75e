"""Volume handles come from outside: whatever they are, the response is a key or a refusal."""

from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.errors import BadHandle
from linstor_affinity_events.model.keys import VolumeKey, parse_handle
from linstor_affinity_events.model.names import ResourceName

NAMES = st.from_regex(r"[a-z_][a-z0-9_-]{1,47}", fullmatch=True)
NUMBERS = st.integers(0, 65535)


def parsed(handle: str) -> VolumeKey | None:
    try:
        return parse_handle(handle)
    except BadHandle:
        return None


@given(name=NAMES, number=NUMBERS)
def test_a_key_round_trips(name: str, number: int) -> None:
    key = VolumeKey(ResourceName(name), number)

    assert parse_handle(str(key)) == key


@given(name=NAMES, number=NUMBERS, zeros=st.integers(0, 5))
def test_case_and_leading_zeros_do_not_matter(name: str, number: int, zeros: int) -> None:
    handle = f"{name.upper()}/{'0' * zeros}{number}"

    assert parse_handle(handle) == VolumeKey(ResourceName(name), number)


@given(handle=st.text(alphabet=st.characters()) | st.from_regex(r".{0,5}/.{0,8}"))
def test_any_text_is_a_key_or_rejected(handle: str) -> None:
    key = parsed(handle)

    assert key is None or parsed(str(key)) == key


@given(name=NAMES, number=st.integers(65536))
def test_any_large_number_is_rejected(name: str, number: int) -> None:
    assert parsed(f"{name}/{number}") is None


@given(name=NAMES, digits=st.integers(4000, 20_000))
def test_any_long_handle_is_rejected(name: str, digits: int) -> None:
    assert parsed(f"{name}/{'9' * digits}") is None
