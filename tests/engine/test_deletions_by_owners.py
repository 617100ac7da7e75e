"""Whose deletion it is that a run observes is not decided by what others write into its entry."""

import asyncio

import pytest

from linstor_affinity_events.engine.stray_markers import unmark_without_entry
from linstor_affinity_events.errors import Invalid
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import FINALIZER
from linstor_affinity_events.model.manifest import Manifest, finalizers_of, is_terminating, uid_of
from linstor_affinity_events.model.markers import mark_patch
from linstor_affinity_events.model.names import PvName
from tests.engine.forged_entries import reconciled
from tests.engine.setup import PV, RD, Json, Setup, instead, until
from tests.engine.test_entries_rewritten_in_replacement import bound, rewrite
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
