"""What others do in the worst moment: lagging watches, users, lost entries, other instances."""

import asyncio
import json
from dataclasses import replace as changed
from typing import Any

import pytest

from linstor_affinity_events.engine.claim_at_rest import RESIZE_CHECKED_EVERY
from linstor_affinity_events.engine.resync_prediction import MARGIN_AFTER, RESYNC_PERIOD
from linstor_affinity_events.errors import Conflict, Forbidden, Unreachable
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.decision import Reason, Refusal
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import (
    FINALIZER,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_ANNOTATION,
    VolumeKey,
)
from linstor_affinity_events.model.manifest import Manifest, Patch, name_of, uid_of
from linstor_affinity_events.model.markers import has_any_marker
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.results import Postponed
from linstor_affinity_events.model.steps import Outcome
from tests.engine.setup import (
    PV,
    RD,
    Setup,
    bind,
    cluster_with,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.fakes.kube_server import Binder, FakeCluster
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

Json = dict[str, Any]


def warnings_of(setup: Setup) -> list[str]:
    return [reason for _, reason, _ in setup.notices.warnings]


async def cut_off_after_marking(setup: Setup) -> None:
    """Leave a volume that has our markers, its entry `prepared`."""
    setup.faults.refuse("save", Unreachable)
    with pytest.raises(Unreachable):
        await replace(setup, "n2")
    setup.faults.allow("save")
    assert FINALIZER in setup.pv()["metadata"]["finalizers"]


async def test_events_of_an_earlier_incarnation_do_not_end_a_replacement() -> None:
    cluster = FakeCluster()
    async with Binder(cluster, delay=0.001) as binder:
        bind(cluster, PV, "n1")
        await binder.until_idle()
        setup = setup_on(cluster, FakeLinstor("n1", "n2", "n3"))
        old = setup.pv()
        async with setup.volumes.watching():
            await replace(setup, "n2")
            await asyncio.sleep(1.0)
            patch = setup.volumes.patch

            async def late_events(name: PvName, wanted: Json) -> Any:
                response = await patch(name, wanted)
                if "claimRef" in wanted.get("spec", {}):
                    loop = asyncio.get_running_loop()
                    loop.call_later(0.1, setup.volumes.index.changed, old)
                    loop.call_later(0.3, binder.resume)
                return response

            instead(setup.volumes, patch=late_events)
            binder.pause()
            outcome = await replace(setup, "n3")

        assert outcome is Outcome.DONE
        assert setup.nodes() == {"n3"}
        assert setup.journal.entries == {}


async def test_markers_without_entry_on_a_released_volume_are_removed_except_retain() -> None:
    async with one_setup() as setup:
        async with setup.volumes.watching():
            await cut_off_after_marking(setup)
            setup.journal.entries.clear()
            setup.replacer.unfinished.leadership_gained()
            setup.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
            await until(lambda: setup.pv()["status"]["phase"] == "Released")
            outcome = await setup.replacer.resume(PV)

        assert outcome is Outcome.RECREATED_WITH_RETAIN
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        annotations = setup.pv()["metadata"]["annotations"]
        assert annotations[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
        assert warnings_of(setup) == ["VolumeRetained"]


async def test_a_terminating_volume_without_entry_is_unchanged_and_reported() -> None:
    async with one_setup() as setup:
        async with setup.volumes.watching():
            setup.faults.refuse("remove", Unreachable)
            with pytest.raises(Unreachable):
                await replace(setup, "n2")
            setup.journal.entries.clear()
            setup.replacer.unfinished.leadership_gained()
            setup.faults.allow("remove")
            before = setup.pv()
            outcome = await setup.replacer.resume(PV)

        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.BAD_JOURNAL_ENTRY
        assert setup.pv() == before


async def test_an_outdated_observation_does_not_delete_the_entry_of_another_instance() -> None:
    async with one_setup() as setup:
        other = setup_on(setup.cluster, setup.linstor, journal=setup.journal, holder="other")
        unmarked = setup.pv()
        async with setup.volumes.watching(), other.volumes.watching():
            setup.faults.refuse("remove", Unreachable)
            with pytest.raises(Unreachable):
                await replace(setup, "n2")
            read, first = other.volumes.read, [unmarked]

            async def late(name: PvName) -> Any:
                return first.pop() if first else await read(name)

            instead(other.volumes, read=late)
            outcome = await other.replacer.resume(PV)

        assert outcome is Outcome.DONE
        assert setup.nodes() == {"n2"}


async def test_a_trigger_between_deletion_and_recreation_is_not_lost() -> None:
    async with one_setup("n2") as setup, setup.at_work():
        setup.queue.add(RD, source="promotion")
        await until(lambda: setup.notices.informed)
        setup.linstor.place(PV, "n3")
        setup.volumes.index.gone(setup.pv())
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(0.5)
        assert setup.nodes() == {"n2"}

        setup.volumes.index.changed(setup.pv())
        await until(lambda: setup.nodes() == {"n3"}, within=0.2)


async def test_a_just_replaced_volume_raises_no_false_alarm() -> None:
    async with one_setup("n2") as setup, setup.at_work():
        setup.queue.add(RD, source="promotion")
        await until(lambda: setup.notices.informed)
        marked = setup.pv()
        marked["metadata"] |= {
            "uid": "old",
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [FINALIZER],
        }
        setup.volumes.index.changed(marked)
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(0.5)

        assert warnings_of(setup) == []


async def test_a_change_reverted_by_admission_is_retried_with_backoff() -> None:
    async with one_setup("n2") as setup:
        patch = setup.volumes.patch

        async def labelling(name: PvName, wanted: Json) -> Any:
            await patch(name, wanted)
            label = {"metadata": {"labels": {"touched": str(len(setup.faults.writes))}}}
            return setup.cluster.patch("persistentvolumes", name, label)

        instead(setup.volumes, patch=labelling)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(3600.0)

        assert setup.faults.writes.count("note") < 100
        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]


async def test_a_failing_volume_does_not_block_its_sibling() -> None:
    async with cluster_with(PV) as cluster:
        bind(cluster, "second", "n1", handle="pvc-1/1")
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        setup.journal.entries[PV] = ("1", {"format": "of the future"})
        async with setup.at_work():
            await asyncio.sleep(1.0)
            setup.queue.add(RD, source="promotion")
            await until(lambda: setup.nodes("second") == {"n2"})

        assert setup.nodes() == {"n1"}
        assert warnings_of(setup) == ["VolumeAffinityNotUpdated"]


async def test_an_unreadable_volume_does_not_block_its_sibling() -> None:
    async with cluster_with(PV) as cluster:
        bind(cluster, "second", "n1", handle="pvc-1/1")
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        read = setup.volumes.read

        async def choosy(name: PvName) -> Any:
            if name == PV:
                raise Unreachable("this one hangs")
            return await read(name)

        instead(setup.volumes, read=choosy)
        async with setup.at_work():
            await asyncio.sleep(1.0)
            setup.queue.add(RD, source="promotion")
            await until(lambda: setup.nodes("second") == {"n2"}, within=60.0)


async def test_changes_unknown_to_the_index_are_read_before_any_write() -> None:
    async with one_setup("n2") as setup, setup.at_work():
        before = setup.pv()["metadata"]["uid"]
        instead(setup.volumes.index, changed=lambda manifest: None)
        skip = {"metadata": {"annotations": {SKIP_ANNOTATION: "yes"}}}
        setup.cluster.patch("persistentvolumes", PV, skip)
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(30.0)

        assert setup.pv()["metadata"]["uid"] == before
        assert setup.faults.writes == []


async def test_a_volume_deleted_by_a_user_just_before_us_stays_deleted() -> None:
    async with one_setup() as setup:
        delete = setup.volumes.delete

        async def too_late(manifest: Json) -> Any:
            setup.cluster.delete("persistentvolumes", PV)
            return await delete(manifest)

        instead(setup.volumes, delete=too_late)
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DELETED_BY_USER
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
        assert setup.journal.entries == {}


async def test_a_volume_deleted_by_a_user_before_a_resumed_deletion_stays_deleted() -> None:
    async with one_setup() as setup, setup.volumes.watching():
        await cut_off_after_marking(setup)
        delete = setup.volumes.delete

        async def too_late(manifest: Json) -> Any:
            setup.cluster.delete("persistentvolumes", PV)
            return await delete(manifest)

        instead(setup.volumes, delete=too_late)
        outcome = await setup.replacer.resume(PV)

        assert outcome is Outcome.DELETED_BY_USER
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert FINALIZER not in setup.pv()["metadata"]["finalizers"]
        assert setup.journal.entries == {}


async def test_a_deletion_with_a_lost_response_is_not_attributed_to_a_user() -> None:
    async with one_setup() as setup:
        delete, lost = setup.volumes.delete, [True]

        async def lossy(manifest: Json) -> Any:
            response = await delete(manifest)
            if lost:
                lost.pop()
                raise Unreachable("the response was lost")
            return response

        instead(setup.volumes, delete=lossy)
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert setup.nodes() == {"n2"}


async def test_a_deletion_by_another_instance_is_not_attributed_to_a_user() -> None:
    async with one_setup() as setup:
        other = setup_on(setup.cluster, setup.linstor, journal=setup.journal, holder="other")
        delete = setup.volumes.delete

        async def overtaken(manifest: Json) -> Any:
            other.faults.refuse("patch", Unreachable)
            with pytest.raises(Unreachable):
                await other.replacer.resume(PV)
            return await delete(manifest)

        instead(setup.volumes, delete=overtaken)
        async with setup.volumes.watching(), other.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert setup.nodes() == {"n2"}


def saved_by_the_reference(setup: Setup) -> None:
    saved = json.dumps(setup.pv())
    setup.linstor.known[RD] = changed(setup.linstor.known[RD], saved={0: saved})


async def test_a_saved_pv_that_linstor_does_not_delete_is_taken_over_once() -> None:
    async with one_setup("n1") as setup:
        saved_by_the_reference(setup)
        remove(setup.cluster)

        async def never(resource: str, number: int) -> None:
            raise Unreachable("a satellite hangs")

        instead(setup.linstor, forget_saved=never)
        async with setup.at_work():
            await setup.full_reconciler.reconcile_all("start")
            await until(lambda: setup.cluster.get("persistentvolumes", PV) is not None)
            await asyncio.sleep(60.0)
            remove(setup.cluster)
            await setup.full_reconciler.reconcile_all("period")
            await asyncio.sleep(600.0)

        assert setup.cluster.get("persistentvolumes", PV) is None


def remove(cluster: FakeCluster) -> None:
    cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})
    cluster.delete("persistentvolumes", PV)


