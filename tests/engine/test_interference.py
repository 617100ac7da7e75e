"""What others do in the worst moment: lagging watches, users, lost notes, other instances."""

import asyncio
import json
from dataclasses import replace as changed
from random import Random
from typing import Any

import pytest

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.errors import Conflict, Forbidden, Unreachable
from linstor_affinity_events.model.keys import (
    FINALIZER,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_ANNOTATION,
)
from linstor_affinity_events.model.manifest import Manifest, Patch, name_of, uid_of, wears_marks
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.replacement import Outcome
from linstor_affinity_events.model.verdict import Reason, Refusal
from tests.engine.house import (
    PV,
    RD,
    House,
    bind,
    cluster_with,
    house_on,
    instead,
    one_house,
    replace,
    until,
)
from tests.fakes.kube_server import Binder, FakeCluster
from tests.fakes.linstor import FakeLinstor

Json = dict[str, Any]


def warnings_of(house: House) -> list[str]:
    return [reason for _, reason, _ in house.notices.warnings]


async def cut_off_after_marking(house: House) -> None:
    """Leave a volume that wears our marks, its note `prepared`."""
    house.faults.refuse("save", Unreachable)
    with pytest.raises(Unreachable):
        await replace(house, "n2")
    house.faults.allow("save")
    assert FINALIZER in house.pv()["metadata"]["finalizers"]


async def test_news_of_an_earlier_incarnation_do_not_end_a_replacement() -> None:
    cluster = FakeCluster()
    async with Binder(cluster, delay=0.001) as binder:
        bind(cluster, PV, "n1")
        await binder.settled()
        house = house_on(cluster, FakeLinstor("n1", "n2", "n3"))
        old = house.pv()
        async with house.volumes.watching():
            await replace(house, "n2")
            await asyncio.sleep(1.0)
            patch = house.volumes.patch

            async def late_news(name: PvName, wanted: Json) -> Any:
                answer = await patch(name, wanted)
                if "claimRef" in wanted.get("spec", {}):
                    loop = asyncio.get_running_loop()
                    loop.call_later(0.1, house.volumes.index.changed, old)
                    loop.call_later(0.3, binder.resume)
                return answer

            instead(house.volumes, patch=late_news)
            binder.pause()
            outcome = await replace(house, "n3")

        assert outcome is Outcome.DONE
        assert house.nodes() == {"n3"}
        assert house.journal.kept == {}


