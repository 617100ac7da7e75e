"""Whose deletion it is that a run observes is not decided by what others write into its entry."""

import asyncio
import json
from collections.abc import Callable

import pytest

from linstor_affinity_events.engine.stray_markers import unmark_without_entry
from linstor_affinity_events.errors import Invalid
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import FINALIZER, MARKER_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest, finalizers_of, is_terminating, uid_of
from linstor_affinity_events.model.markers import mark_patch
from linstor_affinity_events.model.names import PvName
from tests.engine.forged_entries import FORGED, is_on, reconciled
from tests.engine.setup import PV, RD, Json, Setup, instead, replace, setup_on, until
from tests.engine.test_entries_rewritten_in_replacement import (
    Change,
    bound,
    nothing,
    policy,
    rewrite,
    state,
)
from tests.model.manifests import KEY, begun, on_node, terminating


def is_deleted(setup: Setup, uid: str) -> bool:
    """Whether the volume is gone, or still goes."""
    pv = setup.cluster.get("persistentvolumes", PV)
    return pv is None or (uid_of(pv) == uid and is_terminating(pv))


@pytest.mark.parametrize("holder", [None, "nobody", "me"])
@pytest.mark.parametrize("when", ["marked", "before our deletion"])
async def test_an_entry_rewritten_once_undoes_no_deletion(when: str, holder: str | None) -> None:
    async with bound() as (setup, _):
        uid = uid_of(setup.pv())
        save, delete, patch = setup.journal.save, setup.volumes.delete, setup.volumes.patch
        rewritten = deleted = False

        def owner_deletes() -> None:
            nonlocal deleted
            if not deleted:
                deleted = True
                setup.cluster.delete("persistentvolumes", PV)

        async def save_after_a_rewrite(entry: JournalEntry) -> JournalEntry:
            nonlocal rewritten
            if holder is not None and not rewritten:
                rewritten = True
                rewrite(setup, lambda tree: tree.update(holder=holder, state="deleting"))
            return await save(entry)

        async def patch_and_delete(name: PvName, change: Json) -> Manifest:
            made = await patch(name, change)
            if when == "marked" and FINALIZER in finalizers_of(made):
                owner_deletes()
            return made

        async def delete_after_the_owner(manifest: Manifest) -> Manifest | None:
            if when == "before our deletion":
                owner_deletes()
            return await delete(manifest)

        instead(setup.journal, save=save_after_a_rewrite)
        instead(setup.volumes, patch=patch_and_delete, delete=delete_after_the_owner)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: deleted)
            await reconciled(setup, 5)

        assert is_deleted(setup, uid)


async def test_a_deletion_between_two_attempts_is_not_undone() -> None:
    """The entry is made immutable, so that the run rolls back, and then rewritten whenever the run
    is about to drop it. So the run is interrupted with a volume that has no marker any more.
    """
    async with bound() as (setup, _):
        uid = uid_of(setup.pv())
        save, drop = setup.journal.save, setup.journal.drop
        immutable = set[str]()
        deleted = False

        async def reject(entry: JournalEntry) -> JournalEntry:
            if not immutable:
                rewrite(setup, lambda tree: tree.update(holder="nobody"))
                immutable.add(setup.journal.entries[PV][0])
            # The API server compares versions first.
            if entry.version in immutable and setup.journal.entries[PV][0] == entry.version:
                raise Invalid("data: field is immutable when `immutable` is set")
            return await save(entry)

        async def drop_after_a_rewrite(entry: JournalEntry) -> None:
            if not deleted:
                rewrite(setup, lambda tree: tree.update(holder="nobody", state="deleting"))
            await drop(entry)

        instead(setup.journal, save=reject, drop=drop_after_a_rewrite)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: PV in setup.replacer._interrupted)
            await asyncio.sleep(0.1)
            assert FINALIZER not in finalizers_of(setup.pv())
            setup.cluster.delete("persistentvolumes", PV)
            deleted = True
            await reconciled(setup, 5)

        assert is_deleted(setup, uid)


