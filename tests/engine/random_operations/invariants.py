"""Checks every change of the volume for what must never happen."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, Self

from linstor_affinity_events.model.keys import ORIGINAL_POLICY_ANNOTATION, SKIP_RECLAIM_ANNOTATION
from linstor_affinity_events.model.manifest import claim_of, uid_of
from linstor_affinity_events.model.ownership import made_by_us
from tests.engine.random_operations.oracle import Oracle, is_nobodys
from tests.engine.random_operations.users import Users
from tests.engine.setup import PV
from tests.fakes.kube_server import FakeCluster
from tests.fakes.kube_server.collection import Change
from tests.fakes.sidecars import Reclaimed, Sidecars
from tests.fakes.volumes import CLAIMS, VOLUMES, FakeJournal

Json = dict[str, Any]

READ_WITHIN = 1.5
"""More than the time from reading the claim to the creation of the volume."""


class Circumstances(Protocol):
    """What has happened in the run so far."""

    @property
    def unsure(self) -> bool:
        """Whether a write was lost or late, an instance killed, or another there beside it."""

    @property
    def claim_reads_are_old(self) -> bool:
        """Whether the volume may be recreated long after its claim was read."""

    @property
    def made_in_one_run(self) -> bool:
        """Whether the latest volume was created by the instance that began to replace it, a short
        time ago: then it is recreated as it was, whatever became of its claim.
        """


class Invariants:
    """Use it as `async with Invariants(...) as invariants`; `wrong` has the violations."""

    def __init__(
        self,
        cluster: FakeCluster,
        oracle: Oracle,
        journal: FakeJournal,
        sidecars: Sidecars,
        users: Users,
        circumstances: Circumstances,
    ) -> None:
        self._cluster, self._oracle, self._journal = cluster, oracle, journal
        self._sidecars, self._users, self._circumstances = sidecars, users, circumstances
        self.wrong: list[str] = []
        self.ours = 0
        """How many incarnations of the volume the service created."""
        self._latest = uid_of(oracle.original)
        self._claim_gone_at: float | None = None
        self._reclaimed_uids: set[str] = set()
        """Of what the provisioner reclaimed, and of what had the name when it did."""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._sidecars.on_reclaim = self._reclaimed
        for plural, see in ((VOLUMES, self._see), (CLAIMS, self._see_claim)):
            self._tasks.append(asyncio.create_task(self._watch(plural, see)))
        return self

    async def __aexit__(self, *_: object) -> None:
        failed = [task for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        for task in failed:
            task.result()

    async def _watch(self, plural: str, see: Callable[[Change], None]) -> None:
        with self._cluster.subscribe(plural) as changes:
            async for change in changes:
                see(change)

    def _see_claim(self, change: Change) -> None:
        ours = self._oracle.original["spec"]["claimRef"]["uid"]
        if change.kind == "DELETED" and uid_of(change.object) == ours:
            self._claim_gone_at = asyncio.get_running_loop().time()

    def _see(self, change: Change) -> None:
        pv = change.object
        uid, named = uid_of(pv), claim_of(pv)
        ours = self._oracle.original["spec"]["claimRef"]["uid"]
        if named is not None and named.uid != ours and not is_nobodys(named.uid):
            self.wrong.append(f"the volume is given to {named}")
        if change.kind == "ADDED":
            self._added(pv)
        elif change.kind == "DELETED" and not self._removed_by_others(uid):
            self._removed(pv)

    def _added(self, pv: Json) -> None:
        before, self._latest = self._latest, uid_of(pv)
        if uid_of(pv) in self._users.made:
            return
        self.ours += 1
        if not made_by_us(pv):
            self.wrong.append("a volume that nobody created")
        if self._claim_long_gone() and pv["spec"]["persistentVolumeReclaimPolicy"] != "Retain":
            self.wrong.append(
                "its claim was deleted, and the volume was recreated for the provisioner to reclaim"
            )
        if self._circumstances.unsure and self._made_from_an_older_entry(pv):
            self._oracle.may_be_older = True
        unclear = self._oracle.deleted.get(before)
        if unclear is False or (unclear and not self._circumstances.unsure):
            self.wrong.append("a volume deleted by a user was recreated")

    def _made_from_an_older_entry(self, pv: Json) -> bool:
        """Whether an instance recreated an older entry after another had saved a change."""
        _, entry = self._journal.entries.get(PV, ("", {}))
        wanted = entry.get("wanted", pv)
        policies = {each["spec"]["persistentVolumeReclaimPolicy"] for each in (pv, wanted)}
        labels, sizes = (
            [each["metadata"].get("labels") for each in (pv, wanted)],
            [each["spec"]["capacity"] for each in (pv, wanted)],
        )
        preserved = ORIGINAL_POLICY_ANNOTATION in pv["metadata"]["annotations"]
        return (
            labels[0] != labels[1] or sizes[0] != sizes[1] or (len(policies) > 1 and not preserved)
        )

    def _claim_long_gone(self) -> bool:
        """Whether the claim was deleted so long ago that every reader must have noticed."""
        gone, now = self._claim_gone_at, asyncio.get_running_loop().time()
        excused = self._circumstances.claim_reads_are_old or self._circumstances.made_in_one_run
        return gone is not None and now - gone > READ_WITHIN and not excused

    def _removed_by_others(self, uid: str) -> bool:
        """Whether a user or the provisioner removed it."""
        return (
            uid in self._reclaimed_uids
            or uid in self._oracle.deleted
            or uid in self._users.removed_by_force
        )

    def _removed(self, pv: Json) -> None:
        """The service's own removal: an entry must exist, and nobody may reclaim the volume."""
        _, entry = self._journal.entries.get(PV, ("", {}))
        if not entry or entry["uid"] != uid_of(pv) or entry["state"] != "deleting":
            self.wrong.append("the volume was removed, and no entry says how to recreate it")
        preserved = pv["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        skipped = pv["metadata"]["annotations"].get(SKIP_RECLAIM_ANNOTATION) == "true"
        if not preserved or not skipped:
            self.wrong.append("the volume was removed without what protects its data")

    def _reclaimed(self, done: Reclaimed) -> None:
        self._oracle.reclaimed = True
        there = self._cluster.get(VOLUMES, PV)
        self._reclaimed_uids |= {done.uid} if there is None else {done.uid, uid_of(there)}
        if not self._oracle.may_reclaim():
            self.wrong.append("DATA LOSS: the provisioner deleted what is behind the volume")