async def test_marks_without_a_note_on_a_released_volume_come_off_but_for_retain() -> None:
    async with one_house() as house:
        async with house.volumes.watching():
            await cut_off_after_marking(house)
            house.journal.kept.clear()
            house.cluster.delete("persistentvolumeclaims", f"claim-{PV}", namespace="default")
            await until(lambda: house.pv()["status"]["phase"] == "Released")
            outcome = await house.replacer.resume(PV)

        assert outcome is Outcome.KEPT
        assert house.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        annotations = house.pv()["metadata"]["annotations"]
        assert annotations[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert FINALIZER not in house.pv()["metadata"]["finalizers"]
        assert warnings_of(house) == ["VolumeRetained"]


async def test_a_terminating_volume_whose_note_is_lost_is_left_and_told() -> None:
    async with one_house() as house:
        async with house.volumes.watching():
            house.faults.refuse("remove", Unreachable)
            with pytest.raises(Unreachable):
                await replace(house, "n2")
            house.journal.kept.clear()
            house.faults.allow("remove")
            before = house.pv()
            outcome = await house.replacer.resume(PV)

        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.BAD_NOTE
        assert house.pv() == before


async def test_an_old_sight_of_the_volume_does_not_drop_the_note_of_another_instance() -> None:
    async with one_house() as house:
        other = house_on(house.cluster, house.linstor, journal=house.journal, holder="other")
        unmarked = house.pv()
        async with house.volumes.watching(), other.volumes.watching():
            house.faults.refuse("remove", Unreachable)
            with pytest.raises(Unreachable):
                await replace(house, "n2")
            read, first = other.volumes.read, [unmarked]

            async def late(name: PvName) -> Any:
                return first.pop() if first else await read(name)

            instead(other.volumes, read=late)
            outcome = await other.replacer.resume(PV)

        assert outcome is Outcome.DONE
        assert house.nodes() == {"n2"}


async def test_a_hint_between_the_old_volume_and_the_news_of_the_new_one_is_not_lost() -> None:
    async with one_house("n2") as house, house.at_work():
        house.queue.add(RD, source="promotion")
        await until(lambda: house.notices.updates)
        house.linstor.place(PV, "n3")
        house.volumes.index.gone(house.pv())
        house.queue.add(RD, source="promotion")
        await asyncio.sleep(0.5)
        assert house.nodes() == {"n2"}

        house.volumes.index.changed(house.pv())
        await until(lambda: house.nodes() == {"n3"}, patience=0.2)


async def test_a_volume_replaced_a_moment_ago_raises_no_false_alarm() -> None:
    async with one_house("n2") as house, house.at_work():
        house.queue.add(RD, source="promotion")
        await until(lambda: house.notices.updates)
        marked = house.pv()
        marked["metadata"] |= {
            "uid": "old",
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": [FINALIZER],
        }
        house.volumes.index.changed(marked)
        house.queue.add(RD, source="promotion")
        await asyncio.sleep(0.5)

        assert warnings_of(house) == []


async def test_what_admission_undoes_each_time_is_tried_ever_less_often() -> None:
    async with one_house("n2") as house:
        patch = house.volumes.patch

        async def labelling(name: PvName, wanted: Json) -> Any:
            await patch(name, wanted)
            label = {"metadata": {"labels": {"touched": str(len(house.faults.writes))}}}
            return house.cluster.patch("persistentvolumes", name, label)

        instead(house.volumes, patch=labelling)
        async with house.at_work():
            house.queue.add(RD, source="promotion")
            await asyncio.sleep(3600.0)

        assert house.faults.writes.count("note") < 100
        assert FINALIZER not in house.pv()["metadata"]["finalizers"]


async def test_one_volume_in_trouble_does_not_keep_its_sibling_from_its_turn() -> None:
    async with cluster_with(PV) as cluster:
        bind(cluster, "second", "n1", handle="pvc-1/1")
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        house = house_on(cluster, linstor)
        house.journal.kept[PV] = ("1", {"format": "of the future"})
        async with house.at_work():
            await asyncio.sleep(1.0)
            house.queue.add(RD, source="promotion")
            await until(lambda: house.nodes("second") == {"n2"})

        assert house.nodes() == {"n1"}
        assert warnings_of(house) == ["VolumeAffinityNotUpdated"]


async def test_one_volume_that_can_not_be_read_does_not_keep_its_sibling_from_its_turn() -> None:
    async with cluster_with(PV) as cluster:
        bind(cluster, "second", "n1", handle="pvc-1/1")
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        house = house_on(cluster, linstor)
        read = house.volumes.read

        async def choosy(name: PvName) -> Any:
            if name == PV:
                raise Unreachable("this one hangs")
            return await read(name)

        instead(house.volumes, read=choosy)
        async with house.at_work():
            await asyncio.sleep(1.0)
            house.queue.add(RD, source="promotion")
            await until(lambda: house.nodes("second") == {"n2"}, patience=60.0)


async def test_what_the_index_does_not_know_yet_is_seen_before_anything_is_written() -> None:
    async with one_house("n2") as house, house.at_work():
        before = house.pv()["metadata"]["uid"]
        instead(house.volumes.index, changed=lambda manifest: None)
        skip = {"metadata": {"annotations": {SKIP_ANNOTATION: "yes"}}}
        house.cluster.patch("persistentvolumes", PV, skip)
        house.queue.add(RD, source="promotion")
        await asyncio.sleep(30.0)

        assert house.pv()["metadata"]["uid"] == before
        assert house.faults.writes == []


async def test_a_volume_that_a_user_deletes_just_before_we_do_stays_deleted() -> None:
    async with one_house() as house:
        delete = house.volumes.delete

        async def too_late(manifest: Json) -> Any:
            house.cluster.delete("persistentvolumes", PV)
            return await delete(manifest)

        instead(house.volumes, delete=too_late)
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.THEIRS
        assert house.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert FINALIZER not in house.pv()["metadata"]["finalizers"]
        assert house.journal.kept == {}


async def test_nor_does_it_come_back_if_what_is_gone_on_with_was_begun_before() -> None:
    async with one_house() as house, house.volumes.watching():
        await cut_off_after_marking(house)
        delete = house.volumes.delete

        async def too_late(manifest: Json) -> Any:
            house.cluster.delete("persistentvolumes", PV)
            return await delete(manifest)

        instead(house.volumes, delete=too_late)
        outcome = await house.replacer.resume(PV)

        assert outcome is Outcome.THEIRS
        assert house.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert FINALIZER not in house.pv()["metadata"]["finalizers"]
        assert house.journal.kept == {}


async def test_a_deletion_whose_answer_was_lost_is_not_taken_for_a_users() -> None:
    async with one_house() as house:
        delete, lost = house.volumes.delete, [True]

        async def lossy(manifest: Json) -> Any:
            answer = await delete(manifest)
            if lost:
                lost.pop()
                raise Unreachable("the answer was lost")
            return answer

        instead(house.volumes, delete=lossy)
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert house.nodes() == {"n2"}


async def test_a_deletion_by_another_instance_is_not_taken_for_a_users() -> None:
    async with one_house() as house:
        other = house_on(house.cluster, house.linstor, journal=house.journal, holder="other")
        delete = house.volumes.delete

        async def overtaken(manifest: Json) -> Any:
            other.faults.refuse("patch", Unreachable)
            with pytest.raises(Unreachable):
                await other.replacer.resume(PV)
            return await delete(manifest)

        instead(house.volumes, delete=overtaken)
        async with house.volumes.watching(), other.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert house.nodes() == {"n2"}


def saved_by_the_reference(house: House) -> None:
    saved = json.dumps(house.pv())
    house.linstor.known[RD] = changed(house.linstor.known[RD], saved={0: saved})


async def test_a_saved_volume_that_linstor_will_not_forget_is_taken_over_once() -> None:
    async with one_house("n1") as house:
        saved_by_the_reference(house)
        remove(house.cluster)

        async def never(resource: str, number: int) -> None:
            raise Unreachable("a satellite hangs")

        instead(house.linstor, forget_saved=never)
        async with house.at_work():
            await house.sweeper.sweep("start")
            await until(lambda: house.cluster.get("persistentvolumes", PV) is not None)
            await asyncio.sleep(60.0)
            remove(house.cluster)
            await house.sweeper.sweep("period")
            await asyncio.sleep(600.0)

        assert house.cluster.get("persistentvolumes", PV) is None


def remove(cluster: FakeCluster) -> None:
    cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})
    cluster.delete("persistentvolumes", PV)