async def test_a_user_deletion_after_our_rejected_deletion_stays() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        patch = setup.volumes.patch

        async def lost_once_unmarked(name: PvName, change: Patch) -> Manifest:
            done = await patch(name, change)
            if not has_any_marker(done):
                raise Unreachable("the answer is lost")
            return done

        instead(setup.volumes, patch=lost_once_unmarked)
        setup.faults.refuse("delete", Forbidden)
        async with setup.volumes.watching():
            with pytest.raises(Unreachable):
                await replace(setup, "n2")
            setup.faults.allow("delete")
            instead(setup.volumes, patch=patch)
            remove(cluster)

            assert await setup.replacer.resume(PV) is Outcome.DELETED_BY_USER

        assert cluster.get("persistentvolumes", PV) is None


async def test_a_claim_ref_restored_by_the_binder_is_detached_again() -> None:
    async with cluster_with(PV) as cluster, Binder(cluster, delay=0.001) as binder:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        patch, bent = setup.volumes.patch, [True]

        async def unread(name: PvName) -> Any:
            raise AssertionError(name)

        async def bending(name: PvName, wanted: Json) -> Any:
            response = await patch(name, wanted)
            if "claimRef" in wanted.get("spec", {}) and bent:
                bent.pop()
                # The watch shows it; nothing has to be asked.
                instead(setup.volumes, read=unread)
                back = {"spec": {"claimRef": {"name": f"claim-{PV}"}}}
                cluster.patch("persistentvolumes", name, back)
            return response

        instead(setup.volumes, patch=bending)
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert not bent
        assert binder.lost_claims == []


