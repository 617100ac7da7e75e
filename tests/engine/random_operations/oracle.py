"""What users requested, and so what must hold: always, and in steady state."""

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
class Oracle:
    """Updated by the simulated users; where an operation comes at a moment without guarantees
    (docs/reliability.md, limits) it allows both results, and nothing more.
    """

    original: Json
    """The volume as it was at the start, bound."""

    policies: frozenset[str]
    """The reclaim policies that the volume may have: two if a user set Retain while the service had
    set it as well.
    """

    edits: int = 0
    skip: bool = False
    claim_deleted: bool = False
    reclaimed: bool = False
    """The data was deleted, as a user requested."""

    decided: bool = False
    """The claim was deleted while the policy was Delete: setting Retain is too late."""

    absent_by_user: bool = False
    """A user deleted the volume, and nobody has created it again."""

    may_be_back: bool = False
    """That was at a moment when a deletion can't be distinguished from the service's own."""

    may_be_older: bool = False
    """The volume may lack the latest changes of users."""

    deleted: dict[str, bool] = field(default_factory=dict)
    """The incarnations that a user deleted, and whether they may be recreated."""

    def may_reclaim(self) -> bool:
        """Whether a user requested the deletion of the data."""
        return self.decided or (self.claim_deleted and "Delete" in self.policies)

    def violation(self, pv: Json | None, claim: Json | None, nodes: frozenset[str]) -> str:
        """What is wrong in steady state; empty if nothing is."""
        if pv is None:
            gone = self.absent_by_user or self.reclaimed
            return "" if gone else "the volume is gone"
        if has_any_marker(pv):
            # If another instance deleted the entry at that very moment, it is reported.
            held = "deletionTimestamp" in pv["metadata"] and self.may_be_back
            return "" if held else "the volume has markers"
        if self.reclaimed:
            # If an entry was left over, the volume was recreated once more, for a person to decide.
            back = "deletionTimestamp" not in pv["metadata"]
            return "" if not back or self._policy_right(pv) else "the policy is another"
        if "deletionTimestamp" in pv["metadata"]:
            return (
                ""
                if self.absent_by_user and self._policy_right(pv)
                else "the volume is being deleted"
            )
        if self.absent_by_user and not self.may_be_back:
            return "a volume that a user deleted is there"
        return (
            ("" if self.may_be_older else self._field_violation(pv))
            or ("" if self.may_be_older or self._policy_right(pv) else "the policy is another")
            or ("" if self.claim_deleted else self._binding_violation(pv, claim))
            or ("" if self._is_skipped(pv) or _nodes(pv) == nodes else "the affinity is wrong")
        )

    def _is_skipped(self, pv: Json) -> bool:
        return self.skip or self.claim_deleted

    def _policy_right(self, pv: Json) -> bool:
        policy = pv["spec"]["persistentVolumeReclaimPolicy"]
        if policy in self.policies:
            return True
        preserved = pv["metadata"]["annotations"].get(ORIGINAL_POLICY_ANNOTATION) in self.policies
        return self.claim_deleted and policy == "Retain" and preserved

    def _field_violation(self, pv: Json) -> str:
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
        changes = ", ".join(f"{key}: {has.get(key)} instead of {had.get(key)}" for key in differ)
        return f"fields differ: {changes}" if differ else ""

    @staticmethod
    def _binding_violation(pv: Json, claim: Json | None) -> str:
        if claim is None:
            return "the claim is gone"
        if pv["status"].get("phase") != "Bound" or claim["status"].get("phase") != "Bound":
            return f"not bound: {pv['status'].get('phase')}, {claim['status'].get('phase')}"
        asked = claim["spec"]["resources"]["requests"]["storage"]
        if {asked} != {pv["spec"]["capacity"]["storage"], claim["status"]["capacity"]["storage"]}:
            return f"it is not resized to {asked}"
        return ""


def is_nobodys(uid: str) -> bool:
    """Whether it replaces a claim's uid, so that no claim is ever bound by it."""
    return uid.startswith("gone-")


def _rest(pv: Json) -> Json:
    """All that only users may change, except policy, affinity and size."""
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
