"""A run has taken its markers off again: what happens to the volume from then on is its owner's."""

import asyncio
from collections.abc import Callable

import pytest

from linstor_affinity_events.errors import Invalid, Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry
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
from tests.engine.test_deletions_by_owners import is_deleted
from tests.engine.test_entries_rewritten_in_replacement import bound, nothing, rewrite


def annotate(setup: Setup, key: str, value: str) -> None:
    setup.cluster.patch("persistentvolumes", PV, {"metadata": {"annotations": {key: value}}})


def set_retain(setup: Setup, *, text: str | None) -> None:
    """As the owner of the volume does; somebody may annotate it then as our markers do."""
    retain = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
    setup.cluster.patch("persistentvolumes", PV, retain)
    if text is not None:
        annotate(setup, MARKER_ANNOTATION, text)


def policy(setup: Setup) -> str:
    found: str = setup.pv()["spec"]["persistentVolumeReclaimPolicy"]
    return found


def before_first_deletion(setup: Setup, act: Callable[[], None]) -> asyncio.Event:
    """Have this happen before the first request to delete the volume; is set when it has."""
    happened, delete = asyncio.Event(), setup.volumes.delete

    async def deleted(manifest: Manifest) -> Manifest | None:
        if not happened.is_set():
            happened.set()
            act()
        return await delete(manifest)

    instead(setup.volumes, delete=deleted)
    return happened


def immutable(setup: Setup) -> None:
    """From now on the entry is, as a ConfigMap with `immutable: true`. The API server compares
    versions first.
    """
    rewrite(setup, nothing)
    save = setup.journal.save

    async def saved(entry: JournalEntry) -> JournalEntry:
        stored = setup.journal.entries.get(PV)
        if stored is not None and entry.version == stored[0]:
            raise Invalid("data: Forbidden: field is immutable when `immutable` is set")
        return await save(entry)

    instead(setup.journal, save=saved)


def never_dropped(setup: Setup) -> asyncio.Event:
    """Somebody touches the entry before each attempt to delete it, until this is set."""
    over, drop = asyncio.Event(), setup.journal.drop

    async def dropped(entry: JournalEntry) -> None:
        if not over.is_set() and PV in setup.journal.entries:
            rewrite(setup, nothing)
        await drop(entry)

    instead(setup.journal, drop=dropped)
    return over


def without_a_response(setup: Setup) -> None:
    """The API server removes the markers, and its first response to that is lost."""
    patch, lost = setup.volumes.patch, False

    async def patched(name: PvName, change: Patch) -> Manifest:
        nonlocal lost
        made = await patch(name, change)
        if MARKER_ANNOTATION not in annotations_of(made) and not lost:
            lost = True
            raise Unreachable("the connection was closed")
        return made

    instead(setup.volumes, patch=patched)


@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize("lost", [True, False])
async def test_retain_that_its_owner_sets_after_the_markers_stays(
    *, touched: bool, annotated: bool, lost: bool
) -> None:
    async with bound() as (setup, _):
        if lost:
            without_a_response(setup)
        excluded = before_first_deletion(setup, lambda: annotate(setup, SKIP_ANNOTATION, "true"))
        over = never_dropped(setup)
        if not touched:
            over.set()
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await excluded.wait()
            await reconciled(setup, 10)
            assert policy(setup) == "Delete"
            assert MARKER_ANNOTATION not in annotations_of(setup.pv())
            set_retain(setup, text="x" if annotated else None)
            await reconciled(setup, 10)
            over.set()
            await reconciled(setup, 10)

        assert policy(setup) == "Retain"
        assert setup.journal.entries == {}


@pytest.mark.parametrize("led", [True, False])
async def test_an_owner_deletes_a_marked_volume_whose_entry_is_gone(*, led: bool) -> None:
    """Its run has requested no deletion, so that it is the owner's, if no other instance led."""
    async with bound() as (setup, _):

        def act() -> None:
            del setup.journal.entries[PV]
            setup.cluster.delete("persistentvolumes", PV)
            setup.leadership.lease_is_another = not led

        happened = before_first_deletion(setup, act)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await happened.wait()
            await reconciled(setup, 10)

        pv = setup.pv()
        assert is_terminating(pv)
        assert (FINALIZER not in finalizers_of(pv)) is led
        assert policy(setup) == ("Delete" if led else "Retain")


