"""Kubernetes resource quantities, and the memory that texts take."""

import re
from collections.abc import Iterable
from decimal import Decimal

_FORM = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)(?:([eE][+-]?\d{1,3})|([numkKMGTPE]i?))?")
_UNITS = {
    **{unit + "i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{unit: Decimal(1000) ** -power for power, unit in enumerate("mun", start=1)},
}


_LONGEST = 40
"""Kubernetes keeps 18 digits; a text of a million would take its time."""


def quantity(text: str) -> Decimal | None:
    """Read `1Gi`, `500M`, `1e9`, ...; None for anything else. Source: Kubernetes' apimachinery."""
    form = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if form is None:
        return None
    number, exponent, unit = form.groups()
    if unit and unit not in _UNITS:
        return None
    return Decimal(number + (exponent or "")) * _UNITS.get(unit or "", Decimal(1))


def memory_of(texts: Iterable[str]) -> int:
    """About how many bytes Python keeps for these texts. Many short ones take more than one long
    one, and characters outside of ASCII take up to four bytes.
    """
    return sum(64 + len(text) * (1 if text.isascii() else 4) for text in texts)
