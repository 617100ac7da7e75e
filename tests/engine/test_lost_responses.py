"""Responses to a deletion, an unmarking and a creation are lost; what was requested for an earlier
version or incarnation of the volume explains nothing that happens to a later one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from linstor_affinity_events.errors import Conflict, Unreachable
from linstor_affinity_events.model.keys import FINALIZER, MARKER_ANNOTATION, SKIP_ANNOTATION
from linstor_affinity_events.model.manifest import (
    Manifest,
    Patch,
    annotations_of,
    finalizers_of,
    is_terminating,
    uid_of,
)
from linstor_affinity_events.model.names import PvName, Uid
from tests.engine.forged_entries import reconciled
from tests.engine.setup import PV, RD, Setup, instead, until
from tests.engine.test_after_unmarking import (
    annotate,
    before_first_deletion,
    never_dropped,
    policy,
    set_retain,
)
from tests.engine.test_deletions_by_owners import is_deleted
from tests.engine.test_entries_rewritten_in_replacement import bound, rewrite
from tests.engine.test_forged_markers import rewrite_markers
from tests.engine.test_prepared_entries import standing_by
from tests.engine.test_terminating_in_failovers import delete_claim, failover_to


def remove_by_force(setup: Setup) -> None:
    setup.cluster.delete("persistentvolumes", PV)
    setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})


def list_again(setup: Setup) -> None:
    """As the watch does when the API server no longer has the version where it would go on."""
    index = setup.volumes.index
    index.begin_list()
    for manifest in setup.cluster.objects("persistentvolumes"):
        index.listed(manifest)
    index.end_list()


def error(*, lost: bool) -> Conflict | Unreachable:
    return Unreachable("503: the API server is shutting down") if lost else Conflict("409")


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("after", [20.0, 3600.0])
async def test_an_unanswered_deletion_explains_none_of_a_later_version(
    after: float, *, lost: bool
) -> None:
    """Somebody annotates the volume before each further request, so that it ends in a conflict."""
    async with bound() as (setup, _):
        delete, requests, owned = setup.volumes.delete, 0, False
        loop, uid = asyncio.get_running_loop(), uid_of(setup.pv())

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal requests
            requests += 1
            if requests == 1:
                raise error(lost=lost)
            if not owned:
                annotate(setup, "a", str(requests))
            return await delete(manifest)

        def deleted_by_its_owner() -> None:
            nonlocal owned
            owned = True
            setup.cluster.delete("persistentvolumes", PV)

        loop.call_later(after, deleted_by_its_owner)
        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, int(after // 60) + 20)

        assert owned
        assert is_deleted(setup, uid)


@pytest.mark.parametrize("lost", [True, False])
async def test_an_unanswered_deletion_holds_no_volume_that_its_owner_deletes(*, lost: bool) -> None:
    """The markers say by then that the deletion of this service was accepted."""
    async with bound() as (setup, _):
        delete, patch, requests, owned = setup.volumes.delete, setup.volumes.patch, 0, False
        uid = uid_of(setup.pv())

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal requests
            requests += 1
            if requests == 1:
                raise error(lost=lost)
            if requests == 2:
                rewrite_markers(setup, deleted=True)
                annotate(setup, SKIP_ANNOTATION, "true")
            return await delete(manifest)

        async def patched(name: PvName, change: Patch) -> Manifest:
            nonlocal owned
            annotations = change["metadata"].get("annotations") or {}
            if not owned and annotations.get(MARKER_ANNOTATION, "") is None:
                owned = True
                setup.cluster.delete("persistentvolumes", PV)
            return await patch(name, change)

        instead(setup.volumes, delete=deleted, patch=patched)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 30)

        assert owned
        assert is_deleted(setup, uid)
        pv = setup.cluster.get("persistentvolumes", PV)
        assert pv is None or FINALIZER not in finalizers_of(pv)


@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize("down", [0.0, 60.0])
async def test_retain_set_after_an_unanswered_unmarking_stays(
    down: float, *, annotated: bool
) -> None:
    """Before the run can see what has become of it."""
    async with bound() as (setup, _):
        before_first_deletion(setup, lambda: annotate(setup, SKIP_ANNOTATION, "true"))
        patch, read, unmarked = setup.volumes.patch, setup.volumes.read, asyncio.Event()
        loop, down_until = asyncio.get_running_loop(), 0.0

        async def patched(name: PvName, change: Patch) -> Manifest:
            made = await patch(name, change)
            if MARKER_ANNOTATION not in annotations_of(made) and not unmarked.is_set():
                unmarked.set()
                raise Unreachable("the connection was closed")
            return made

        async def read_again(name: PvName) -> Manifest | None:
            if loop.time() < down_until:
                raise Unreachable("503")
            return await read(name)

        instead(setup.volumes, patch=patched, read=read_again)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await unmarked.wait()
            down_until = loop.time() + down
            await asyncio.sleep(down * 0.7)
            set_retain(setup, text="x" if annotated else None)
            await reconciled(setup, 10)

        assert policy(setup) == "Retain"


@pytest.mark.parametrize("act", [remove_by_force, delete_claim])
@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("lost", ["removal", "creation", None])
async def test_the_new_volume_is_not_made_again_when_it_is_deleted(
    act: Callable[[Setup], None], lost: str | None, *, touched: bool
) -> None:
    """Somebody touches the entry before each attempt to drop it."""
    async with bound() as (setup, _):
        create, remove, losing = setup.volumes.create, setup.volumes.remove, lost
        old = uid_of(setup.pv())

        async def created(body: Manifest) -> Manifest:
            nonlocal losing
            made = await create(body)
            if losing == "creation":
                losing = None
                raise Unreachable("503: the API server is shutting down")
            return made

        async def removed(pv: Manifest) -> None:
            nonlocal losing
            await remove(pv)
            if losing == "removal":
                losing = None
                await asyncio.sleep(0.1)
                raise Unreachable("503: the API server is shutting down")

        instead(setup.volumes, create=created, remove=removed)
        over = never_dropped(setup)
        if not touched:
            over.set()
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 10)
            assert (new := uid_of(setup.pv())) != old
            act(setup)
            await reconciled(setup, 20)
            over.set()
            await reconciled(setup, 20)

        pv = setup.cluster.get("persistentvolumes", PV)
        assert pv is None or (uid_of(pv) == new and is_terminating(pv))
        assert setup.journal.entries == {}


def response_lost(setup: Setup, lost: str) -> asyncio.Event:
    """Have no response to the removal or creation arrive, nor to any read for a while after it.
    Returns what is set then.
    """
    create, remove, read = setup.volumes.create, setup.volumes.remove, setup.volumes.read
    losing, down_until, loop = lost, 0.0, asyncio.get_running_loop()
    done = asyncio.Event()

    def fail() -> None:
        nonlocal losing, down_until
        losing, down_until = "", loop.time() + 3.0
        done.set()
        raise Unreachable("503: the API server is shutting down")

    async def created(body: Manifest) -> Manifest:
        made = await create(body)
        if losing == "creation":
            fail()
        return made

    async def removed(pv: Manifest) -> None:
        await remove(pv)
        if losing == "removal":
            await asyncio.sleep(0.1)
            fail()

    async def read_again(name: PvName) -> Manifest | None:
        if loop.time() < down_until:
            raise Unreachable("503: the API server is shutting down")
        return await read(name)

    instead(setup.volumes, create=created, remove=removed, read=read_again)
    return done


@pytest.mark.parametrize("lost", ["removal", "creation"])
async def test_a_new_volume_that_only_the_watch_saw_is_not_made_again(lost: str) -> None:
    """Reads have no response for a while, and the volume is removed by force meanwhile."""
    async with bound() as (setup, _):
        old, done = uid_of(setup.pv()), response_lost(setup, lost)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await done.wait()
            await asyncio.sleep(0.5)
            assert uid_of(setup.pv()) != old
            remove_by_force(setup)
            await reconciled(setup, 10)

        assert setup.cluster.get("persistentvolumes", PV) is None


@pytest.mark.parametrize("lost", ["removal", "creation"])
async def test_who_continues_makes_no_new_volume_again_that_only_the_watch_saw(lost: str) -> None:
    """It has written nothing to the original, which was there when it began. The watch has to begin
    with a new list, which does not show who has deleted the new volume.
    """
    async with bound() as (first, _):
        second, crashed, over = standing_by(first), asyncio.Event(), asyncio.Event()

        async def crash(_: Manifest) -> None:
            crashed.set()
            await over.wait()

        async def unanswered(_: Manifest) -> Manifest:
            raise Unreachable("503")

        instead(first.volumes, remove=crash, create=unanswered)
        old, done = uid_of(first.pv()), response_lost(second, lost)
        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await crashed.wait()
            failover_to(second)(first)
            full = asyncio.create_task(second.full_reconciler.run())
            await done.wait()
            await asyncio.sleep(0.5)
            assert uid_of(second.pv()) != old
            remove_by_force(second)
            await asyncio.sleep(0.1)
            list_again(second)
            await reconciled(second, 10)
            full.cancel()
            first.queue.close()
            over.set()

        assert second.cluster.get("persistentvolumes", PV) is None


class Outage:
    """From the creation of the new volume on, whose response is lost, so many requests fail. The
    watch goes on in the last one of these, or a moment later, and then something happens.
    """

    def __init__(
        self, setup: Setup, failures: int, then: Callable[[], None], *, later: float
    ) -> None:
        self.over, self._then = asyncio.Event(), then
        self._index, self._changed = setup.volumes.index, setup.volumes.index.changed
        self._left, self._later = failures, later
        self._began = False
        self._waiting = list[Manifest]()
        create = setup.volumes.create

        async def created(body: Manifest) -> Manifest:
            made = await create(body)
            if not self._began:
                self._began = True
                instead(self._index, changed=self._waiting.append)
                raise Unreachable("503: the API server is shutting down")
            return made

        instead(setup.volumes, create=created)
        instead(setup.volumes, read=self._failing(setup.volumes.read))
        instead(setup.volumes, create=self._failing(setup.volumes.create))

    def _failing(self, request: Callable[..., Any]) -> Callable[..., Any]:
        async def sent(given: Any) -> Any:
            if not self._began or not self._left:
                return await request(given)
            self._left -= 1
            if not self._left and self._later:
                asyncio.get_running_loop().call_later(self._later, self._end)
            elif not self._left:
                self._end()
                await asyncio.sleep(0.01)
            raise Unreachable("503: the API server is shutting down")

        return sent

    def _end(self) -> None:
        instead(self._index, changed=self._changed)
        for pv in self._waiting:
            self._changed(pv)
        self._then()
        self.over.set()


@pytest.mark.parametrize("failures", range(7, 12))
@pytest.mark.parametrize("later", [0.0, 0.1])
@pytest.mark.parametrize("act", [remove_by_force, delete_claim])
async def test_between_two_attempts_a_new_volume_is_seen_as_well(
    act: Callable[[Setup], None], later: float, failures: int
) -> None:
    """The last of these failures ends an attempt, for one of their numbers."""
    async with bound() as (setup, _):
        old, new = uid_of(setup.pv()), list[Uid]()

        def then() -> None:
            new.append(uid_of(setup.pv()))
            act(setup)

        outage = Outage(setup, failures, then, later=later)
        async with setup.at_work():
            full = asyncio.create_task(setup.full_reconciler.run())
            setup.queue.add(RD, source="promotion")
            await outage.over.wait()
            await reconciled(setup, 10)
            full.cancel()

        assert old not in new
        pv = setup.cluster.get("persistentvolumes", PV)
        assert pv is None or ([uid_of(pv)] == new and is_terminating(pv))


@asynccontextmanager
async def watch_behind(setup: Setup, seconds: float) -> AsyncIterator[None]:
    """Have the watch deliver each event so much later."""
    clock, index = asyncio.get_running_loop().time, setup.volumes.index
    events: asyncio.Queue[tuple[float, Callable[[Manifest], None], Manifest]] = asyncio.Queue()
    changed, gone = index.changed, index.gone
    instead(
        index,
        changed=lambda pv: events.put_nowait((clock() + seconds, changed, pv)),
        gone=lambda pv: events.put_nowait((clock() + seconds, gone, pv)),
    )

    async def deliver() -> None:
        while True:
            due, event, pv = await events.get()
            await asyncio.sleep(due - clock())
            event(pv)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(deliver())
        yield
        task.cancel()


def entry_is_deleted(setup: Setup) -> None:
    del setup.journal.entries[PV]


def entry_has_another_uid(setup: Setup) -> None:
    rewrite(setup, lambda tree: tree.update(uid="another"))


@pytest.mark.parametrize("attack", [entry_is_deleted, entry_has_another_uid])
async def test_a_watch_that_is_behind_makes_no_run_forget_what_it_removed(
    attack: Callable[[Setup], None],
) -> None:
    """It shows how the volume was replaced before, when the next replacement has removed it."""
    async with bound() as (setup, _), watch_behind(setup, 4.0), setup.at_work():
        setup.queue.add(RD, source="promotion")
        await until(lambda: setup.cluster.get("persistentvolumes", PV) and setup.nodes() == {"n2"})
        create, clock = setup.volumes.create, asyncio.get_running_loop().time
        down_until = float("inf")

        async def created(body: Manifest) -> Manifest:
            nonlocal down_until
            if down_until == float("inf"):
                down_until = clock() + 3.0
                asyncio.get_running_loop().call_later(2.0, attack, setup)
            if clock() < down_until:
                raise Unreachable("503: the API server is shutting down")
            return await create(body)

        instead(setup.volumes, create=created)
        setup.linstor.place(PV, "n3")
        setup.queue.add(RD, source="promotion")
        await until(lambda: down_until < clock())
        await reconciled(setup, 10)

        assert setup.nodes() == {"n3"}
        assert setup.claim()["status"]["phase"] == "Bound"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("claim", [False, True])
async def test_a_volume_that_was_made_is_not_made_again_in_whatever_attempt(
    *, claim: bool, later: bool
) -> None:
    """The response to its creation is lost, and its owner deletes it, or its claim, before it is
    read. A later attempt follows the volume anew.
    """
    async with bound() as (setup, _):
        create, read = setup.volumes.create, setup.volumes.read
        clock = asyncio.get_running_loop().time
        refused, lost, unread_until = later, asyncio.Event(), 0.0

        def deleted_by_its_owner() -> None:
            if claim:
                name = f"claim-{PV}"
                setup.cluster.delete("persistentvolumeclaims", name, namespace="default")
            else:
                setup.cluster.delete("persistentvolumes", PV)
                setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})

        async def created(body: Manifest) -> Manifest:
            nonlocal unread_until
            if refused:
                raise Unreachable("503: the API server is shutting down")
            made = await create(body)
            if lost.is_set():
                return made
            lost.set()
            unread_until = clock() + 3.0
            asyncio.get_running_loop().call_later(0.01, deleted_by_its_owner)
            raise Unreachable("the response is lost")

        async def read_again(name: PvName) -> Manifest | None:
            if clock() < unread_until:
                raise Unreachable("503: the API server is shutting down")
            return await read(name)

        instead(setup.volumes, create=created, read=read_again)
        async with setup.at_work():
            full = asyncio.create_task(setup.full_reconciler.run())
            setup.queue.add(RD, source="promotion")
            await until(lambda: setup.cluster.get("persistentvolumes", PV) is None)
            if later:
                await asyncio.sleep(90)
                refused = False
            await lost.wait()
            await reconciled(setup, 10)
            full.cancel()

        assert setup.cluster.get("persistentvolumes", PV) is None
        assert not setup.journal.entries
