"""Somebody writes the Lease while a request of the leader is slow or has no response: another
instance leads, and the first one notices that late, or not before it goes on.
"""

import asyncio
from collections.abc import Callable
from copy import deepcopy

import pytest

from linstor_affinity_events.errors import Conflict, Unreachable
from linstor_affinity_events.model.advance import MAX_CONFLICTS
from linstor_affinity_events.model.keys import FINALIZER, MARKER_ANNOTATION, SKIP_ANNOTATION
from linstor_affinity_events.model.manifest import (
    Manifest,
    Patch,
    annotations_of,
    finalizers_of,
    is_terminating,
    uid_of,
)
from linstor_affinity_events.model.names import PvName
from tests.engine.forged_entries import reconciled
from tests.engine.setup import PV, RD, Setup, instead, until
from tests.engine.test_after_unmarking import annotate, never_dropped, policy, set_retain
from tests.engine.test_deletions_by_owners import is_deleted
from tests.engine.test_entries_rewritten_in_replacement import bound
from tests.engine.test_prepared_entries import standing_by


def notice(first: Setup) -> None:
    first.leadership.lease_is_another = first.leadership.leading = False
    first.engine.leadership_changed(leading=False)


def both_lead(first: Setup, second: Setup, *, noticed_after: float = 5.0) -> None:
    first.leadership.lease_is_another = True
    asyncio.get_running_loop().call_later(noticed_after, notice, first)
    second.leadership.leading = True
    second.engine.leadership_changed(leading=True)


def delete_by_force(setup: Setup) -> None:
    setup.cluster.delete("persistentvolumes", PV)
    if setup.cluster.get("persistentvolumes", PV) is not None:
        setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})


async def delete_claim(setup: Setup) -> None:
    setup.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
    await until(lambda: setup.cluster.get("persistentvolumes", PV) is None)


class SlowDeletion:
    """The first deletion of the volume has no response, or is held back together with all reads of
    it that follow.
    """

    def __init__(self, setup: Setup, *, lost: bool) -> None:
        self.requested, self.go_on, self._lost = asyncio.Event(), asyncio.Event(), lost
        self._delete, self._read = setup.volumes.delete, setup.volumes.read
        instead(setup.volumes, delete=self._deleted, read=self._read_again)

    async def _deleted(self, manifest: Manifest) -> Manifest | None:
        if not self.requested.is_set():
            self.requested.set()
            if self._lost:
                raise Unreachable("503: the API server is shutting down")
            await self.go_on.wait()
        return await self._delete(manifest)

    async def _read_again(self, name: PvName) -> Manifest | None:
        if self.requested.is_set():
            await self.go_on.wait()
        return await self._read(name)


def held_back(setup: Setup, at: str) -> asyncio.Event:
    """Hold its replacement back for two seconds where the volume is terminating or absent; is set
    when it is there.
    """
    there, patch, create = asyncio.Event(), setup.volumes.patch, setup.volumes.create
    loop, down_until = asyncio.get_running_loop(), float("inf")

    def fails(*, reached: bool) -> None:
        nonlocal down_until
        if reached and not there.is_set():
            there.set()
            down_until = loop.time() + 2.0
        if loop.time() < down_until and (reached or at == "absent"):
            raise Unreachable("503")

    async def patched(name: PvName, change: Patch) -> Manifest:
        pv = setup.cluster.get("persistentvolumes", PV)
        if at == "terminating":
            fails(reached=pv is not None and is_terminating(pv))
        return await patch(name, change)

    async def created(body: Manifest) -> Manifest:
        if at == "absent":
            fails(reached=setup.cluster.get("persistentvolumes", PV) is None)
        return await create(body)

    instead(setup.volumes, patch=patched, create=created)
    return there


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("put_back", [True, False])
@pytest.mark.parametrize("noticed", [True, False])
@pytest.mark.parametrize("at", ["terminating", "absent"])
async def test_retain_in_the_replacement_of_another_instance_stays(
    at: str, *, lost: bool, put_back: bool, noticed: bool
) -> None:
    """It has unmarked the volume, its owner has set Retain, and it replaces it again. Somebody may
    put the entry of the first instance back.
    """
    async with bound() as (first, _):
        second, slow = standing_by(first), SlowDeletion(first, lost=lost)
        there = held_back(second, at)
        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await slow.requested.wait()
            entry = deepcopy(first.journal.entries[PV])
            both_lead(first, second)
            await asyncio.sleep(0.01)
            await second.replacer.resume(PV)
            assert policy(first) == "Delete"
            set_retain(first, text=None)
            second.queue.add(RD, source="promotion")
            await asyncio.wait_for(there.wait(), 60)
            if put_back:
                first.journal.entries[PV] = (first.journal.entries[PV][0] + "x", entry[1])
            if noticed:
                notice(first)
            slow.go_on.set()
            await reconciled(second, 10)

        assert policy(first) == "Retain"
        assert first.nodes() == {"n2"}


