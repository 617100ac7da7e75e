"""What people wanted, and so what has to hold: always, and once everything is at rest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from linstor_affinity_events.model.keys import (
    BOUND_BY_CONTROLLER,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_ANNOTATION,
)
from linstor_affinity_events.model.markers import has_any_marker

Json = dict[str, Any]

EDIT = "example.com/edit"


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Kept by those who act for people; where they act in a moment for which nothing is promised
    (docs/reliability.md, limits) it allows both ends, and nothing more.
    """

    original: Json
    """The volume as it was in the beginning, bound."""

    policies: frozenset[str]
    """Those that the volume may have: two of them if Retain was set while it was Retain on the
    service's account.
    """

    edits: int = 0
    skip: bool = False
    claim_deleted: bool = False
    reclaimed: bool = False
    """The data went, as somebody asked for."""

    decided: bool = False
    """The claim was deleted while the policy was Delete: to set Retain comes too late."""

    away: bool = False
    """A user deleted the volume, and nobody has made it anew."""

    may_be_back: bool = False
    """That was in a moment in which a deletion can't be told from the service's own."""

    may_be_older: bool = False
    """The volume may lack the latest changes of people."""

    deleted: dict[str, bool] = field(default_factory=dict)
    """The incarnations that a user deleted, and whether they may be back."""

    def may_reclaim(self) -> bool:
        """Whether somebody asked for the data to go."""
        return self.decided or (self.claim_deleted and "Delete" in self.policies)

    def against(self, pv: Json | None, claim: Json | None, nodes: frozenset[str]) -> str:
        """What is not as it has to be once all is at rest; empty if everything is."""
        if pv is None:
            gone = self.away or self.reclaimed
            return "" if gone else "the volume is gone"
        if has_any_marker(pv):
            # Where another instance dropped the note in that very moment, a person is told.
            held = "deletionTimestamp" in pv["metadata"] and self.may_be_back
            return "" if held else "the volume wears marks"
        if self.reclaimed:
            # Should a note have been left over then, it came back once more, for a person to see.
            back = "deletionTimestamp" not in pv["metadata"]
            return "" if not back or self._policy_right(pv) else "the policy is another"
        if "deletionTimestamp" in pv["metadata"]:
            return "" if self.away and self._policy_right(pv) else "the volume is being deleted"
        if self.away and not self.may_be_back:
            return "a volume that a user deleted is there"
        return (
            ("" if self.may_be_older else self._against_fields(pv))
            or ("" if self.may_be_older or self._policy_right(pv) else "the policy is another")
            or ("" if self.claim_deleted else self._against_bond(pv, claim))
            or ("" if self._left_alone(pv) or _nodes(pv) == nodes else "the affinity is wrong")
        )

    def _left_alone(self, pv: Json) -> bool:
        return self.skip or self.claim_deleted

    def _policy_right(self, pv: Json) -> bool:
        policy = pv["spec"]["persistentVolumeReclaimPolicy"]
        if policy in self.policies:
            return True
        kept = pv["metadata"]["annotations"].get(ORIGINAL_POLICY_ANNOTATION) in self.policies
        return self.claim_deleted and policy == "Retain" and kept

    def _against_fields(self, pv: Json) -> str:
        has, had = _rest(pv), _rest(self.original)
        had["labels"] = {"edit": str(self.edits)} if self.edits else {}
        if self.edits:
            had["annotations"][EDIT] = str(self.edits)
        if self.skip:
            had["annotations"][SKIP_ANNOTATION] = "yes"
        if self.claim_deleted:
            has["annotations"].pop(ORIGINAL_POLICY_ANNOTATION, None)
            has["annotations"].pop(BOUND_BY_CONTROLLER, None)
            if is_nobodys(has["claimRef"].get("uid", "")):
                has["claimRef"]["uid"] = had["claimRef"]["uid"]
        differ = {key for key in has.keys() | had.keys() if has.get(key) != had.get(key)}
        told = ", ".join(f"{key}: {has.get(key)} instead of {had.get(key)}" for key in differ)
        return f"fields differ: {told}" if differ else ""

    @staticmethod
    def _against_bond(pv: Json, claim: Json | None) -> str:
        if claim is None:
            return "the claim is gone"
        if pv["status"].get("phase") != "Bound" or claim["status"].get("phase") != "Bound":
            return f"not bound: {pv['status'].get('phase')}, {claim['status'].get('phase')}"
        asked = claim["spec"]["resources"]["requests"]["storage"]
        if {asked} != {pv["spec"]["capacity"]["storage"], claim["status"]["capacity"]["storage"]}:
            return f"it is not resized to {asked}"
        return ""


def is_nobodys(uid: str) -> bool:
    """Whether it stands in place of a claim's uid, so that no claim is ever bound by it."""
    return uid.startswith("gone-")


def _rest(pv: Json) -> Json:
    """All that nobody but users may change, beside policy, affinity and size."""
    spec: Mapping[str, Any] = pv["spec"]
    others = ("nodeAffinity", "persistentVolumeReclaimPolicy", "capacity", "claimRef")
    ref = spec.get("claimRef") or {}
    return {
        **{key: value for key, value in spec.items() if key not in others},
        "claimRef": {key: value for key, value in ref.items() if key != "resourceVersion"},
        "labels": dict(pv["metadata"].get("labels") or {}),
        "annotations": dict(pv["metadata"].get("annotations") or {}),
    }


def _nodes(pv: Json) -> frozenset[str]:
    required = (pv["spec"].get("nodeAffinity") or {}).get("required") or {}
    return frozenset(
        expression["values"][0]
        for term in required.get("nodeSelectorTerms", ())
        for expression in term["matchExpressions"]
    )