async def test_a_volume_that_was_unmarked_without_its_entry_is_no_longer_held() -> None:
    async with bound() as (setup, _):
        originals = setup.replacer.unfinished.originals
        await setup.volumes.patch(PV, mark_patch(setup.pv()))
        originals.observed(setup.pv())

        await unmark_without_entry(setup.replacer._dependencies, setup.pv())
        originals.observed(terminating(setup.pv()))

        original = originals.of(begun(setup.pv()))
        assert original is not None
        assert not original.held


async def test_a_deletion_before_another_instance_has_written_its_name_stands() -> None:
    """The first one was killed after the mark, before its entry said `deleting`."""
    async with bound() as (setup, _):
        uid = uid_of(setup.pv())
        mark = mark_patch(setup.pv(), "first")
        entry = JournalEntry.begin(setup.pv(), KEY, on_node("n2"), holder="first")
        await setup.journal.create(entry)
        await setup.volumes.patch(PV, mark)
        patch = setup.volumes.patch

        async def patch_after_the_owner(name: PvName, change: Json) -> Manifest:
            if "deletionTimestamp" not in setup.pv()["metadata"]:
                setup.cluster.delete("persistentvolumes", PV)
            return await patch(name, change)

        instead(setup.volumes, patch=patch_after_the_owner)
        async with setup.at_work():
            await reconciled(setup, 5)

        assert is_deleted(setup, uid)


def by_another(tree: Json) -> None:
    tree["holder"] = "another"


def renamed(setup: Setup) -> None:
    markers = json.loads(setup.pv()["metadata"]["annotations"][MARKER_ANNOTATION])
    annotate(setup, json.dumps({**markers, "holder": "somebody"}))


def removed(setup: Setup) -> None:
    annotate(setup, None)


def annotate(setup: Setup, value: str | None) -> None:
    """Not in the name of this service's field manager."""
    change = {"metadata": {"annotations": {MARKER_ANNOTATION: value}}}
    setup.cluster.patch("persistentvolumes", PV, change)


async def replaced_with(setup: Setup, event: Callable[[], None], *, later: float = 0.0) -> None:
    """Replace the volume, with an event right before our first request to delete it arrives."""
    delete, done = setup.volumes.delete, list[bool]()

    async def delete_after_the_event(manifest: Manifest) -> Manifest | None:
        if not done:
            done.append(True)
            await asyncio.sleep(later)
            event()
        return await delete(manifest)

    instead(setup.volumes, delete=delete_after_the_event)
    async with setup.at_work():
        setup.queue.add(RD, source="promotion")
        await until(lambda: done)
        await reconciled(setup, 10)


@pytest.mark.parametrize("annotated", [removed, renamed])
@pytest.mark.parametrize("rewritten", [nothing, policy])
async def test_an_entry_and_markers_rewritten_undo_no_deletion(
    rewritten: Change, annotated: Callable[[Setup], None]
) -> None:
    """The only instance that leads has not deleted the volume."""
    async with bound() as (setup, _):
        uid = uid_of(setup.pv())

        def owner_deletes() -> None:
            setup.cluster.delete("persistentvolumes", PV)
            rewrite(setup, rewritten)
            annotated(setup)

        await replaced_with(setup, owner_deletes)

        assert is_deleted(setup, uid)
        assert setup.journal.entries == {}


async def deleted_by_second_that_crashed(
    first: Setup,
    then: Callable[[Setup], None],
    *,
    after: str = "delete",
    elected: bool = True,
) -> None:
    """While a request of the first one to delete the volume is on its way, the second one has it
    deleted, and crashes.
    """
    second = setup_on(first.cluster, first.linstor, journal=first.journal, holder="another")
    first.leadership.exclusive = elected
    late, delete, patch = first.volumes.delete, second.volumes.delete, second.volumes.patch
    about, crashed = asyncio.Event(), asyncio.Event()

    async def deleted_late(manifest: Manifest) -> Manifest | None:
        about.set()
        await crashed.wait()
        return await late(manifest)

    async def deleted(manifest: Manifest) -> Manifest | None:
        response = await delete(manifest)
        if after == "delete":
            raise asyncio.CancelledError
        return response

    async def patched(name: PvName, change: Json) -> Manifest:
        response = await patch(name, change)
        if after == "detach" and "claimRef" in (change.get("spec") or {}):
            raise asyncio.CancelledError
        return response

    instead(first.volumes, delete=deleted_late)
    instead(second.volumes, delete=deleted, patch=patched)
    async with first.at_work():
        first.queue.add(RD, source="promotion")
        await about.wait()
        async with second.volumes.watching():
            await second.replacer.resume(PV)
            await asyncio.wait([asyncio.create_task(replace(second, "n2"))])
        assert is_terminating(first.pv())
        then(first)
        crashed.set()
        await asyncio.sleep(1.0)
        if first.leadership.lease_is_another:
            first.leadership.lease_is_another = False
            new_term(first)
        await reconciled(first, 10)


