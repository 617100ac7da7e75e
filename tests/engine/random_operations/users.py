"""Users, LINSTOR and pods: what they do to a volume, recorded in the oracle."""

from collections.abc import Callable
from typing import Any

from linstor_affinity_events.model.keys import SKIP_ANNOTATION
from linstor_affinity_events.model.manifest import uid_of
from linstor_affinity_events.model.markers import has_any_marker
from linstor_affinity_events.model.recreation import copy_for_create
from tests.engine.random_operations.oracle import EDIT, Oracle
from tests.engine.random_operations.plan import What
from tests.engine.setup import PV
from tests.fakes.kube_server import Binder, FakeCluster, Refusal
from tests.fakes.sidecars import Sidecars
from tests.fakes.volumes import CLAIMS, VOLUMES, FakeJournal

Json = dict[str, Any]

CLAIM, NAMESPACE = f"claim-{PV}", "default"


class Users:
    """Each operation is instantaneous; if the API server rejects it, nothing has happened."""

    def __init__(
        self,
        cluster: FakeCluster,
        oracle: Oracle,
        journal: FakeJournal,
        sidecars: Sidecars,
        binder: Binder,
        is_ambiguous: Callable[[], bool],
    ) -> None:
        self._cluster, self._oracle, self._journal = cluster, oracle, journal
        self._sidecars, self._binder = sidecars, binder
        self._is_ambiguous = is_ambiguous
        self.made: set[str] = set()
        """The incarnations of the volume that users created."""
        self.removed_by_force: set[str] = set()
        """The incarnations that users removed by force."""

    def apply(self, what: What) -> None:
        operations: dict[What, Callable[[], None]] = {
            What.EDIT: self._edit,
            What.RESIZE: self._resize,
            What.ATTACH: self._attach,
            What.SKIP: self._skip,
            What.RETAIN: self._retain,
            What.RECLAIM: self._reclaim,
            What.DELETE_VOLUME: self._delete_volume,
            What.RECREATE_VOLUME: self._recreate_volume,
            What.DELETE_CLAIM: self._delete_claim,
            What.RECREATE_CLAIM: self._recreate_claim,
        }
        try:
            operations[what]()
        except Refusal as refusal:
            if refusal.code not in {403, 404, 409, 422}:
                raise

    def _patch(self, patch: Json) -> None:
        self._cluster.patch(VOLUMES, PV, patch)

    def _edit(self) -> None:
        number = self._oracle.edits + 1
        metadata = {"labels": {"edit": str(number)}, "annotations": {EDIT: str(number)}}
        self._patch({"metadata": metadata})
        self._oracle.edits = number

    def _skip(self) -> None:
        self._patch({"metadata": {"annotations": {SKIP_ANNOTATION: "yes"}}})
        self._oracle.skip = True

    def _retain(self) -> None:
        pv = self._cluster.get(VOLUMES, PV)
        self._patch({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
        self._oracle.decided |= self._oracle.claim_deleted and "Delete" in self._oracle.policies
        # If the service has set Retain already, nobody can know that a user set it too.
        marked = pv is not None and has_any_marker(pv)
        before = self._oracle.policies if marked else frozenset()
        self._oracle.policies = before | {"Retain"}

    def _reclaim(self) -> None:
        self._patch({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
        self._oracle.policies = frozenset({"Delete"})

    def _resize(self) -> None:
        claim = self._cluster.get(CLAIMS, CLAIM, NAMESPACE)
        if claim is None:
            return
        size = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) + 1
        patch = {"spec": {"resources": {"requests": {"storage": f"{size}Gi"}}}}
        self._cluster.patch(CLAIMS, CLAIM, patch, namespace=NAMESPACE)

    def _attach(self) -> None:
        if PV in self._sidecars.attached:
            self._sidecars.detach(PV)
        else:
            self._sidecars.attach(PV)

    def _delete_volume(self) -> None:
        pv = self._cluster.get(VOLUMES, PV)
        # One that the service is deleting already is deleted by nobody else.
        if pv is None or "deletionTimestamp" in pv["metadata"]:
            return
        self._cluster.delete(VOLUMES, PV)
        unclear = self._entry_says_deleted() or self._is_ambiguous()
        self._oracle.deleted[uid_of(pv)] = unclear
        self._oracle.absent_by_user, self._oracle.may_be_back = True, unclear

    def _entry_says_deleted(self) -> bool:
        """Whether an entry says that an absent volume of this name is to be recreated: before the
        service's own deletion, or after the creation if it was killed before it deleted it.
        """
        _, entry = self._journal.entries.get(PV, ("", {}))
        return bool(entry) and entry["state"] == "deleting"

    def _recreate_volume(self) -> None:
        pv = self._cluster.get(VOLUMES, PV)
        if pv is not None:
            self.removed_by_force.add(uid_of(pv))
            self._patch({"metadata": {"finalizers": None}})
            if self._cluster.get(VOLUMES, PV) is not None:
                self._cluster.delete(VOLUMES, PV)
        body, claim = (
            copy_for_create(self._oracle.original),
            self._cluster.get(CLAIMS, CLAIM, NAMESPACE),
        )
        if claim is not None:
            body["spec"]["capacity"] = claim["spec"]["resources"]["requests"]
        made = self._cluster.create(VOLUMES, body)
        self.made.add(uid_of(made))
        self._oracle.edits, self._oracle.skip = 0, False
        # What the former one said of a claim that is deleted may be carried out by now.
        self._oracle.decided |= self._oracle.claim_deleted and "Delete" in self._oracle.policies
        self._oracle.policies = frozenset({made["spec"]["persistentVolumeReclaimPolicy"]})
        self._oracle.absent_by_user = self._oracle.may_be_back = False

    def _delete_claim(self) -> None:
        self._cluster.delete(CLAIMS, CLAIM, namespace=NAMESPACE)
        self._oracle.claim_deleted = True

    def _recreate_claim(self) -> None:
        claim = self._cluster.get(CLAIMS, CLAIM, NAMESPACE)
        if claim is not None:
            without_finalizers = {"metadata": {"finalizers": None}}
            self._cluster.patch(CLAIMS, CLAIM, without_finalizers, namespace=NAMESPACE)
            if self._cluster.get(CLAIMS, CLAIM, NAMESPACE) is not None:
                self._cluster.delete(CLAIMS, CLAIM, namespace=NAMESPACE)
            self._oracle.claim_deleted = True
            wish = {**copy_for_create(claim), "spec": {**claim["spec"]}}
            wish["spec"].pop("volumeName", None)
            wish["metadata"] = {"name": CLAIM, "namespace": NAMESPACE}
            self._cluster.create(CLAIMS, wish, namespace=NAMESPACE)