async def test_what_a_user_deletes_after_a_refused_deletion_of_ours_stays_deleted() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        patch = house.volumes.patch

        async def lost_once_unmarked(name: PvName, change: Patch) -> Manifest:
            done = await patch(name, change)
            if not wears_marks(done):
                raise Unreachable("the answer is lost")
            return done

        instead(house.volumes, patch=lost_once_unmarked)
        house.faults.refuse("delete", Forbidden)
        async with house.volumes.watching():
            with pytest.raises(Unreachable):
                await replace(house, "n2")
            house.faults.allow("delete")
            instead(house.volumes, patch=patch)
            remove(cluster)

            assert await house.replacer.resume(PV) is Outcome.THEIRS

        assert cluster.get("persistentvolumes", PV) is None


async def test_a_claim_reference_that_the_binder_bends_back_is_pointed_away_again() -> None:
    async with cluster_with(PV) as cluster, Binder(cluster, delay=0.001) as binder:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        patch, bent = house.volumes.patch, [True]

        async def unread(name: PvName) -> Any:
            raise AssertionError(name)

        async def bending(name: PvName, wanted: Json) -> Any:
            answer = await patch(name, wanted)
            if "claimRef" in wanted.get("spec", {}) and bent:
                bent.pop()
                # The watch tells it; nothing has to be asked.
                instead(house.volumes, read=unread)
                back = {"spec": {"claimRef": {"name": f"claim-{PV}"}}}
                cluster.patch("persistentvolumes", name, back)
            return answer

        instead(house.volumes, patch=bending)
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert not bent
        assert binder.lost_seen == []


