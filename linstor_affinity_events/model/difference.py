"""A short description of an affinity change."""

from dataclasses import dataclass

from linstor_affinity_events.model.affinity import Affinity, NodeAffinity, Term, pair_text
from linstor_affinity_events.model.keys import HOSTNAME_LABEL


@dataclass(frozen=True, slots=True)
class Difference:
    """The terms of two affinities: unchanged, removed and added.

    A term that only names a node is shown as the node name, an affinity without terms as
    `everywhere`.
    """

    stays: tuple[str, ...]
    goes: tuple[str, ...]
    comes: tuple[str, ...]

    @classmethod
    def of(cls, was: Affinity, wanted: Affinity) -> "Difference":
        before, after = shown(was), shown(wanted)
        return cls(
            stays=tuple(term for term in before if term in after),
            goes=tuple(term for term in before if term not in after),
            comes=tuple(term for term in after if term not in before),
        )


def shown(affinity: Affinity) -> tuple[str, ...]:
    """The terms of an affinity as texts, in a stable order."""
    if not isinstance(affinity, NodeAffinity):
        return (str(affinity),)
    return tuple(sorted(_term(term) for term in affinity.terms)) or ("everywhere",)


def _term(term: Term) -> str:
    if len(term) == 1:
        [(key, value)] = term
        if key == HOSTNAME_LABEL:
            return value or "every node with the driver"
    return ",".join(map(pair_text, sorted(term, key=repr)))