@pytest.mark.parametrize("elected", [True, False])
async def test_a_live_volume_without_entry_keeps_retain_if_its_claim_is_gone(
    *, elected: bool
) -> None:
    """Whoever deleted the claim minutes after the markers may have relied on that."""
    async with bound() as (setup, sidecars):
        setup.leadership.exclusive, save, down = elected, setup.journal.save, True

        async def saved(entry: JournalEntry) -> JournalEntry:
            if down:
                raise Unreachable("500: failed calling webhook")
            return await save(entry)

        instead(setup.journal, save=saved)
        async with setup.at_work():
            full = asyncio.create_task(setup.full_reconciler.run())
            setup.queue.add(RD, source="promotion")
            await until(lambda: FINALIZER in finalizers_of(setup.pv()))
            await asyncio.sleep(600)
            setup.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
            await asyncio.sleep(30)
            del setup.journal.entries[PV]
            down = False
            await reconciled(setup, 20)
            full.cancel()

        assert policy(setup) == "Retain"
        assert sidecars.reclaimed == []
        assert any("Retain" in str(each) for each in setup.notices.warnings)


async def test_an_owner_deletes_claim_and_marked_volume_without_entry() -> None:
    """Nobody can have relied on policy Retain, so that there is nothing to report."""
    async with bound() as (setup, _):

        def act() -> None:
            del setup.journal.entries[PV]
            setup.cluster.delete("persistentvolumes", PV)
            setup.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")

        happened = before_first_deletion(setup, act)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await happened.wait()
            await until(lambda: setup.cluster.get("persistentvolumes", PV) is None)

        assert setup.notices.warnings == []


@pytest.mark.parametrize("annotated", [True, False])
async def test_retain_set_between_two_attempts_to_drop_the_entry_stays(*, annotated: bool) -> None:
    """The API server does not answer the first one."""
    async with bound() as (setup, _):
        before_first_deletion(setup, lambda: annotate(setup, SKIP_ANNOTATION, "true"))
        drop, failed = setup.journal.drop, asyncio.Event()

        async def dropped(entry: JournalEntry) -> None:
            if not failed.is_set():
                failed.set()
                raise Unreachable("503")
            await drop(entry)

        instead(setup.journal, drop=dropped)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await failed.wait()
            assert MARKER_ANNOTATION not in annotations_of(setup.pv())
            set_retain(setup, text="x" if annotated else None)
            await reconciled(setup, 10)

        assert policy(setup) == "Retain"
        assert setup.journal.entries == {}


@pytest.mark.parametrize("unanswered", [True, False])
async def test_a_deletion_after_the_markers_is_its_owners(*, unanswered: bool) -> None:
    """Though this service requested one before, whose response is missing."""

    def rewritten() -> None:
        rewrite(setup, lambda tree: tree.update(holder="x"))
        immutable(setup)
        if unanswered:
            raise Unreachable("503: the API server is shutting down")

    async with bound() as (setup, _):
        requested = before_first_deletion(setup, rewritten)
        never_dropped(setup)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await requested.wait()
            await reconciled(setup, 60)
            assert not is_terminating(setup.pv()) or not unanswered
            uid = uid_of(setup.pv())
            setup.cluster.delete("persistentvolumes", PV)
            await reconciled(setup, 10)

        assert is_deleted(setup, uid)


@pytest.mark.parametrize("elected", [True, False])
async def test_an_immutable_entry_undoes_no_deletion(*, elected: bool) -> None:
    async with bound() as (setup, _):
        setup.leadership.exclusive = elected
        uid = uid_of(setup.pv())

        def deleted_by_its_owner() -> None:
            immutable(setup)
            setup.cluster.delete("persistentvolumes", PV)

        deleted = before_first_deletion(setup, deleted_by_its_owner)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(deleted.is_set)
            await reconciled(setup, 10)

        assert is_deleted(setup, uid)
        assert setup.journal.entries == {}
