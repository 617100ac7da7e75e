"""Storage sizes as Kubernetes writes them."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.model.quantity import quantity


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1024", 1024),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1M", 1000**2),
        ("1Mi", 1024**2),
        ("1Gi", 1024**3),
        ("1Ti", 1024**4),
        ("1Pi", 1024**5),
        ("1Ei", 1024**6),
        ("2E", 2 * 1000**6),
        ("1.5Gi", 3 * 1024**3 // 2),
        (".5Ki", 512),
        ("1.", 1),
        ("1e9", 10**9),
        ("1E9", 10**9),
        ("5e-1", Decimal("0.5")),
        ("100m", Decimal("0.1")),
        ("+1Gi", 1024**3),
        ("-1", -1),
    ],
)
def test_a_quantity_is_a_number_with_a_unit(text: str, size: int | Decimal) -> None:
    assert quantity(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Gi",
        "1 Gi",
        "1gi",
        "1KI",
        "1ki",
        "1mi",
        "1GiB",
        "1e",
        "1e9999",
        "--1",
        "0x1",
        "NaN",
        ".",
    ],
)
def test_anything_else_is_not_a_quantity(text: str) -> None:
    assert quantity(text) is None


@given(text=st.text(alphabet="0123456789.eE+-numkKMGTPi ²٣", max_size=12))
def test_no_text_raises(text: str) -> None:
    size = quantity(text)

    assert size is None or size.is_finite()


@pytest.mark.parametrize("text", ["1" * 41, "0." + "1" * 39, "1" * 10_000_000])
def test_a_text_longer_than_any_quantity_is_not_a_quantity(text: str) -> None:
    assert quantity(text) is None