async def test_a_resync_is_avoided_for_as_long_as_the_binder_is_behind() -> None:
    """Its worker may take a deletion just before the creation, and that after all others."""
    async with cluster_with(PV, binder_takes=0.8) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        guard = setup.replacer._dependencies.guard
        clock = asyncio.get_running_loop().time
        async with setup.volumes.watching():
            assert await replace(setup, "n2") is Outcome.DONE
            began = clock()
            guard.found_lost()

            await asyncio.sleep(14.2)
            entry = JournalEntry.begin(setup.pv(), VolumeKey(RD), NodeAffinity.of(()), holder="me")
            with setup.volumes.follow(PV) as volume_watch:
                waited = await guard.avoid_resync(setup.pv(), entry, volume_watch)
            assert waited == Postponed()
            assert clock() == pytest.approx(began + 15.5)


async def test_a_watch_that_is_behind_is_no_sign_of_a_resync() -> None:
    """It still shows the volume as it was before its claimRef was detached."""
    async with one_setup() as setup:
        guard = setup.replacer._dependencies.guard
        guard.found_lost()
        pv = setup.pv()
        entry = JournalEntry.begin(pv, VolumeKey(RD), NodeAffinity.of(()), holder="me")
        async with setup.volumes.watching():
            with setup.volumes.follow(PV) as volume_watch:
                await setup.volumes.patch(PV, {"metadata": {"labels": {"a": "b"}}})
                await until(lambda: volume_watch.latest is not None)
                detached = setup.pv()
                detached["metadata"]["resourceVersion"] += "0"

                assert await guard.avoid_resync(detached, entry, volume_watch) == Postponed()


