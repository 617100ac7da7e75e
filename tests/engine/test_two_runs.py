"""Two instances have a run for the same volume: after a failover, or without leader election."""

import asyncio
import json
from dataclasses import replace as changed

import pytest

from linstor_affinity_events.engine.ports import Listed
from linstor_affinity_events.errors import Conflict, Unreachable
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import FINALIZER, MARKER_ANNOTATION, VolumeKey
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.markers import is_marked
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName
from linstor_affinity_events.model.steps import Outcome
from tests.engine.forged_entries import is_on, reconciled
from tests.engine.setup import (
    PV,
    RD,
    Json,
    Setup,
    cluster_with,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.fakes.linstor import FakeLinstor


def fail_over(before: Setup, after: Setup) -> None:
    for setup, leads in ((before, False), (after, True)):
        setup.leadership.leading = leads
        setup.engine.leadership_changed(leading=leads)


class Lossy:
    """Loses the first responses to one kind of write."""

    def __init__(self, setup: Setup, what: str) -> None:
        self._what, self.left = what, {"nothing": 0, "create": 2}.get(what, 1)
        delete, create = setup.volumes.delete, setup.volumes.create

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            self.lose("delete")
            return response

        async def created(manifest: Manifest) -> Manifest:
            if setup.cluster.get("persistentvolumes", PV) is None:
                self.lose("create")
            return await create(manifest)

        instead(setup.volumes, delete=deleted, create=created)

    def lose(self, what: str) -> None:
        if what == self._what and self.left:
            self.left -= 1
            raise Unreachable("the response is lost")


@pytest.mark.parametrize("elects", [True, False])
@pytest.mark.parametrize("lost", ["nothing", "delete", "detach", "create"])
async def test_an_entry_dropped_before_its_mark_arrives_is_written_again(
    lost: str, elects: bool
) -> None:
    """The other instance sees a live volume without markers, whose entry nobody needs."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        first = setup_on(cluster, linstor, holder="first")
        second = setup_on(cluster, linstor, journal=first.journal, holder="second")
        lossy, patch, drop = Lossy(first, lost), first.volumes.patch, first.journal.drop
        saved, dropped = asyncio.Event(), asyncio.Event()

        async def patched(name: PvName, change: Json) -> Manifest:
            if not dropped.is_set() and FINALIZER in (change["metadata"].get("finalizers") or []):
                await until(lambda: first.journal.entries[PV][1]["state"] == "deleting")
                saved.set()
                await dropped.wait()
            response = await patch(name, change)
            if "deletionTimestamp" in response["metadata"]:
                lossy.lose("detach")
            return response

        async def dropping(entry: JournalEntry) -> None:
            await drop(entry)
            if saved.is_set() and not dropped.is_set():
                dropped.set()
                # The response to the drop is still on its way when the mark takes effect.
                await asyncio.sleep(0.05)

        instead(first.volumes, patch=patched)
        instead(first.journal, drop=dropping)
        if elects:
            second.leadership.leading = False
            second.engine.leadership_changed(leading=False)
        async with first.at_work():
            first.queue.add(RD, source="promotion")
            await saved.wait()
            if elects:
                fail_over(first, second)
            async with second.at_work():
                await second.full_reconciler.reconcile_all("period")
                await dropped.wait()
                await asyncio.sleep(30.0)
                await reconciled(second, 10)

        assert not lossy.left
        assert "deletionTimestamp" not in second.pv()["metadata"]
        assert is_on(cluster, "n2")
        assert first.claim()["status"]["phase"] == "Bound"
        assert first.journal.entries == {}


async def test_a_run_that_verifies_does_not_drop_the_entry_of_a_later_replacement() -> None:
    volume = PvName("pvc-11111111-2222-4333-8444-555555555555")
    resource = ResourceName(volume)
    async with cluster_with(volume) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(volume, "n2")
        first = setup_on(cluster, linstor, holder="first")
        second = setup_on(cluster, linstor, journal=first.journal, holder="second")
        read_claim, create = first.volumes.read_claim, second.volumes.create
        verifying, go_on, failed = asyncio.Event(), asyncio.Event(), 0

        async def slowly(claim: ClaimName) -> Manifest | None:
            if first.nodes(volume) == {"n2"}:
                verifying.set()
                await go_on.wait()
            return await read_claim(claim)

        async def created(manifest: Manifest) -> Manifest:
            nonlocal failed
            if failed < 3 and cluster.get("persistentvolumes", volume) is None:
                failed += 1
                go_on.set()
                await asyncio.sleep(1.0)
                raise Unreachable("the API server is restarting")
            return await create(manifest)

        instead(first.volumes, read_claim=slowly)
        instead(second.volumes, create=created)
        async with first.at_work():
            first.queue.add(resource, source="promotion")
            await verifying.wait()
            first.leadership.leading = False
            first.engine.leadership_changed(leading=False)
            linstor.place(volume, "n3")
            async with second.at_work():
                await reconciled(second, 1)
                second.queue.add(resource, source="promotion")
                await asyncio.sleep(20.0)
                await reconciled(second, 5)

        assert failed == 3
        assert second.nodes(volume) == {"n3"}
        assert second.journal.entries == {}


async def test_a_volume_that_a_user_deletes_after_another_instance_finished_stays_deleted() -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        delete, finished = setup.volumes.delete, False
        release: Json = {"metadata": {"finalizers": []}}

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal finished
            response = await delete(manifest)
            del setup.journal.entries[PV]
            cluster.patch("persistentvolumes", PV, release)
            cluster.create("persistentvolumes", {**manifest, "metadata": {"name": PV}})
            await asyncio.sleep(1.0)
            cluster.patch("persistentvolumes", PV, release)
            cluster.delete("persistentvolumes", PV)
            finished = True
            return response

        instead(setup.volumes, delete=deleted)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: finished)
            await reconciled(setup, 3)

        assert cluster.get("persistentvolumes", PV) is None
        assert setup.journal.entries == {}


@pytest.mark.parametrize(
    "others_write",
    ["the entry", "the entry and the volume", "the first name on the volume", "both names"],
)
async def test_an_entry_with_another_holder_loses_no_volume_after_a_failover(
    others_write: str,
) -> None:
    """The first instance is about to delete the volume when the second one leads, and deletes it.
    Others write the name of the first one into the entry, and remove that of the second one from
    the volume or write the name of the first one there, too.
    """
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        first = setup_on(cluster, linstor, holder="first")
        second = setup_on(cluster, linstor, journal=first.journal, holder="second")
        second.leadership.leading = False
        second.engine.leadership_changed(leading=False)
        reached, taken = asyncio.Event(), asyncio.Event()
        delete_by_first, delete_by_second = first.volumes.delete, second.volumes.delete
        patch = second.volumes.patch

        async def wait_and_delete(manifest: Manifest) -> Manifest | None:
            if not reached.is_set():
                reached.set()
                await taken.wait()
            return await delete_by_first(manifest)

        async def delete_and_rewrite(manifest: Manifest) -> Manifest | None:
            response = await delete_by_second(manifest)
            version, tree = first.journal.entries[PV]
            if others_write != "the first name on the volume":
                first.journal.entries[PV] = (f"{version}0", {**tree, "holder": "first"})
            markers = json.loads(first.pv()["metadata"]["annotations"][MARKER_ANNOTATION])
            forged = json.dumps({**markers, "holder": "first"}) if "name" in others_write else None
            if others_write != "the entry":
                change = {"metadata": {"annotations": {MARKER_ANNOTATION: forged}}}
                cluster.patch("persistentvolumes", PV, change)
            taken.set()
            return response

        async def patch_slowly(name: PvName, change: Json) -> Manifest:
            if taken.is_set():
                await asyncio.sleep(1.0)
            return await patch(name, change)

        instead(first.volumes, delete=wait_and_delete)
        instead(second.volumes, delete=delete_and_rewrite, patch=patch_slowly)
        async with first.at_work():
            first.queue.add(RD, source="promotion")
            await reached.wait()
            fail_over(first, second)
            async with second.at_work():
                await second.full_reconciler.reconcile_all("leading")
                await until(taken.is_set)
                await reconciled(second, 10)

        assert is_on(cluster, "n2")
        assert first.claim()["status"]["phase"] == "Bound"


async def test_one_process_has_one_run_for_a_volume_whatever_its_entry_is_labelled_with() -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor, at_once=3)
        listed, delete = setup.journal.all, setup.volumes.delete
        reached, go_on = asyncio.Event(), asyncio.Event()
        deletions = 0

        async def list_for_another_resource() -> Listed:
            found = await listed()
            keys = dict.fromkeys(found.volumes, VolumeKey(ResourceName("other")))
            return changed(found, volumes=keys)

        async def delete_slowly(manifest: Manifest) -> Manifest | None:
            nonlocal deletions
            deletions += 1
            reached.set()
            await go_on.wait()
            return await delete(manifest)

        instead(setup.journal, all=list_for_another_resource)
        instead(setup.volumes, delete=delete_slowly)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await reached.wait()
            assert setup.replacer.unfinished.of(ResourceName("other")) == []
            await setup.full_reconciler.reconcile_all("period")
            assert setup.replacer.unfinished.of(ResourceName("other")) == []
            with pytest.raises(Conflict, match="already"):
                await setup.replacer.resume(PV)
            go_on.set()
            await reconciled(setup, 5)

        assert is_on(cluster, "n2")
        assert deletions == 1


@pytest.mark.parametrize("begins", ["replacement", "resume"])
async def test_two_workers_never_change_one_volume(begins: str) -> None:
    """Another entry for the volume names another resource, whose worker finds no entry and would
    remove the markers just before the volume is deleted.
    """
    async with one_setup("n2") as setup, setup.volumes.watching():
        patch, second = setup.volumes.patch, list[BaseException | None]()

        async def patched(name: PvName, change: Patch) -> Manifest:
            made = await patch(name, change)
            if is_marked(made) and not second:
                second.append(None)
                del setup.journal.entries[PV]
                resumed = setup.replacer.resume(PV) if begins == "resume" else replace(setup, "n3")
                second[0] = (await asyncio.gather(resumed, return_exceptions=True))[0]
                assert is_marked(setup.pv())
            return made

        instead(setup.volumes, patch=patched)
        # Its own entry is gone, so the volume is left as it was.
        assert await replace(setup, "n2") is Outcome.ROLLED_BACK

        assert isinstance(second[0], Conflict)
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