async def test_when_the_binder_looks_at_everything_is_learnt_and_kept_clear_of() -> None:
    async with one_house() as house:
        guard = ClaimGuard(
            house.volumes,
            house.telemetry,
            lambda: Backoff(first=1, most=1, chance=Random(1)),
            timeout=2.0,
        )
        clock = asyncio.get_running_loop().time
        began = clock()
        await guard.quiet_moment()
        assert clock() == began

        guard._looks_at_everything()
        moments = []
        while clock() < 100.0:
            await guard.quiet_moment()
            moments.append(clock())
            await asyncio.sleep(0.1)

        into = [(moment - began) % 15.0 for moment in moments]
        assert all(0.499 < each < 14.801 for each in into)
        assert len(moments) > 800


async def test_what_began_while_notes_were_listed_is_not_forgotten() -> None:
    async with one_house() as house:
        everything = house.journal.all

        async def slow() -> Any:
            found = await everything()
            await cut_off_after_marking(house)
            return found

        instead(house.journal, all=slow)
        async with house.volumes.watching():
            await house.replacer.load()

        assert house.replacer.unfinished.of(RD) == [PV]


async def test_who_stands_back_tells_of_nothing_absent_or_stuck() -> None:
    async with one_house() as house:
        house.faults.refuse("create", Conflict)
        async with house.volumes.watching():
            with pytest.raises(Conflict):
                await replace(house, "n2")
        assert house.telemetry.now["absent"] == 1

        house.replacer.unfinished.stand_back()

        assert house.telemetry.now["absent"] == 0


@pytest.mark.parametrize("ends", ["leading", "closed"])
async def test_nothing_is_begun_once_another_leads_or_it_stops(ends: str) -> None:
    async with one_house() as house:
        rehearse = house.volumes.rehearse

        async def meanwhile(pv: Json, mark: Json, wanted: Json) -> Manifest:
            answer = await rehearse(pv, mark, wanted)
            if ends == "leading":
                house.leadership.leading = False
            else:
                house.queue.close()
            return answer

        instead(house.volumes, rehearse=meanwhile)
        async with house.volumes.watching():
            await replace(house, "n2")

        assert house.nodes() == {"n1"}
        assert house.faults.writes == ["rehearse"]


async def test_a_volume_that_came_back_retained_is_told_even_if_the_answer_was_lost() -> None:
    async with one_house() as house, house.volumes.watching():
        house.faults.refuse("remove", Unreachable)
        with pytest.raises(Unreachable):
            await replace(house, "n2")
        claim = f"claim-{PV}"
        house.cluster.delete("persistentvolumeclaims", claim, namespace="default")
        await until(lambda: house.cluster.get("persistentvolumeclaims", claim, "default") is None)
        house.faults.allow("remove")
        create = house.volumes.create

        async def lossy(manifest: Json) -> Any:
            await create(manifest)
            raise Unreachable("the answer was lost")

        instead(house.volumes, create=lossy)
        outcome = await house.replacer.resume(PV)

        assert outcome is Outcome.KEPT
        assert warnings_of(house) == ["VolumeRetained"]


async def test_nothing_is_remembered_of_volumes_that_are_gone() -> None:
    async with one_house("n1") as house, house.at_work():
        house.linstor.place(PV, "n1", flags={"n1": "DELETE"})
        house.queue.add(RD, source="promotion")
        await asyncio.sleep(2.0)
        remove(house.cluster)
        del house.linstor.known[RD]
        await asyncio.sleep(1.0)
        await house.sweeper.sweep("period")

        assert house.reconciler.remembered() == 0
        assert house.teller.unsettled == {}


def written_at_the_last_moment(house: House, patch: Json) -> None:
    """Let somebody write when the API server has compared versions already, and has not yet
    removed the volume: it takes that, and the removal goes on.
    """
    remove = house.volumes.remove

    async def raced(manifest: Manifest) -> None:
        there = house.cluster.get("persistentvolumes", name_of(manifest))
        if there is not None and uid_of(there) == uid_of(manifest):
            house.cluster.patch("persistentvolumes", name_of(manifest), patch)
            manifest = house.pv()
        await remove(manifest)

    instead(house.volumes, remove=raced)