async def test_a_removal_waits_only_until_the_resync_has_checked_its_claim() -> None:
    """The resync restores the claimRef, which has to be detached once more."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        clock = asyncio.get_running_loop().time
        first = clock() + RESYNC_PERIOD
        async with setup.volumes.watching():
            await asyncio.sleep(RESYNC_PERIOD)
            setup.replacer._dependencies.guard.found_lost()
            await asyncio.sleep(first + RESYNC_PERIOD - 0.1 - clock())

            assert await replace(setup, "n2") is Outcome.DONE

        assert RESYNC_PERIOD <= clock() - first < RESYNC_PERIOD + MARGIN_AFTER / 2
        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.telemetry.counted["claim lost"] == 0


async def test_a_volume_without_a_claim_does_not_wait_for_a_resync() -> None:
    async with cluster_with() as cluster:
        unclaimed = manifests.volume(PV, claim=None, node_affinity=manifests.on_nodes(("n1",)))
        cluster.create("persistentvolumes", unclaimed)
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        await until(lambda: setup.pv()["status"]["phase"] == "Available")
        began = asyncio.get_running_loop().time()
        setup.replacer._dependencies.guard.found_lost()
        async with setup.volumes.watching():
            assert await replace(setup, "n2") is Outcome.DONE

        assert asyncio.get_running_loop().time() - began < 0.1


async def test_a_replacement_started_during_a_journal_list_is_not_dropped() -> None:
    async with one_setup() as setup:
        everything = setup.journal.all

        async def slow() -> Any:
            found = await everything()
            await cut_off_after_marking(setup)
            return found

        instead(setup.journal, all=slow)
        async with setup.volumes.watching():
            await setup.replacer.load()

        assert setup.replacer.unfinished.of(RD) == [PV]


async def test_an_instance_that_yields_reports_no_absent_or_stuck_volumes() -> None:
    async with one_setup() as setup:
        setup.faults.refuse("create", Conflict)
        async with setup.volumes.watching():
            with pytest.raises(Conflict):
                await replace(setup, "n2")
        assert setup.telemetry.now["absent"] == 1

        setup.replacer.unfinished.leadership_lost()

        assert setup.telemetry.now["absent"] == 0


@pytest.mark.parametrize("ends", ["leading", "closed"])
async def test_nothing_starts_once_another_instance_leads_or_it_stops(ends: str) -> None:
    async with one_setup() as setup:
        dry_run = setup.volumes.dry_run

        async def meanwhile(pv: Json, mark: Json, wanted: Json) -> Manifest:
            response = await dry_run(pv, mark, wanted)
            if ends == "leading":
                setup.leadership.leading = False
            else:
                setup.queue.close()
            return response

        instead(setup.volumes, dry_run=meanwhile)
        async with setup.volumes.watching():
            await replace(setup, "n2")

        assert setup.nodes() == {"n1"}
        assert setup.faults.writes == ["rehearse", "note", "drop"]
        assert setup.journal.entries == {}
        assert setup.replacer.unfinished.pending == {}


async def test_a_volume_recreated_with_retain_is_reported_despite_a_lost_response() -> None:
    async with one_setup() as setup, setup.volumes.watching():
        setup.faults.refuse("remove", Unreachable)
        with pytest.raises(Unreachable):
            await replace(setup, "n2")
        claim = f"claim-{PV}"
        setup.cluster.delete("persistentvolumeclaims", claim, namespace="default")
        await until(lambda: setup.cluster.get("persistentvolumeclaims", claim, "default") is None)
        setup.faults.allow("remove")
        create = setup.volumes.create

        async def lossy(manifest: Json) -> Any:
            await create(manifest)
            raise Unreachable("the response was lost")

        instead(setup.volumes, create=lossy)
        outcome = await setup.replacer.resume(PV)

        assert outcome is Outcome.RECREATED_WITH_RETAIN
        assert warnings_of(setup) == ["VolumeRetained"]


async def test_state_of_deleted_volumes_is_dropped() -> None:
    async with one_setup("n1") as setup, setup.at_work():
        setup.linstor.place(PV, "n1", flags={"n1": "DELETE"})
        setup.queue.add(RD, source="promotion")
        await asyncio.sleep(2.0)
        remove(setup.cluster)
        del setup.linstor.known[RD]
        await asyncio.sleep(1.0)
        await setup.full_reconciler.reconcile_all("period")

        assert setup.reconciler.remembered() == 0
        assert setup.reporter.out_of_sync == {}


def written_at_the_last_moment(setup: Setup, patch: Json) -> None:
    """Let somebody write when the API server has compared versions already, and has not yet
    removed the volume: it takes that, and the removal goes on.
    """
    remove = setup.volumes.remove

    async def raced(manifest: Manifest) -> None:
        there = setup.cluster.get("persistentvolumes", name_of(manifest))
        if there is not None and uid_of(there) == uid_of(manifest):
            setup.cluster.patch("persistentvolumes", name_of(manifest), patch)
            manifest = setup.pv()
        await remove(manifest)

    instead(setup.volumes, remove=raced)


LATE = {"metadata": {"labels": {"late": "yes"}, "annotations": {"example.com/late": "yes"}}}


async def test_a_write_during_the_removal_of_the_volume_is_not_lost() -> None:
    async with one_setup() as setup:
        written_at_the_last_moment(setup, LATE)
        async with setup.volumes.watching():
            before = setup.pv()
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert setup.pv()["metadata"]["labels"] == {
            **before["metadata"].get("labels", {}),
            "late": "yes",
        }
        assert setup.pv()["metadata"]["annotations"]["example.com/late"] == "yes"
        assert setup.nodes() == {"n2"}
        assert not has_any_marker(setup.pv())
        assert setup.journal.entries == {}


def failing_to_take_it_over(setup: Setup, errors: list[Exception]) -> None:
    """Let the first patches that bring what came late fail so; each that did is taken off."""
    patch = setup.volumes.patch

    async def fails_first(name: PvName, wanted: Patch) -> Manifest:
        if "late" in wanted["metadata"].get("labels", {}) and errors:
            raise errors.pop(0)
        return await patch(name, wanted)

    instead(setup.volumes, patch=fails_first)


@pytest.mark.parametrize("error", [Unreachable, Conflict])
async def test_a_late_write_is_retried(error: type[Exception]) -> None:
    async with one_setup() as setup:
        written_at_the_last_moment(setup, LATE)
        errors: list[Exception] = [error("a bad moment")]
        failing_to_take_it_over(setup, errors)
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert not errors
        assert setup.pv()["metadata"]["labels"]["late"] == "yes"
        assert setup.journal.entries == {}


async def test_a_rejected_late_write_is_reported_and_blocks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_setup() as setup:
        written_at_the_last_moment(setup, LATE)
        failing_to_take_it_over(setup, [Forbidden("not now")] * 3)
        with caplog.at_level("ERROR"):
            async with setup.volumes.watching():
                outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert setup.journal.entries == {}
    assert [record.message for record in caplog.records] == [
        (
            "another client changed the volume while this service deleted it, and Kubernetes "
            "rejected that change on the recreated volume. The volume exists without it. It is "
            "not retried: apply it again if it is needed"
        )
    ]


async def test_the_deletion_of_another_incarnation_is_not_a_late_write() -> None:
    async with one_setup() as setup:
        gone = setup.volumes.index.gone

        def old_events(manifest: Manifest) -> None:
            other = {**manifest["metadata"], "uid": "another", "labels": {"late": "no"}}
            gone({**manifest, "metadata": other})

        instead(setup.volumes.index, gone=old_events)
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert "late" not in setup.pv()["metadata"].get("labels", {})


async def test_a_missing_delete_event_is_waited_for_only_briefly() -> None:
    async with one_setup() as setup:
        instead(setup.volumes.index, gone=lambda _: None)
        async with setup.volumes.watching():
            begun = asyncio.get_running_loop().time()
            outcome = await replace(setup, "n2")
            took = asyncio.get_running_loop().time() - begun

        assert outcome is Outcome.DONE
        assert took < 2.0


async def test_a_volume_recreated_with_retain_keeps_it_despite_late_writes() -> None:
    async with one_setup() as setup:
        async with setup.volumes.watching():
            patch = setup.volumes.patch

            async def claim_goes(name: PvName, wanted: Patch) -> Manifest:
                response = await patch(name, wanted)
                if "claimRef" in wanted.get("spec", {}):
                    claim = setup.claim()["metadata"]
                    setup.cluster.patch(
                        "persistentvolumeclaims",
                        claim["name"],
                        {"metadata": {"finalizers": []}},
                        namespace="default",
                    )
                    setup.cluster.delete(
                        "persistentvolumeclaims", claim["name"], namespace="default"
                    )
                    await asyncio.sleep(61.0)
                return response

            instead(setup.volumes, patch=claim_goes)
            change = {**LATE, "spec": {"persistentVolumeReclaimPolicy": "Recycle"}}
            written_at_the_last_moment(setup, change)
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.RECREATED_WITH_RETAIN
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        assert setup.pv()["metadata"]["labels"]["late"] == "yes"


@pytest.mark.parametrize("done_after", [0.32, 60.0])
async def test_the_removal_is_delayed_briefly_while_the_claim_is_resized(
    done_after: float,
) -> None:
    """csi-resizer writes to the claim, and the binder calls it Lost if its volume is away then."""
    async with one_setup("n2") as setup:
        removed, loop = list[float](), asyncio.get_running_loop()
        delete, remove, asked = setup.volumes.delete, setup.volumes.remove, 0.0

        def resized(part: str, size: Json, writer: Writer | None = None) -> None:
            setup.cluster.patch(
                "persistentvolumeclaims",
                f"claim-{PV}",
                {part: size},
                namespace="default",
                writer=writer,
            )

        async def deleted(manifest: Manifest) -> Manifest | None:
            nonlocal asked
            asked = loop.time()
            resized("spec", {"resources": {"requests": {"storage": "2Gi"}}})
            status = {"capacity": {"storage": "2Gi"}}
            loop.call_later(done_after, resized, "status", status, Writer(subresource="status"))
            return await delete(manifest)

        async def counted(manifest: Manifest) -> None:
            removed.append(loop.time())
            await remove(manifest)

        instead(setup.volumes, delete=deleted, remove=counted)
        assert await replace(setup, "n2") == Outcome.DONE

        # The binder learns a little later of the write that ends the resize.
        assert min(done_after + RESIZE_CHECKED_EVERY, 1.0) <= removed[0] - asked < 4.0


async def test_a_volume_is_not_removed_just_after_a_write_to_its_claim() -> None:
    """csi-resizer writes the size to the volume, which is a conflict, and then to the claim."""
    async with one_setup("n2") as setup:
        removed, loop = list[float](), asyncio.get_running_loop()
        remove = setup.volumes.remove

        async def counted(manifest: Manifest) -> None:
            removed.append(loop.time())
            if len(removed) == 1:
                setup.cluster.patch(
                    "persistentvolumes", PV, {"spec": {"capacity": {"storage": "2Gi"}}}
                )
                setup.cluster.patch(
                    "persistentvolumeclaims",
                    f"claim-{PV}",
                    {"status": {"conditions": []}},
                    namespace="default",
                    writer=Writer(subresource="status"),
                )
            await remove(manifest)

        instead(setup.volumes, remove=counted)
        assert await replace(setup, "n2") == Outcome.DONE

        assert removed[1] - removed[0] >= RESIZE_CHECKED_EVERY