def new_term(setup: Setup) -> None:
    setup.engine.leadership_changed(leading=False)
    setup.engine.leadership_changed(leading=True)


@pytest.mark.parametrize("annotated", [None, removed])
async def test_what_another_instance_has_deleted_is_not_taken_for_its_owners_deletion(
    annotated: Callable[[Setup], None] | None,
) -> None:
    """Markers that the other one wrote show that: without election, both lead all the time. Where
    they were removed, a new term shows that another one may have led.
    """

    def then(setup: Setup) -> None:
        if annotated is not None:
            annotated(setup)
            new_term(setup)

    async with bound() as (first, _):
        await deleted_by_second_that_crashed(first, then, elected=annotated is not None)

        assert is_on(first.cluster, "n2")
        assert first.claim()["status"]["phase"] == "Bound"


async def test_a_lease_that_others_wrote_lets_no_volume_go_before_that_is_noticed() -> None:
    """The instance that they had lead has crashed, and they have set the entry back. The volume
    stays until somebody corrects that.
    """

    def then(setup: Setup) -> None:
        rewrite(setup, state)
        setup.leadership.lease_is_another = True

    async with bound() as (first, _):
        await deleted_by_second_that_crashed(first, then, after="detach")

        assert FINALIZER in finalizers_of(first.pv())


@pytest.mark.parametrize("entry_is", ["rewritten", "unreadable", "deleted", "as it was"])
@pytest.mark.parametrize("later", [0.0, 120.0])
async def test_a_volume_without_annotation_gets_back_what_its_run_knows(
    entry_is: str, later: float
) -> None:
    """Somebody takes the annotation off the marked volume, and rewrites its entry or deletes it."""
    async with bound() as (setup, _):

        def attack() -> None:
            if entry_is == "rewritten":
                rewrite(setup, policy)
            elif entry_is == "unreadable":
                rewrite(setup, lambda tree: tree.update(format=99))
            elif entry_is == "deleted":
                setup.journal.entries.clear()
            removed(setup)

        await replaced_with(setup, attack, later=later)

        assert FINALIZER not in finalizers_of(setup.pv())
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


@pytest.mark.parametrize(
    ("changed", "elected"),
    [(None, True), (None, False), (nothing, True), (nothing, False), (by_another, True)],
)
async def test_a_volume_that_was_removed_by_force_does_not_come_back(
    changed: Change | None, *, elected: bool
) -> None:
    """Our own request, which arrives then, finds no volume."""
    async with bound() as (setup, _):
        uid = uid_of(setup.pv())
        setup.leadership.exclusive = elected

        def administrator_removes() -> None:
            setup.cluster.delete("persistentvolumes", PV)
            setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})
            if changed is not None:
                rewrite(setup, changed)

        await replaced_with(setup, administrator_removes)

        assert is_deleted(setup, uid)
        assert setup.journal.entries == {}


async def test_markers_written_in_our_name_undo_no_deletion_where_one_instance_is_elected() -> None:
    async with bound() as (setup, _):
        uid = uid_of(setup.pv())

        def owner_deletes() -> None:
            setup.cluster.delete("persistentvolumes", PV)
            rewrite(setup, nothing)
            markers = json.loads(setup.pv()["metadata"]["annotations"][MARKER_ANNOTATION])
            forged = json.dumps({**markers, "holder": "somebody"})
            change = {"metadata": {"annotations": {MARKER_ANNOTATION: forged}}}
            setup.cluster.patch("persistentvolumes", PV, change, writer=FORGED)

        await replaced_with(setup, owner_deletes)

        assert is_deleted(setup, uid)