LATE = {"metadata": {"labels": {"late": "yes"}, "annotations": {"example.com/late": "yes"}}}


async def test_what_is_written_while_the_volume_is_removed_is_not_lost() -> None:
    async with one_house() as house:
        written_at_the_last_moment(house, LATE)
        async with house.volumes.watching():
            before = house.pv()
            outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert house.pv()["metadata"]["labels"] == {
            **before["metadata"].get("labels", {}),
            "late": "yes",
        }
        assert house.pv()["metadata"]["annotations"]["example.com/late"] == "yes"
        assert house.nodes() == {"n2"}
        assert not wears_marks(house.pv())
        assert house.journal.kept == {}


def failing_to_take_it_over(house: House, errors: list[Exception]) -> None:
    """Let the first patches that bring what came late fail so; each that did is taken off."""
    patch = house.volumes.patch

    async def fails_first(name: PvName, wanted: Patch) -> Manifest:
        if "late" in wanted["metadata"].get("labels", {}) and errors:
            raise errors.pop(0)
        return await patch(name, wanted)

    instead(house.volumes, patch=fails_first)


@pytest.mark.parametrize("error", [Unreachable, Conflict])
async def test_what_came_late_is_tried_again(error: type[Exception]) -> None:
    async with one_house() as house:
        written_at_the_last_moment(house, LATE)
        errors: list[Exception] = [error("a bad moment")]
        failing_to_take_it_over(house, errors)
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert not errors
        assert house.pv()["metadata"]["labels"]["late"] == "yes"
        assert house.journal.kept == {}


async def test_what_came_late_and_is_refused_is_told_and_holds_nothing_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with one_house() as house:
        written_at_the_last_moment(house, LATE)
        failing_to_take_it_over(house, [Forbidden("not now")])
        with caplog.at_level("ERROR"):
            async with house.volumes.watching():
                outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert house.journal.kept == {}
    assert [record.message for record in caplog.records] == [
        "a change that came with the removal is lost"
    ]


async def test_how_another_volume_of_that_name_went_is_no_change_of_this_one() -> None:
    async with one_house() as house:
        gone = house.volumes.index.gone

        def old_news(manifest: Manifest) -> None:
            other = {**manifest["metadata"], "uid": "another", "labels": {"late": "no"}}
            gone({**manifest, "metadata": other})

        instead(house.volumes.index, gone=old_news)
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert "late" not in house.pv()["metadata"].get("labels", {})


async def test_where_the_watch_tells_nothing_of_the_removal_it_is_not_waited_for_long() -> None:
    async with one_house() as house:
        instead(house.volumes.index, gone=lambda _: None)
        async with house.volumes.watching():
            begun = asyncio.get_running_loop().time()
            outcome = await replace(house, "n2")
            took = asyncio.get_running_loop().time() - begun

        assert outcome is Outcome.DONE
        assert took < 2.0


async def test_a_volume_kept_with_retain_stays_so_whatever_came_late() -> None:
    async with one_house() as house:
        async with house.volumes.watching():
            patch = house.volumes.patch

            async def claim_goes(name: PvName, wanted: Patch) -> Manifest:
                answer = await patch(name, wanted)
                if "claimRef" in wanted.get("spec", {}):
                    claim = house.claim()["metadata"]
                    house.cluster.patch(
                        "persistentvolumeclaims",
                        claim["name"],
                        {"metadata": {"finalizers": []}},
                        namespace="default",
                    )
                    house.cluster.delete(
                        "persistentvolumeclaims", claim["name"], namespace="default"
                    )
                    await asyncio.sleep(61.0)
                return answer

            instead(house.volumes, patch=claim_goes)
            change = {**LATE, "spec": {"persistentVolumeReclaimPolicy": "Recycle"}}
            written_at_the_last_moment(house, change)
            outcome = await replace(house, "n2")

        assert outcome is Outcome.KEPT
        assert house.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        assert house.pv()["metadata"]["labels"]["late"] == "yes"
