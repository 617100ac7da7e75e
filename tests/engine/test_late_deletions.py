"""A request to delete a volume takes effect after whoever sent it is gone, or has given it up."""

import asyncio

import pytest

from linstor_affinity_events.errors import Forbidden, Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import ClaimName
from tests.engine.forged_entries import is_on, reconciled
from tests.engine.setup import PV, RD, Setup, instead, replace, setup_on
from tests.engine.test_entries_rewritten_in_replacement import bound


async def crash_before_it_arrives(first: Setup) -> Manifest:
    """Returns the version of the volume that is to be deleted."""
    sent = asyncio.get_running_loop().create_future()

    async def delete(manifest: Manifest) -> Manifest | None:
        sent.set_result(manifest)
        await asyncio.Event().wait()
        return None

    instead(first.volumes, delete=delete)
    async with first.volumes.watching():
        task = asyncio.create_task(replace(first, "n2"))
        manifest: Manifest = await sent
        task.cancel()
        await asyncio.wait([task])
    return manifest


@pytest.mark.parametrize("when", ["at once", "claim read", "entry prepared"])
async def test_a_deletion_of_a_crashed_instance_loses_no_volume(when: str) -> None:
    """Before the next instance begins, while it takes the markers off, or, as it must not set the
    entry to `prepared` before that, never.
    """
    async with bound() as (first, sidecars):
        manifest = await crash_before_it_arrives(first)
        second = setup_on(first.cluster, first.linstor, journal=first.journal, holder="second")
        save, read_claim, arrived = second.journal.save, second.volumes.read_claim, list[str]()

        def arrives(at: str) -> None:
            if at == when and not arrived:
                arrived.append(at)
                uid, version = manifest["metadata"]["uid"], manifest["metadata"]["resourceVersion"]
                first.cluster.delete("persistentvolumes", PV, uid=uid, version=version)

        async def saved(entry: JournalEntry) -> JournalEntry:
            made = await save(entry)
            if entry.state is State.PREPARED:
                arrives("entry prepared")
            return made

        async def claim_read(claim: ClaimName) -> Manifest | None:
            found = await read_claim(claim)
            arrives("claim read")
            return found

        instead(second.journal, save=saved)
        instead(second.volumes, read_claim=claim_read)
        arrives("at once")
        async with second.at_work():
            await reconciled(second, 30)

        assert bool(arrived) is (when != "entry prepared")
        assert sidecars.reclaimed == []
        assert is_on(first.cluster, "n2")
        assert "deletionTimestamp" not in first.pv()["metadata"]
        assert first.claim()["status"]["phase"] == "Bound"


@pytest.mark.parametrize("late", [True, False])
async def test_a_deletion_without_a_response_is_our_own_after_a_second_one_was_rejected(
    *, late: bool
) -> None:
    """The first one takes effect while the run rolls back."""
    async with bound() as (setup, _):
        delete, read_claim, sent = setup.volumes.delete, setup.volumes.read_claim, list[Manifest]()
        arrived = False

        async def deleted(manifest: Manifest) -> Manifest | None:
            sent.append(manifest)
            if len(sent) == 1:
                raise Unreachable("no answer")
            if len(sent) == 2:
                raise Forbidden("a webhook denies it")
            return await delete(manifest)

        async def arrives() -> None:
            nonlocal arrived
            if late and len(sent) == 2 and not arrived:
                arrived = True
                await delete(sent[0])

        save = setup.journal.save

        async def saved(entry: JournalEntry) -> JournalEntry:
            made = await save(entry)
            await arrives()
            return made

        async def claim_read(claim: ClaimName) -> Manifest | None:
            found = await read_claim(claim)
            await arrives()
            return found

        instead(setup.volumes, delete=deleted, read_claim=claim_read)
        instead(setup.journal, save=saved)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reconciled(setup, 60)

        assert arrived is late
        assert is_on(setup.cluster, "n2")
        assert "deletionTimestamp" not in setup.pv()["metadata"]
