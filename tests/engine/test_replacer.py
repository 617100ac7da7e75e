"""Replacing a volume, also on bad days."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from linstor_affinity_events.engine.replacer import Ended
from linstor_affinity_events.errors import (
    AffinityEventsError,
    Forbidden,
    Invalid,
    Stalled,
    Unreachable,
)
from linstor_affinity_events.model.keys import FINALIZER, ORIGINAL_POLICY_ANNOTATION, parse_handle
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import ClaimName, PvName
from linstor_affinity_events.model.replacement import Outcome
from linstor_affinity_events.model.verdict import Later, Reason, Refusal
from tests.engine.house import (
    PV,
    House,
    bind,
    cluster_with,
    house_on,
    instead,
    replace,
    replaced,
    until,
)
from tests.fakes.clock import run_virtually
from tests.fakes.kube_server import Binder, FakeCluster
from tests.fakes.kube_server import Refusal as Refused
from tests.fakes.linstor import FakeLinstor
from tests.model.manifests import begun

Json = dict[str, Any]


def kept(pv: Json) -> Json:
    """What no replacement may change."""
    metadata = {k: pv["metadata"].get(k) for k in ("name", "labels", "annotations")}
    metadata["finalizers"] = sorted(pv["metadata"]["finalizers"])
    return {**metadata, "spec": {k: v for k, v in pv["spec"].items() if k != "nodeAffinity"}}


def gone(cluster: FakeCluster, name: str = PV) -> bool:
    return cluster.get("persistentvolumes", name) is None


async def test_a_replaced_volume_differs_in_affinity_and_incarnation_only() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.DONE
        assert house.nodes() == {"n2"}
        assert house.pv()["metadata"]["uid"] != before["metadata"]["uid"]
        assert kept(house.pv()) == kept(before)
        assert house.claim()["status"]["phase"] == "Bound"
        assert house.journal.kept == {}


async def writes_of_one_replacement() -> int:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        async with house.volumes.watching():
            await replace(house, "n2")
        return len(house.faults.writes)


WRITES = run_virtually(writes_of_one_replacement())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
async def test_cut_off_at_any_write_another_instance_brings_it_to_its_end(
    nth: int, when: str
) -> None:
    async with cluster_with(PV) as cluster, Binder(cluster, delay=0.001) as binder:
        first = house_on(cluster, FakeLinstor("n1", "n2"))
        before = first.pv()
        await crashed(first, nth, when)

        second = house_on(cluster, FakeLinstor("n1", "n2"), journal=first.journal, holder="another")
        await finished(second)

        assert kept(second.pv()) == kept(before)
        assert second.nodes() == {"n2"}
        assert second.claim()["status"]["phase"] == "Bound"
        assert binder.lost_seen == []
        assert second.journal.kept == {}


async def crashed(house: House, nth: int, when: str) -> None:
    """Begin a replacement and stop dead at the nth write."""
    house.faults.break_write(nth, when=when)

    async def until_broken() -> None:
        async with house.volumes.watching():
            await replace(house, "n2")

    doomed = asyncio.create_task(until_broken())
    while len(house.faults.writes) < nth and not doomed.done():  # noqa: ASYNC110, to the step
        await asyncio.sleep(1e-6)
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    house.faults.break_write(0, when="")


async def finished(house: House) -> None:
    """Resume what is noted, then replace what still wants it, as a look does."""
    async with house.volumes.watching():
        await house.replacer.load()
        await asyncio.sleep(1.0)
        await house.replacer.resume(PV)
        await asyncio.sleep(1.0)
        if house.nodes() != {"n2"}:
            assert await replace(house, "n2") is Outcome.DONE
        await asyncio.sleep(1.0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
async def test_a_lost_answer_is_got_over(nth: int, when: str) -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        house.faults.break_write(nth, when=when)
        async with house.volumes.watching():
            try:
                await replace(house, "n2")
            except AffinityEventsError:
                await house.replacer.load()
                await house.replacer.resume(PV)
            if house.nodes() != {"n2"}:
                await asyncio.sleep(1.0)
                await replace(house, "n2")
            await asyncio.sleep(1.0)

        assert house.nodes() == {"n2"}
        assert kept(house.pv()) == kept(before)
        assert house.journal.kept == {}


async def test_what_kubernetes_would_refuse_is_never_begun() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        house.faults.refuse("rehearse", Invalid)
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.NOT_ALLOWED
        assert house.pv() == before
        assert house.journal.kept == {}


@pytest.mark.parametrize("verb", ["patch", "save", "delete"])
async def test_a_refusal_before_the_deletion_is_taken_back(verb: str) -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        house.faults.refuse(verb, Forbidden)
        async with house.volumes.watching():
            against = await replace(house, "n2")

        assert isinstance(against, Refusal)
        assert against.reason is Reason.NOT_ALLOWED
        assert house.pv()["metadata"]["uid"] == before["metadata"]["uid"]
        assert kept(house.pv()) == kept(before)
        assert house.journal.kept == {}


async def test_a_creation_refused_after_the_deletion_is_loud_kept_trying_and_blocks_others() -> (
    None
):
    async with cluster_with(PV, "pvc-2") as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        house.faults.refuse("create", Invalid)
        async with house.volumes.watching():
            with pytest.raises(Invalid):
                await replace(house, "n2")
            assert gone(cluster)
            assert PV in house.journal.kept
            assert house.telemetry.now == {"absent": 1, "stuck": 1}
            assert [reason for _, reason, _ in house.notices.warnings] == [
                "VolumeRecreationFailing"
            ]

            other = await replace(house, "n2", name="pvc-2")
            assert isinstance(other, Later)
            assert other.reason is Reason.BLOCKED

            house.faults.allow("create")
            assert await house.replacer.resume(PV) is Outcome.DONE
            assert await replace(house, "n2", name="pvc-2") is Outcome.DONE

        assert kept(house.pv()) == kept(before)
        assert house.telemetry.now == {"absent": 0, "stuck": 0}
        assert len(house.notices.warnings) == 1


async def test_a_claim_that_goes_meanwhile_leaves_a_volume_that_nobody_reclaims() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        async with house.volumes.watching():
            house.faults.refuse("remove", Forbidden)
            with pytest.raises(Forbidden):
                await replace(house, "n2")
            claim = f"claim-{PV}"
            cluster.delete("persistentvolumeclaims", claim, namespace="default")
            await until(lambda: cluster.get("persistentvolumeclaims", claim, "default") is None)
            house.faults.allow("remove")
            outcome = await house.replacer.resume(PV)

        assert outcome is Outcome.KEPT
        spec, annotations = house.pv()["spec"], house.pv()["metadata"]["annotations"]
        assert spec["persistentVolumeReclaimPolicy"] == "Retain"
        assert annotations[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert [reason for _, reason, _ in house.notices.warnings][-1] == "VolumeRetained"


async def test_what_somebody_changes_on_the_way_is_in_the_new_volume() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        async with house.volumes.watching():
            house.faults.refuse("remove", Forbidden)
            with pytest.raises(Forbidden):
                await replace(house, "n2")
            patch = {
                "metadata": {"labels": {"resized": "yes"}},
                "spec": {"capacity": {"storage": "2Gi"}},
            }
            cluster.patch("persistentvolumes", PV, patch)
            house.faults.allow("remove")
            await house.replacer.resume(PV)

        assert house.pv()["spec"]["capacity"] == {"storage": "2Gi"}
        assert house.pv()["metadata"]["labels"] == {"resized": "yes"}


async def test_a_volume_that_a_user_deletes_first_stays_deleted() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        async with house.volumes.watching():
            house.faults.refuse("save", Unreachable)
            with pytest.raises(Unreachable):
                await replace(house, "n2")
            assert FINALIZER in house.pv()["metadata"]["finalizers"]
            cluster.delete("persistentvolumes", PV)
            house.faults.allow("save")
            outcome = await house.replacer.resume(PV)

        assert outcome is Outcome.THEIRS
        left = house.pv()
        assert FINALIZER not in left["metadata"]["finalizers"]
        assert left["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert house.journal.kept == {}


async def test_a_volume_that_wears_our_marks_without_a_note_gets_rid_of_them_and_keeps_retain() -> (
    None
):
    """Whoever may write annotations can write what the marks say."""
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        async with house.volumes.watching():
            house.faults.refuse("save", Unreachable)
            with pytest.raises(Unreachable):
                await replace(house, "n2")
            house.journal.kept.clear()
            outcome = await house.replacer.resume(PV)

        assert outcome is Outcome.KEPT
        after = house.pv()
        annotations = after["metadata"]["annotations"]
        assert annotations.pop(ORIGINAL_POLICY_ANNOTATION) == "Delete"
        assert after["spec"].pop("persistentVolumeReclaimPolicy") == "Retain"
        before["spec"].pop("persistentVolumeReclaimPolicy")
        assert kept(after) == kept(before)
        assert [reason for _, reason, _ in house.notices.warnings] == ["VolumeRetained"]


async def test_a_binder_that_never_answers_is_waited_for_and_no_longer() -> None:
    cluster = FakeCluster()
    async with Binder(cluster, delay=0.001) as binder:
        bind(cluster, PV, "n1")
        await binder.settled()
        binder.pause()
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        async with house.volumes.watching():
            before = asyncio.get_running_loop().time()
            replacing = asyncio.create_task(replace(house, "n2"))
            await asyncio.sleep(1.9)
            assert not gone(cluster)
            assert not replacing.done()
            await asyncio.sleep(0.5)
            binder.resume()
            outcome = await replacing
            took = asyncio.get_running_loop().time() - before

        assert outcome is Outcome.DONE
        assert 2.0 <= took < 8.0


@contextmanager
def silent_binder(_: House, binder: Binder) -> Iterator[None]:
    binder.pause()
    asyncio.get_running_loop().call_later(2.5, binder.resume)
    yield


@contextmanager
def binder_about_to_look(house: House, _: Binder) -> Iterator[None]:
    house.replacer._means.guard._looks_at_everything()
    yield


@contextmanager
def lost_answer(house: House, _: Binder) -> Iterator[None]:
    house.faults.break_write(5, when="after")
    yield


@contextmanager
def lost_claim(house: House, _: Binder) -> Iterator[None]:
    before, read = house.pv()["metadata"]["uid"], house.volumes.read_claim
    told = 0

    async def lost_once(name: ClaimName) -> Manifest | None:
        nonlocal told
        claim = await read(name)
        again = not gone(house.cluster) and house.pv()["metadata"]["uid"] != before
        if claim is None or not again or told:
            return claim
        told += 1
        return {**claim, "status": {**claim["status"], "phase": "Lost"}}

    instead(house.volumes, read_claim=lost_once)
    yield
    assert told


@contextmanager
def nothing_special(_: House, __: Binder) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("trouble", "held_up"),
    [
        (nothing_special, False),
        (silent_binder, True),
        (binder_about_to_look, True),
        (lost_answer, True),
        (lost_claim, True),
    ],
)
async def test_a_replacement_that_waited_for_something_special_says_so(
    trouble: Callable[[House, Binder], AbstractContextManager[None]], held_up: bool
) -> None:
    cluster = FakeCluster()
    async with Binder(cluster, delay=0.001) as binder:
        bind(cluster, PV, "n1")
        await binder.settled()
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        with trouble(house, binder):
            async with house.volumes.watching():
                ended = await replaced(house, "n2")

        assert isinstance(ended, Ended)
        assert ended.outcome is Outcome.DONE
        assert ended.held_up is held_up


async def test_where_our_finalizer_is_stripped_nothing_is_deleted_and_no_mark_is_left() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        patch = house.volumes.patch

        async def stripping(name: PvName, wanted: Json) -> Json:
            await patch(name, wanted)
            bare = {"metadata": {"finalizers": before["metadata"]["finalizers"]}}
            return cluster.patch("persistentvolumes", name, bare)

        instead(house.volumes, patch=stripping)
        async with house.volumes.watching():
            outcome = await replace(house, "n2")

        assert outcome is Outcome.UNWOUND
        assert house.pv()["metadata"]["uid"] == before["metadata"]["uid"]
        assert kept(house.pv()) == kept(before)


async def test_what_has_no_effect_is_not_tried_for_ever() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        before = house.pv()
        tries = 0

        async def idle(name: PvName, wanted: Json) -> Json:
            nonlocal tries
            tries += 1
            return house.pv()

        instead(house.volumes, patch=idle)
        async with house.volumes.watching():
            with pytest.raises(Stalled):
                await replace(house, "n2")

        assert house.pv() == before
        assert tries < 100


async def test_two_instances_at_once_end_with_one_good_volume() -> None:
    async with cluster_with(PV) as cluster, Binder(cluster, delay=0.001) as binder:
        first = house_on(cluster, FakeLinstor("n1", "n2"), holder="first")
        second = house_on(cluster, FakeLinstor("n1", "n2"), journal=first.journal, holder="second")
        before = first.pv()

        async def insist(house: House) -> None:
            for _ in range(20):
                try:
                    await house.replacer.resume(PV)
                    if house.nodes() == {"n2"}:
                        return
                    await replace(house, "n2")
                except (AffinityEventsError, Refused, AssertionError):
                    await asyncio.sleep(0.1)

        async with (
            first.volumes.watching(),
            second.volumes.watching(),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(insist(first))
            group.create_task(insist(second))
        await asyncio.sleep(5.0)

        assert first.nodes() == {"n2"}
        assert kept(first.pv()) == kept(before)
        assert first.claim()["status"]["phase"] == "Bound"
        assert first.journal.kept == {}
        assert binder.lost_seen == []


async def test_a_journal_that_is_listed_by_parts_is_known_as_a_whole() -> None:
    names = [PvName(f"pvc-{number}") for number in range(5)]
    async with cluster_with(*names) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        for name in names:
            note = begun(house.pv(name))
            await house.journal.create(dataclasses.replace(note, key=parse_handle(name)))
        house.journal.at_a_time = 2

        for _ in range(3):
            await house.replacer.load()

        assert set(house.replacer.unfinished.pending) == set(names)


async def test_an_entry_that_is_none_is_not_pending_once_it_was_read() -> None:
    async with cluster_with(PV) as cluster:
        house = house_on(cluster, FakeLinstor("n1", "n2"))
        await house.journal.create(begun(house.pv()))
        house.journal.kept[PV][1]["wanted"]["spec"]["hostPath"] = {"path": "/"}
        await house.replacer.load()
        assert set(house.replacer.unfinished.pending) == {PV}

        outcome = await house.replacer.resume(PV)

        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.BAD_NOTE
        assert house.replacer.unfinished.pending == {}