@pytest.mark.parametrize("then", ["nothing else", "is removed", "is put back"])
async def test_retain_stays_whatever_is_done_to_the_annotation_of_the_markers(then: str) -> None:
    async with bound() as (first, _):
        second, slow = standing_by(first), SlowDeletion(first, lost=False)
        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await slow.requested.wait()
            ours = annotations_of(first.pv())[MARKER_ANNOTATION]
            both_lead(first, second)
            await asyncio.sleep(0.01)
            await second.replacer.resume(PV)
            set_retain(first, text=None)
            slow_again = SlowDeletion(second, lost=False)
            second.queue.add(RD, source="promotion")
            await asyncio.wait_for(slow_again.requested.wait(), 60)
            if then != "nothing else":
                text = None if then == "is removed" else ours
                change = {"metadata": {"annotations": {MARKER_ANNOTATION: text}}}
                first.cluster.patch("persistentvolumes", PV, change)
            slow.go_on.set()
            await asyncio.sleep(1.0)
            slow_again.go_on.set()
            await reconciled(second, 10)

        assert policy(first) == "Retain"


@pytest.mark.parametrize("text", [None, '{"reclaimPolicy":"Delete","skipReclaim":null}', "x"])
async def test_retain_set_after_another_instance_has_unmarked_the_volume_stays(
    text: str | None,
) -> None:
    """The first one has not noticed yet that it leads no longer."""
    async with bound() as (first, _):
        second, delete, requests = standing_by(first), first.volumes.delete, 0
        given_up = asyncio.Event()

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal requests
            requests += 1
            if requests <= MAX_CONFLICTS + 1:
                annotate(first, "a", str(requests))
            if requests == MAX_CONFLICTS + 1:
                given_up.set()
            return await delete(manifest)

        instead(first.volumes, delete=deleted)
        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await given_up.wait()
            both_lead(first, second)
            await asyncio.sleep(0.01)
            await second.replacer.resume(PV)
            assert policy(first) == "Delete"
            set_retain(first, text=text)
            await reconciled(second, 10)

        assert policy(first) == "Retain"


@pytest.mark.parametrize("how", ["terminating", "by force", "with its claim"])
@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("lost", [True, False])
async def test_a_deletion_that_the_watch_saw_as_others_is_not_undone_after_a_failover(
    how: str, *, noticed: bool, lost: bool
) -> None:
    """The other instance has taken the markers off and dropped the entry."""
    async with bound() as (first, _):
        second, uid = standing_by(first), uid_of(first.pv())
        delete, read, requested = first.volumes.delete, first.volumes.read, asyncio.Event()
        loop, down_until = asyncio.get_running_loop(), 0.0

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal down_until
            if not requested.is_set():
                requested.set()
                down_until = loop.time() + 3.0
                raise Unreachable("503") if lost else Conflict("409")
            return await delete(manifest)

        async def read_again(name: PvName) -> Manifest | None:
            if loop.time() < down_until:
                raise Unreachable("503")
            return await read(name)

        instead(first.volumes, delete=deleted, read=read_again)
        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await requested.wait()
            both_lead(first, second, noticed_after=0.0 if noticed else 5.0)
            await asyncio.sleep(0.01)
            await second.replacer.resume(PV)
            assert FINALIZER not in finalizers_of(first.pv())
            annotate(first, SKIP_ANNOTATION, "true")
            if how == "terminating":
                first.cluster.delete("persistentvolumes", PV)
            elif how == "by force":
                delete_by_force(first)
            else:
                await delete_claim(first)
            await reconciled(second, 10)

        assert is_deleted(first, uid)


def slow_removal(first: Setup, _: Setup) -> asyncio.Event:
    remove, requested = first.volumes.remove, asyncio.Event()

    async def removed(pv: Manifest) -> None:
        if not requested.is_set():
            requested.set()
            await asyncio.sleep(8.0)
        await remove(pv)

    instead(first.volumes, remove=removed)
    return requested


def unanswered_deletion(first: Setup, second: Setup) -> asyncio.Event:
    """And somebody keeps the second one from dropping the entry."""
    delete, requested = first.volumes.delete, asyncio.Event()

    async def deleted(manifest: Manifest) -> Manifest | None:
        made = await delete(manifest)
        if not requested.is_set():
            requested.set()
            await asyncio.sleep(20.0)
            raise Unreachable("no response")
        return made

    instead(first.volumes, delete=deleted)
    never_dropped(second)
    return requested


@pytest.mark.parametrize("how", ["by force", "with its claim"])
@pytest.mark.parametrize("late", [slow_removal, unanswered_deletion])
async def test_a_volume_that_another_instance_made_is_not_made_again_when_it_is_deleted(
    how: str, late: Callable[[Setup, Setup], asyncio.Event]
) -> None:
    async with bound() as (first, _):
        second, uid = standing_by(first), uid_of(first.pv())
        requested = late(first, second)

        def back() -> bool:
            pv = first.cluster.get("persistentvolumes", PV)
            return pv is not None and uid_of(pv) != uid and pv["status"].get("phase") == "Bound"

        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await requested.wait()
            both_lead(first, second)
            second.full_reconciler.request("leading")
            second.queue.add(RD, source="promotion")
            await until(back, within=15.0)
            new = uid_of(first.pv())
            await asyncio.sleep(2.0)
            if how == "by force":
                delete_by_force(first)
            else:
                await delete_claim(first)
            await reconciled(second, 10)

        pv = first.cluster.get("persistentvolumes", PV)
        assert pv is None or (uid_of(pv) == new and is_terminating(pv))
