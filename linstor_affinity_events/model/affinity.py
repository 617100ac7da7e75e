"""Which nodes may run a volume's pods, given where its data is."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from linstor_affinity_events.errors import BadPolicy
from linstor_affinity_events.model.keys import HOSTNAME_LABEL
from linstor_affinity_events.model.nodes import Labels
from linstor_affinity_events.model.policy import MAX_LABELS, Policy

Term = frozenset[tuple[str, str | None]]
"""Labels a node must carry, all of them; None as a value stands for any (operator Exists)."""

MOST_TERMS = 200
"""Terms are compared with each other. A resource has at most 32 replicas with DRBD."""

MOST_SIZE, LABEL_SIZE = 64 * 1024, 100
"""The most characters of all labels, each of which counts as that many more: every volume keeps its
affinity in memory. 200 terms of two labels of 60 characters have 64,000.
"""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class NodeAffinity:
    """The nodes that match any term; no terms at all means every node.

    Build it with `of`: then two affinities are equal exactly when they mean the same,
    regardless of order, duplicates, and terms that wider ones imply.
    """

    terms: frozenset[Term] = frozenset()

    @classmethod
    def of(cls, terms: Iterable[Term]) -> Self:
        unique = frozenset(map(_without_implied, terms))
        # A term without labels matches no node in Kubernetes, but here it means all nodes.
        if frozenset() in unique:
            return cls()
        longest = max(map(len, unique), default=0)
        # The others cover no term but themselves, and most affinities have no such term.
        wider = [t for t in unique if len(t) < longest or any(value is None for _, value in t)]
        return cls(frozenset(t for t in unique if not _is_covered(t, wider)))

    def admits(self, node: Labels) -> bool:
        """Whether the scheduler could put a pod on a node with these labels."""
        return not self.terms or any(
            all(key in node and value in {None, node[key]} for key, value in term)
            for term in self.terms
        )

    @property
    def labels(self) -> frozenset[str]:
        """The keys of all labels that a term requires."""
        return frozenset(key for term in self.terms for key, _ in term)

    def __str__(self) -> str:
        if not self.terms:
            return "everywhere"
        return " | ".join(",".join(map(pair_text, term)) for term in self._in_order())

    def _in_order(self) -> list[list[tuple[str, str | None]]]:
        return sorted((sorted(term, key=repr) for term in self.terms), key=repr)

    def manifest(self) -> dict[str, Any] | None:
        """As `spec.nodeAffinity` of a PersistentVolume; None if the field must be absent."""
        if not self.terms:
            return None
        terms = [
            {"matchExpressions": [_expression(key, value) for key, value in term]}
            for term in self._in_order()
        ]
        return {"required": {"nodeSelectorTerms": terms}}


def _without_implied(term: Term) -> Term:
    """The same term, without "exists" for a label whose value it requires."""
    if not any(value is None for _, value in term):
        return term
    return term - {(key, None) for key, value in term if value is not None}


def _is_covered(term: Term, others: Collection[Term]) -> bool:
    """Whether another term admits every node that this one admits."""
    if not others:
        return False
    implied = term.union((key, None) for key, _ in term)
    return any(other <= implied and other != term for other in others)


def _expression(key: str, value: str | None) -> dict[str, Any]:
    if value is None:
        return {"key": key, "operator": "Exists"}
    return {"key": key, "operator": "In", "values": [value]}


def pair_text(pair: tuple[str, str | None]) -> str:
    """One label of a term, as text for users."""
    key, value = pair
    return f"{key} exists" if value is None else f"{key}={value}"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ForeignAffinity:
    """An affinity of a form that this service never writes, so it equals none of ours."""

    text: str
    labels: frozenset[str] = frozenset()
    """The keys of all labels that it requires."""

    def __str__(self) -> str:
        return self.text


Affinity = NodeAffinity | ForeignAffinity

NO_AFFINITY = NodeAffinity()

DRIVER_NODES = NodeAffinity(frozenset({frozenset({(HOSTNAME_LABEL, None)})}))
"""Every node on which LINSTOR's CSI driver runs: it publishes this label in its topology."""

EVERYWHERE = frozenset({NO_AFFINITY, DRIVER_NODES})
"""The affinities that mean "everywhere", with and without --everywhere=driver."""


def read_affinity(spec: Mapping[str, Any]) -> Affinity:
    """Read `spec.nodeAffinity` of a PersistentVolume; absent means everywhere.

    A term that is not `In` with one value or `Exists` throughout, or has matchFields, makes it
    foreign. The reference controller compares in the same way, except for `Exists`. So do more
    terms, or labels in a term, or longer ones, than this service ever writes.
    """
    raw = spec.get("nodeAffinity")
    required = (raw or {}).get("required")
    if not required:
        return NO_AFFINITY
    if len(required.get("nodeSelectorTerms") or ()) > MOST_TERMS:
        return ForeignAffinity(f"not managed: more than {MOST_TERMS} terms", _keys(required))
    terms = []
    for raw_term in required.get("nodeSelectorTerms") or ():
        term = _read_term(raw_term)
        if not term or len(term) > MAX_LABELS:
            return ForeignAffinity(f"not managed: {str(raw_term)[:200]}", _keys(required))
        terms.append(term)
    if _size(terms) > MOST_SIZE:
        return ForeignAffinity("not managed: its labels are too long", _keys(required))
    return NodeAffinity.of(terms) if terms else ForeignAffinity("not managed: no terms")


def _keys(required: Mapping[str, Any]) -> frozenset[str]:
    """The keys of all labels, up to a size that this service itself may set: others may set an
    affinity of a megabyte.
    """
    keys = set[str]()
    size = 0
    for term in required.get("nodeSelectorTerms") or ():
        for expression in term.get("matchExpressions") or ():
            key = str(expression.get("key"))
            size += 0 if key in keys else LABEL_SIZE + len(key)
            if size > MOST_SIZE:
                return frozenset(keys)
            keys.add(key)
    return frozenset(keys)


def _size(terms: Iterable[Term]) -> int:
    return sum(LABEL_SIZE + len(key) + len(value or "") for term in terms for key, value in term)


def _read_term(raw: Mapping[str, Any]) -> Term | None:
    pairs: set[tuple[str, str | None]] = set()
    for expression in raw.get("matchExpressions") or ():
        key, values = str(expression.get("key")), expression.get("values") or []
        match expression.get("operator"), len(values):
            case "In", 1:
                pairs.add((key, str(values[0])))
            case "Exists", 0:
                pairs.add((key, None))
            case _:
                return None
    return None if raw.get("matchFields") else frozenset(pairs)


def desired_affinity(serving: Collection[Labels], policy: Policy) -> NodeAffinity:
    """Admit the nodes that share the labels of some rule with a node that has the data. Raises
    BadPolicy if that takes too many terms.

    Labels that a serving node lacks are left out of its terms, and an empty term opens the volume
    to every node, as in linstor-csi.
    """
    terms = frozenset(
        frozenset((key, labels[key]) for key in rule if key in labels)
        for labels in serving
        for rule in policy.rules
    )
    if frozenset() in terms:
        return NO_AFFINITY
    if len(terms) > MOST_TERMS:
        raise BadPolicy(
            f"it takes {len(terms)} terms for {len(serving)} nodes with data, and more than "
            f"{MOST_TERMS} are not set"
        )
    if _size(terms) > MOST_SIZE:
        raise BadPolicy(f"its labels for {len(serving)} nodes with data are too long")
    return NodeAffinity.of(terms)
