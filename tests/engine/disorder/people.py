"""Users, LINSTOR and pods: what they do to a volume, entered into the ledger."""

from collections.abc import Callable
from typing import Any

from linstor_affinity_events.model.keys import SKIP_ANNOTATION
from linstor_affinity_events.model.manifest import uid_of
from linstor_affinity_events.model.markers import has_any_marker
from linstor_affinity_events.model.recreation import copy_for_create
from tests.engine.disorder.ledger import EDIT, Ledger
from tests.engine.disorder.schedule import What
from tests.engine.setup import PV
from tests.fakes.kube_server import Binder, FakeCluster, Refusal
from tests.fakes.sidecars import Sidecars
from tests.fakes.volumes import CLAIMS, VOLUMES, FakeJournal

Json = dict[str, Any]

CLAIM, NAMESPACE = f"claim-{PV}", "default"


class People:
    """Each act happens in one moment; where the API server refuses it, nothing has happened."""

    def __init__(
        self,
        cluster: FakeCluster,
        ledger: Ledger,
        journal: FakeJournal,
        sidecars: Sidecars,
        binder: Binder,
        nobody_can_tell: Callable[[], bool],
    ) -> None:
        self._cluster, self._ledger, self._journal = cluster, ledger, journal
        self._sidecars, self._binder = sidecars, binder
        self._nobody_can_tell = nobody_can_tell
        self.made: set[str] = set()
        """The incarnations of the volume that users made."""
        self.took_away: set[str] = set()
        """The incarnations that users removed by force."""

    def act(self, what: What) -> None:
        acts: dict[What, Callable[[], None]] = {
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
            acts[what]()
        except Refusal as refusal:
            if refusal.code not in {403, 404, 409, 422}:
                raise

    def _patch(self, patch: Json) -> None:
        self._cluster.patch(VOLUMES, PV, patch)

    def _edit(self) -> None:
        number = self._ledger.edits + 1
        metadata = {"labels": {"edit": str(number)}, "annotations": {EDIT: str(number)}}
        self._patch({"metadata": metadata})
        self._ledger.edits = number

    def _skip(self) -> None:
        self._patch({"metadata": {"annotations": {SKIP_ANNOTATION: "yes"}}})
        self._ledger.skip = True

    def _retain(self) -> None:
        pv = self._cluster.get(VOLUMES, PV)
        self._patch({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
        self._ledger.decided |= self._ledger.claim_deleted and "Delete" in self._ledger.policies
        # Where it is Retain on the service's account already, nobody can tell that it was set.
        marked = pv is not None and has_any_marker(pv)
        before = self._ledger.policies if marked else frozenset()
        self._ledger.policies = before | {"Retain"}

    def _reclaim(self) -> None:
        self._patch({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
        self._ledger.policies = frozenset({"Delete"})

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
        unclear = self._noted_as_deleted() or self._nobody_can_tell()
        self._ledger.deleted[uid_of(pv)] = unclear
        self._ledger.away, self._ledger.may_be_back = True, unclear

    def _noted_as_deleted(self) -> bool:
        """Whether a note says that a volume of this name that is gone is to be put back: before
        the service's own deletion, or after the creation if it was killed before it dropped it.
        """
        _, entry = self._journal.kept.get(PV, ("", {}))
        return bool(entry) and entry["state"] == "deleting"

    def _recreate_volume(self) -> None:
        pv = self._cluster.get(VOLUMES, PV)
        if pv is not None:
            self.took_away.add(uid_of(pv))
            self._patch({"metadata": {"finalizers": None}})
            if self._cluster.get(VOLUMES, PV) is not None:
                self._cluster.delete(VOLUMES, PV)
        body, claim = (
            copy_for_create(self._ledger.original),
            self._cluster.get(CLAIMS, CLAIM, NAMESPACE),
        )
        if claim is not None:
            body["spec"]["capacity"] = claim["spec"]["resources"]["requests"]
        made = self._cluster.create(VOLUMES, body)
        self.made.add(uid_of(made))
        self._ledger.edits, self._ledger.skip = 0, False
        self._ledger.policies = frozenset({made["spec"]["persistentVolumeReclaimPolicy"]})
        self._ledger.away = self._ledger.may_be_back = False

    def _delete_claim(self) -> None:
        self._cluster.delete(CLAIMS, CLAIM, namespace=NAMESPACE)
        self._ledger.claim_deleted = True

    def _recreate_claim(self) -> None:
        claim = self._cluster.get(CLAIMS, CLAIM, NAMESPACE)
        if claim is not None:
            bare = {"metadata": {"finalizers": None}}
            self._cluster.patch(CLAIMS, CLAIM, bare, namespace=NAMESPACE)
            if self._cluster.get(CLAIMS, CLAIM, NAMESPACE) is not None:
                self._cluster.delete(CLAIMS, CLAIM, namespace=NAMESPACE)
            self._ledger.claim_deleted = True
            wish = {**copy_for_create(claim), "spec": {**claim["spec"]}}
            wish["spec"].pop("volumeName", None)
            wish["metadata"] = {"name": CLAIM, "namespace": NAMESPACE}
            self._cluster.create(CLAIMS, wish, namespace=NAMESPACE)
