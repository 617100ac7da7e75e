"""Replacing a volume, also on bad days."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from linstor_affinity_events.engine.concurrency_limit import TARGET
from linstor_affinity_events.errors import (
    AffinityEventsError,
    Again,
    Conflict,
    Forbidden,
    Invalid,
    Unreachable,
)
from linstor_affinity_events.model.decision import Deferred, Reason, Refusal
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
    parse_handle,
)
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.names import ClaimName, PvName
from linstor_affinity_events.model.steps import Outcome
from tests.engine.setup import (
    PV,
    Setup,
    bind,
    cluster_with,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.fakes.clock import run_virtually
from tests.fakes.kube_server import Binder, FakeCluster
from tests.fakes.kube_server import Refusal as Refused
from tests.fakes.linstor import FakeLinstor
from tests.model.manifests import begun

Json = dict[str, Any]


def preserved(pv: Json) -> Json:
    """What no replacement may change."""
    metadata = {k: pv["metadata"].get(k) for k in ("name", "labels", "annotations")}
    metadata["finalizers"] = sorted(pv["metadata"]["finalizers"])
    return {**metadata, "spec": {k: v for k, v in pv["spec"].items() if k != "nodeAffinity"}}


def gone(cluster: FakeCluster, name: str = PV) -> bool:
    return cluster.get("persistentvolumes", name) is None


async def test_a_replaced_volume_differs_in_affinity_and_incarnation_only() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.DONE
        assert setup.nodes() == {"n2"}
        assert setup.pv()["metadata"]["uid"] != before["metadata"]["uid"]
        assert preserved(setup.pv()) == preserved(before)
        assert setup.claim()["status"]["phase"] == "Bound"
        assert setup.journal.entries == {}


async def writes_of_one_replacement() -> int:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        async with setup.volumes.watching():
            await replace(setup, "n2")
        return len(setup.faults.writes)


WRITES = run_virtually(writes_of_one_replacement())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
async def test_a_replacement_interrupted_at_any_write_is_finished_by_another_instance(
    nth: int, when: str
) -> None:
    async with cluster_with(PV) as cluster, Binder(cluster, delay=0.001) as binder:
        first = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = first.pv()
        await crashed(first, nth, when)

        second = setup_on(cluster, FakeLinstor("n1", "n2"), journal=first.journal, holder="another")
        await finished(second)

        assert preserved(second.pv()) == preserved(before)
        assert second.nodes() == {"n2"}
        assert second.claim()["status"]["phase"] == "Bound"
        assert binder.lost_claims == []
        assert second.journal.entries == {}


async def crashed(setup: Setup, nth: int, when: str) -> None:
    """Begin a replacement and stop dead at the nth write."""
    setup.faults.break_write(nth, when=when)

    async def until_broken() -> None:
        async with setup.volumes.watching():
            await replace(setup, "n2")

    doomed = asyncio.create_task(until_broken())
    while len(setup.faults.writes) < nth and not doomed.done():  # noqa: ASYNC110, to the step
        await asyncio.sleep(1e-6)
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    setup.faults.break_write(0, when="")


async def finished(setup: Setup) -> None:
    """Resume what has an entry, then replace what is out of sync, as a reconcile does."""
    async with setup.volumes.watching():
        await setup.replacer.load()
        await asyncio.sleep(1.0)
        await setup.replacer.resume(PV)
        await asyncio.sleep(1.0)
        if setup.nodes() != {"n2"}:
            assert await replace(setup, "n2") is Outcome.DONE
        await asyncio.sleep(1.0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
async def test_a_lost_response_is_handled(nth: int, when: str) -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        setup.faults.break_write(nth, when=when)
        async with setup.volumes.watching():
            try:
                await replace(setup, "n2")
            except AffinityEventsError:
                await setup.replacer.load()
                await setup.replacer.resume(PV)
            if setup.nodes() != {"n2"}:
                await asyncio.sleep(1.0)
                await replace(setup, "n2")
            await asyncio.sleep(1.0)

        assert setup.nodes() == {"n2"}
        assert preserved(setup.pv()) == preserved(before)
        assert setup.journal.entries == {}


async def test_a_replacement_that_kubernetes_would_reject_never_starts() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        setup.faults.refuse("rehearse", Invalid)
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.NOT_ALLOWED
        assert setup.pv() == before
        assert setup.journal.entries == {}


async def test_a_rejected_replacement_writes_no_entry_until_it_is_accepted() -> None:
    async with one_setup() as setup, setup.volumes.watching():
        setup.faults.refuse("rehearse", Invalid)
        for _ in range(2):
            assert isinstance(await replace(setup, "n2"), Refusal)
            assert setup.journal.entries == {}
            assert setup.replacer.unfinished.pending == {}
        assert setup.faults.writes.count("note") == 1
        setup.faults.allow("rehearse")

        assert await replace(setup, "n2") is Outcome.DONE
        assert setup.nodes() == {"n2"}


@pytest.mark.parametrize("exists", [True, False])
async def test_a_rejected_volume_is_remembered_while_it_exists(exists: bool) -> None:
    async with one_setup() as setup, setup.volumes.watching():
        setup.faults.refuse("rehearse", Invalid)
        await replace(setup, "n2")
        if not exists:
            instead(setup.volumes.index, get=lambda _: None)

        setup.replacer.forget_gone()
        await replace(setup, "n2")

        assert setup.faults.writes.count("note") == (1 if exists else 2)


@pytest.mark.parametrize("error", [Conflict, Unreachable])
async def test_a_dry_run_that_fails_leaves_no_entry(error: type[Again]) -> None:
    async with one_setup() as setup, setup.volumes.watching():
        setup.faults.refuse("rehearse", error)
        with pytest.raises(error):
            await replace(setup, "n2")

        assert setup.journal.entries == {}
        assert setup.nodes() == {"n1"}


@pytest.mark.parametrize("annotation", [MARKER_ANNOTATION, SKIP_RECLAIM_ANNOTATION])
async def test_a_volume_is_not_replaced_where_a_policy_removes_an_annotation_of_the_markers(
    annotation: str,
) -> None:
    """It would be written again and again."""
    async with one_setup() as setup, setup.volumes.watching():
        dry_run = setup.volumes.dry_run

        async def dry_run_with_policy(pv: Manifest, mark: Patch, wanted: Manifest) -> Manifest:
            shown = dict(await dry_run(pv, mark, wanted))
            annotations = dict(shown["metadata"]["annotations"])
            del annotations[annotation]
            return {**shown, "metadata": {**shown["metadata"], "annotations": annotations}}

        instead(setup.volumes, dry_run=dry_run_with_policy)
        ended = await replace(setup, "n2")

        assert isinstance(ended, Refusal)
        assert "admission policy" in ended.why
        assert setup.journal.entries == {}
        assert setup.nodes() == {"n1"}


async def test_an_entry_that_could_not_be_withdrawn_is_dropped_later() -> None:
    async with one_setup() as setup, setup.volumes.watching():
        setup.faults.refuse("rehearse", Invalid)
        setup.faults.refuse("drop", Unreachable)
        with pytest.raises(Unreachable):
            await replace(setup, "n2")
        assert setup.replacer.unfinished.pending.keys() == {PV}
        setup.faults.allow("drop")

        assert await setup.replacer.resume(PV) is Outcome.SUPERSEDED
        assert setup.journal.entries == {}
        assert setup.nodes() == {"n1"}


@pytest.mark.parametrize("verb", ["patch", "save", "delete"])
async def test_a_rejection_before_the_deletion_is_rolled_back(verb: str) -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        setup.faults.refuse(verb, Forbidden)
        async with setup.volumes.watching():
            against = await replace(setup, "n2")

        assert isinstance(against, Refusal)
        assert against.reason is Reason.NOT_ALLOWED
        assert setup.pv()["metadata"]["uid"] == before["metadata"]["uid"]
        assert preserved(setup.pv()) == preserved(before)
        assert setup.journal.entries == {}


async def test_a_rejected_creation_after_the_deletion_is_logged_retried_and_blocks_others() -> None:
    async with cluster_with(PV, "pvc-2") as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        setup.faults.refuse("create", Invalid)
        async with setup.volumes.watching():
            with pytest.raises(Invalid):
                await replace(setup, "n2")
            assert gone(cluster)
            assert PV in setup.journal.entries
            assert setup.telemetry.now == {"absent": 1, "stuck": 1}
            assert [reason for _, reason, _ in setup.notices.warnings] == [
                "VolumeRecreationFailing"
            ]

            other = await replace(setup, "n2", name="pvc-2")
            assert isinstance(other, Deferred)
            assert other.reason is Reason.BLOCKED

            setup.faults.allow("create")
            assert await setup.replacer.resume(PV) is Outcome.DONE
            assert await replace(setup, "n2", name="pvc-2") is Outcome.DONE

        assert preserved(setup.pv()) == preserved(before)
        assert setup.telemetry.now == {"absent": 0, "stuck": 0}
        assert len(setup.notices.warnings) == 1


async def test_a_claim_deleted_meanwhile_leaves_a_retained_volume() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        async with setup.volumes.watching():
            setup.faults.refuse("remove", Forbidden)
            with pytest.raises(Forbidden):
                await replace(setup, "n2")
            claim = f"claim-{PV}"
            cluster.delete("persistentvolumeclaims", claim, namespace="default")
            await until(lambda: cluster.get("persistentvolumeclaims", claim, "default") is None)
            setup.faults.allow("remove")
            outcome = await setup.replacer.resume(PV)

        assert outcome is Outcome.RECREATED_WITH_RETAIN
        spec, annotations = setup.pv()["spec"], setup.pv()["metadata"]["annotations"]
        assert spec["persistentVolumeReclaimPolicy"] == "Retain"
        assert annotations[ORIGINAL_POLICY_ANNOTATION] == "Delete"
        assert [reason for _, reason, _ in setup.notices.warnings][-1] == "VolumeRetained"


async def test_changes_of_others_during_a_replacement_are_in_the_new_volume() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        async with setup.volumes.watching():
            setup.faults.refuse("remove", Forbidden)
            with pytest.raises(Forbidden):
                await replace(setup, "n2")
            patch = {
                "metadata": {"labels": {"resized": "yes"}},
                "spec": {"capacity": {"storage": "2Gi"}},
            }
            cluster.patch("persistentvolumes", PV, patch)
            setup.faults.allow("remove")
            await setup.replacer.resume(PV)

        assert setup.pv()["spec"]["capacity"] == {"storage": "2Gi"}
        assert setup.pv()["metadata"]["labels"] == {"resized": "yes"}


async def test_a_volume_deleted_by_a_user_first_stays_deleted() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        async with setup.volumes.watching():
            setup.faults.refuse("save", Unreachable)
            with pytest.raises(Unreachable):
                await replace(setup, "n2")
            assert FINALIZER in setup.pv()["metadata"]["finalizers"]
            cluster.delete("persistentvolumes", PV)
            setup.faults.allow("save")
            outcome = await setup.replacer.resume(PV)

        assert outcome is Outcome.DELETED_BY_USER
        left = setup.pv()
        assert FINALIZER not in left["metadata"]["finalizers"]
        assert left["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.journal.entries == {}


async def test_a_marked_volume_without_entry_loses_the_markers_and_keeps_retain() -> None:
    """Whoever may write annotations can write what the markers say."""
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        async with setup.volumes.watching():
            setup.faults.refuse("save", Unreachable)
            with pytest.raises(Unreachable):
                await replace(setup, "n2")
            setup.journal.entries.clear()
            setup.replacer.unfinished.leadership_gained()
            outcome = await setup.replacer.resume(PV)

        assert outcome is Outcome.RECREATED_WITH_RETAIN
        after = setup.pv()
        annotations = after["metadata"]["annotations"]
        assert annotations.pop(ORIGINAL_POLICY_ANNOTATION) == "Delete"
        assert after["spec"].pop("persistentVolumeReclaimPolicy") == "Retain"
        before["spec"].pop("persistentVolumeReclaimPolicy")
        assert preserved(after) == preserved(before)
        assert [reason for _, reason, _ in setup.notices.warnings] == ["VolumeRetained"]


async def test_an_unresponsive_binder_is_waited_for_until_the_timeout() -> None:
    cluster = FakeCluster()
    async with Binder(cluster, delay=0.001) as binder:
        bind(cluster, PV, "n1")
        await binder.until_idle()
        binder.pause()
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        async with setup.volumes.watching():
            before = asyncio.get_running_loop().time()
            replacing = asyncio.create_task(replace(setup, "n2"))
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
def unresponsive_binder(_: Setup, binder: Binder) -> Iterator[None]:
    binder.pause()
    asyncio.get_running_loop().call_later(2.5, binder.resume)
    yield


@contextmanager
def binder_about_to_resync(setup: Setup, _: Binder) -> Iterator[None]:
    setup.replacer._dependencies.guard.found_lost()
    yield


@contextmanager
def lost_response(setup: Setup, _: Binder) -> Iterator[None]:
    setup.faults.break_write(5, when="after")
    yield


@contextmanager
def lost_claim(setup: Setup, _: Binder) -> Iterator[None]:
    before, read = setup.pv()["metadata"]["uid"], setup.volumes.read_claim
    reported = 0

    async def lost_once(name: ClaimName) -> Manifest | None:
        nonlocal reported
        claim = await read(name)
        again = not gone(setup.cluster) and setup.pv()["metadata"]["uid"] != before
        if claim is None or not again or reported:
            return claim
        reported += 1
        return {**claim, "status": {**claim["status"], "phase": "Lost"}}

    instead(setup.volumes, read_claim=lost_once)
    yield
    assert reported


@contextmanager
def slow_binder(_: Setup, binder: Binder) -> Iterator[None]:
    binder.delay = 0.5
    yield


@pytest.mark.parametrize(
    ("fault", "for_binder"),
    [
        (slow_binder, True),
        (unresponsive_binder, False),
        (binder_about_to_resync, False),
        (lost_response, False),
        (lost_claim, False),
    ],
)
async def test_only_a_wait_for_a_binder_at_work_is_observed(
    fault: Callable[[Setup, Binder], AbstractContextManager[None]], for_binder: bool
) -> None:
    """Nothing else says that fewer volumes should be changed concurrently."""
    cluster = FakeCluster()
    async with Binder(cluster, delay=0.001) as binder:
        bind(cluster, PV, "n1")
        await binder.until_idle()
        setup = setup_on(cluster, FakeLinstor("n1", "n2"), at_once=10)
        waits = list[float]()
        instead(setup.replacer._dependencies.guard, _on_binder_wait=waits.append)
        with fault(setup, binder):
            async with setup.volumes.watching():
                assert await replace(setup, "n2") is Outcome.DONE

        assert any(waited > TARGET for waited in waits) is for_binder


async def test_if_our_finalizer_is_stripped_nothing_is_deleted_and_no_marker_left() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        patch = setup.volumes.patch

        async def stripping(name: PvName, wanted: Json) -> Json:
            await patch(name, wanted)
            without_finalizers = {"metadata": {"finalizers": before["metadata"]["finalizers"]}}
            return cluster.patch("persistentvolumes", name, without_finalizers)

        instead(setup.volumes, patch=stripping)
        async with setup.volumes.watching():
            outcome = await replace(setup, "n2")

        assert outcome is Outcome.ROLLED_BACK
        assert setup.pv()["metadata"]["uid"] == before["metadata"]["uid"]
        assert preserved(setup.pv()) == preserved(before)


async def test_writes_without_effect_are_not_retried_forever() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        before = setup.pv()
        tries = 0

        async def idle(name: PvName, wanted: Json) -> Json:
            nonlocal tries
            tries += 1
            return setup.pv()

        instead(setup.volumes, patch=idle)
        async with setup.volumes.watching():
            assert await replace(setup, "n2") is Outcome.SUPERSEDED

        assert setup.pv() == before
        assert setup.journal.entries == {}
        assert tries < 10


async def test_two_concurrent_instances_end_with_one_correct_volume() -> None:
    async with cluster_with(PV) as cluster, Binder(cluster, delay=0.001) as binder:
        first = setup_on(cluster, FakeLinstor("n1", "n2"), holder="first")
        second = setup_on(cluster, FakeLinstor("n1", "n2"), journal=first.journal, holder="second")
        before = first.pv()

        async def insist(setup: Setup) -> None:
            for _ in range(20):
                try:
                    await setup.replacer.resume(PV)
                    if setup.nodes() == {"n2"}:
                        return
                    await replace(setup, "n2")
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
        assert preserved(first.pv()) == preserved(before)
        assert first.claim()["status"]["phase"] == "Bound"
        assert first.journal.entries == {}
        assert binder.lost_claims == []


async def test_a_journal_listed_in_parts_is_known_completely() -> None:
    names = [PvName(f"pvc-{number}") for number in range(5)]
    async with cluster_with(*names) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        for name in names:
            entry = begun(setup.pv(name))
            await setup.journal.create(dataclasses.replace(entry, key=parse_handle(name)))
        setup.journal.at_a_time = 2

        for _ in range(3):
            await setup.replacer.load()

        assert set(setup.replacer.unfinished.pending) == set(names)


async def test_an_invalid_entry_is_not_pending_once_it_was_read() -> None:
    async with cluster_with(PV) as cluster:
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        await setup.journal.create(begun(setup.pv()))
        setup.journal.entries[PV][1]["wanted"]["spec"]["hostPath"] = {"path": "/"}
        await setup.replacer.load()
        assert set(setup.replacer.unfinished.pending) == {PV}

        outcome = await setup.replacer.resume(PV)

        assert isinstance(outcome, Refusal)
        assert outcome.reason is Reason.BAD_JOURNAL_ENTRY
        assert setup.replacer.unfinished.pending == {}
