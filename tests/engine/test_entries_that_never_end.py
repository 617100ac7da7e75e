"""Entries that never end: their volumes can't be created, or a finalizer keeps them."""

import asyncio
import logging
from typing import Any

import pytest

from linstor_affinity_events.engine import originals
from linstor_affinity_events.engine.change_backoff import BURST
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.advance import MAX_CONFLICTS
from linstor_affinity_events.model.decision import Reason
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import MARKER_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName
from linstor_affinity_events.model.recreation import SERVER_SET
from tests.engine.forged_entries import EVIL, VICTIM, entry, foreign_claim, is_on, volume_for
from tests.engine.forged_entries import reconciled as reconciled_for
from tests.engine.setup import PV, RD, Setup, bind, cluster_with, instead, setup_on, until
from tests.fakes.linstor import FakeLinstor
from tests.fakes.volumes import FakeJournal
from tests.model.manifests import KEY
from tests.testbed import manifests

Json = dict[str, Any]

UNREADABLE = ClaimName(namespace="default", name="unreadable")
NO_CLAIM = [("..", "x"), ("default", ".."), ("default", "A"), ("", "x"), ("default", "%" * 1_000)]


def add_entries(setup: Setup, number: int, claim: Json, **spec: Any) -> None:
    for each in range(number):
        forged = volume_for(None, f"unused-{each}", claimRef=claim, **spec)
        forged["metadata"]["name"] = name = f"evil-{each}"
        setup.journal.entries[PvName(name)] = entry(forged, f"unused-{each}/0")


async def seconds_for_changes(setup: Setup, linstor: FakeLinstor, number: int) -> list[float]:
    """How long updates take that are not urgent: the data stays where it was, and comes and goes
    elsewhere.
    """
    clock, took = asyncio.get_running_loop().time, []
    for round_ in range(number):
        nodes = ("n1",) if round_ % 2 else ("n1", "n2")
        linstor.place(PV, *nodes)
        began = clock()
        setup.queue.add(RD, source="promotion")
        await until(lambda nodes=nodes: is_on(setup.cluster, *nodes), within=1800.0)
        took.append(clock() - began)
        await asyncio.sleep(20.0)
        await setup.full_reconciler.reconcile_all("period")
    return took


@pytest.mark.parametrize("number", [0, 10, 48])
async def test_entries_whose_claims_cannot_be_read_delay_others_only_briefly(number: int) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor, at_once=10)
        read_claim = setup.volumes.read_claim

        async def read(claim: ClaimName) -> Manifest | None:
            if claim.name == UNREADABLE.name:
                raise Unreachable("HTTP 500")
            return await read_claim(claim)

        instead(setup.volumes, read_claim=read)
        ref = {"namespace": UNREADABLE.namespace, "name": UNREADABLE.name, "uid": "nobody"}
        add_entries(setup, number, ref)
        async with setup.at_work(workers=14):
            await setup.full_reconciler.reconcile_all("start")
            await asyncio.sleep(30.0)
            took = await seconds_for_changes(setup, linstor, 4)

        assert max(took) < 75.0


@pytest.mark.parametrize("number", [0, 48])
async def test_entries_for_a_claim_that_is_being_resized_delay_others_only_briefly(
    number: int,
) -> None:
    """The API server rejects their creation, for an access mode that does not exist."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor, at_once=10)
        read_claim, asked = setup.volumes.read_claim, 0

        async def read(claim: ClaimName) -> Manifest | None:
            nonlocal asked
            if claim.name != "evil":
                return await read_claim(claim)
            asked += 1
            return {
                "metadata": {"name": "evil", "namespace": "default", "uid": "evil-uid"},
                "spec": {"volumeName": "theirs", "resources": {"requests": {"storage": "2Gi"}}},
                "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
            }

        instead(setup.volumes, read_claim=read)
        ref = {"namespace": "default", "name": "evil", "uid": "evil-uid"}
        add_entries(setup, number, ref, accessModes=["NoSuchMode"])
        async with setup.at_work(workers=14):
            await setup.full_reconciler.reconcile_all("start")
            began = asked
            await asyncio.sleep(30.0)
            took = await seconds_for_changes(setup, linstor, 4)

        assert max(took) < 30.0
        assert (asked > began) == bool(number)


@pytest.mark.parametrize("number", [0, 12])
async def test_claims_that_become_unreadable_during_replacements_delay_others_only_briefly(
    number: int,
) -> None:
    """Whoever owns them also has their volumes fail again and again before they are removed."""
    own = [f"own-{each}" for each in range(number)]
    async with cluster_with(PV, *own, binder_takes=0.01) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        for name in own:
            linstor.place(name, "n2")
        setup = setup_on(cluster, linstor, at_once=10)
        read_claim, once = setup.volumes.read_claim, set[ClaimName]()

        async def read(claim: ClaimName) -> Manifest | None:
            if claim in once and claim.name.startswith("claim-own-"):
                raise Unreachable("not valid JSON")
            once.add(claim)
            return await read_claim(claim)

        instead(setup.volumes, read_claim=read)
        async with setup.at_work(workers=14):
            for name in own:
                setup.queue.add(ResourceName(name), source="promotion")
            await asyncio.sleep(60.0)
            took = await seconds_for_changes(setup, linstor, 3)

        assert max(took) < 30.0
        assert len(setup.replacer.unfinished.pending) == number


@pytest.mark.parametrize(("namespace", "name"), NO_CLAIM)
async def test_an_entry_for_a_name_that_no_claim_has_is_ignored(namespace: str, name: str) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        asked = []

        async def read(claim: ClaimName) -> Manifest | None:
            asked.append(claim)
            return None

        instead(setup.volumes, read_claim=read)
        add_entries(setup, 3, {"namespace": namespace, "name": name, "uid": "nobody"})
        async with setup.at_work():
            await reconciled_for(setup, 3)

    assert asked == []
    assert setup.replacer.unfinished.absent.stuck == {}


RESERVED = {"kind": "PersistentVolumeClaim", "namespace": "theirs", "name": "database"}


@pytest.mark.parametrize("its_entry", ["is there", "is deleted", "is not valid"])
@pytest.mark.parametrize("of", ["bound", "reserved", "available"])
async def test_data_of_a_volume_that_this_service_removed_is_given_to_no_other_claim(
    of: str, its_entry: str
) -> None:
    """Also if no claim uses it yet, and its entry is deleted or spoilt while it is absent."""
    async with cluster_with() as cluster:
        if of == "bound":
            bind(cluster, PV, "n1", handle=VICTIM)
        else:
            spec: Json = {"claimRef": RESERVED} if of == "reserved" else {}
            affinity = manifests.on_nodes(["n1"])
            made = manifests.volume(
                PV, claim=None, node_affinity=affinity, handle=VICTIM, policy="Retain", **spec
            )
            cluster.create("persistentvolumes", made)
        await asyncio.sleep(1.0)
        linstor = FakeLinstor("n1", "n2")
        linstor.place(VICTIM, "n2")
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            await setup.full_reconciler.reconcile_all("start")
            setup.faults.refuse("create", Unreachable)
            setup.queue.add(VICTIM, source="promotion")
            await until(lambda: cluster.get("persistentvolumes", PV) is None)
            version, tree = setup.journal.entries[PV]
            if its_entry == "is deleted":
                setup.journal.entries.pop(PV)
            elif its_entry == "is not valid":
                setup.journal.entries[PV] = version + "0", {**tree, "format": 0}
            await asyncio.sleep(30.0)
            await setup.full_reconciler.reconcile_all("period")
            forged = volume_for(foreign_claim(cluster), VICTIM)
            setup.journal.entries[EVIL] = entry(forged, f"{VICTIM}/0")
            await asyncio.sleep(5.0)
            if its_entry != "is there":
                setup.faults.allow("create")
            await reconciled_for(setup, 3)

        assert cluster.get("persistentvolumes", EVIL) is None


async def test_data_of_a_volume_that_this_service_removed_is_in_use_without_any_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was deleted, another instance may have led since, and very many others were observed."""
    monkeypatch.setattr(originals, "MOST_GONE", 0)
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            setup.faults.refuse("create", Unreachable)
            setup.queue.add(RD, source="promotion")
            await until(lambda: cluster.get("persistentvolumes", PV) is None)
        setup.journal.entries.clear()
        setup.replacer.unfinished.leadership_lost()
        setup.replacer.unfinished.leadership_gained()
        await setup.replacer.load()

        assert not setup.replacer.unfinished.pending
        assert setup.replacer.others_for(KEY, but=EVIL) == (PV,)


def add_useless(setup: Setup, number: int, *, prefix: str = "useless") -> None:
    """Valid entries for volumes that do not exist and of which nothing was deleted: each ends at
    once.
    """
    for each in range(number):
        name = f"{prefix}-{each}"
        forged = volume_for(None, name)
        forged["metadata"]["name"] = name
        version, tree = entry(forged, f"{name}/0")
        setup.journal.entries[PvName(name)] = version, {**tree, "state": "prepared"}


def with_slow_deletions(setup: Setup) -> list[PvName]:
    """Have the deletion of an entry take 50 ms. Returns the volumes whose entry was deleted."""
    drop, dropped = setup.journal.drop, list[PvName]()

    async def slowly(one: JournalEntry) -> None:
        await asyncio.sleep(0.05)
        dropped.append(one.pv)
        await drop(one)

    instead(setup.journal, drop=slowly)
    return dropped


async def test_a_deleted_entry_that_a_finalizer_keeps_is_not_followed_again() -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor)
        add_useless(setup, 20)
        setup.journal.finalizers |= setup.journal.entries.keys()
        dropped = with_slow_deletions(setup)
        async with setup.at_work():
            await reconciled_for(setup, 5)

    assert sorted(dropped) == sorted(setup.journal.entries)


@pytest.mark.parametrize("ended", [False, True], ids=["absent", "recreated"])
async def test_a_replacement_whose_entry_a_finalizer_keeps_is_completed(*, ended: bool) -> None:
    """Also by the next instance, and so is the next replacement once the entry is gone."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        first = setup_on(cluster, linstor)
        first.journal.finalizers.add(PV)
        if not ended:
            first.faults.refuse("create", Unreachable)
        async with first.at_work():
            first.queue.add(RD, source="promotion")
            await until(lambda: ended == (cluster.get("persistentvolumes", PV) is not None))
            await asyncio.sleep(10.0)
            await reconciled_for(first, 2)
        assert is_on(cluster, "n2") == ended

        journal = FakeJournal()
        journal.entries, journal.finalizers = first.journal.entries, first.journal.finalizers
        second = setup_on(cluster, linstor, journal=journal, holder="other")
        async with second.at_work():
            await reconciled_for(second, 2)
            assert is_on(cluster, "n2")
            assert PV in journal.entries
            assert second.replacer.unfinished.pending == {}

            linstor.place(PV, "n1")
            second.queue.add(RD, source="promotion")
            await reconciled_for(second, 2)
            assert is_on(cluster, "n2")
            del journal.entries[PV]
            journal.finalizers.clear()
            await reconciled_for(second, 5)
            assert is_on(cluster, "n1")


@pytest.mark.parametrize("kept", [False, True], ids=["new ones", "kept by a finalizer"])
@pytest.mark.parametrize("nodes", [("n2",), ("n1", "n2")], ids=["urgent", "one choice more"])
async def test_entries_that_end_at_once_delay_others_only_briefly(
    nodes: tuple[str, ...], *, kept: bool
) -> None:
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        setup = setup_on(cluster, linstor, at_once=10)
        setup.journal.at_a_time = 10_000
        dropped = with_slow_deletions(setup)
        async with setup.at_work(workers=14):
            await reconciled_for(setup, 1)
            add_useless(setup, 4000)
            if kept:
                setup.journal.finalizers |= setup.journal.entries.keys()
            await setup.full_reconciler.reconcile_all("period")
            linstor.place(PV, *nodes)
            began = asyncio.get_running_loop().time()
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, *nodes))
            took = asyncio.get_running_loop().time() - began
            await reconciled_for(setup, 1)

        assert took < 5.0
        assert len([name for name in dropped if name != PV]) == 4000


async def test_a_volume_that_a_crash_left_absent_comes_before_changes_that_are_not_urgent() -> None:
    others = [f"other-{each}" for each in range(200)]
    async with cluster_with(PV, *others) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        for name in others:
            linstor.place(name, "n1", "n2")
        first = setup_on(cluster, linstor)
        first.faults.refuse("create", Unreachable)
        async with first.at_work():
            first.queue.add(RD, source="promotion")
            await until(lambda: cluster.get("persistentvolumes", PV) is None)
        second = setup_on(cluster, linstor, journal=first.journal, holder="other")

        def changed() -> int:
            return sum(second.nodes(name) == {"n1", "n2"} for name in others)

        async with second.at_work():
            for name in others:
                second.queue.add(ResourceName(name), source="promotion")
            await asyncio.sleep(0.1)
            before = changed()
            await second.full_reconciler.reconcile_all("leading")
            await until(lambda: is_on(cluster, "n2"))

            assert before <= changed() < before + 20


async def test_entries_for_former_volumes_count_as_no_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is for another incarnation of a volume that this service has recreated once."""
    caplog.set_level(logging.INFO)
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n2"))
            caplog.clear()
            for _ in range(2 * BURST):
                wanted = setup.pv()
                for key in SERVER_SET:
                    wanted["metadata"].pop(key, None)
                wanted.pop("status")
                setup.journal.entries[PV] = entry(wanted, f"{PV}/0")
                await setup.full_reconciler.reconcile_all("period")
                await asyncio.sleep(5.0)
                assert setup.journal.entries == {}
            linstor.place(PV, "n3")
            setup.queue.add(RD, source="promotion")
            await until(lambda: is_on(cluster, "n3"), within=10.0)

    assert "resumed a replacement" not in caplog.text
    assert caplog.text.count("its journal entry was outdated") == 2 * BURST


async def test_changes_whose_entry_is_touched_at_the_end_are_counted() -> None:
    """So often that the run is interrupted, with the volume recreated: a later run drops it."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n2")
        setup = setup_on(cluster, linstor)
        drop, touched = setup.journal.drop, 0

        async def drop_after_a_write(entry: JournalEntry) -> None:
            nonlocal touched
            if touched <= MAX_CONFLICTS:
                touched += 1
                version, tree = setup.journal.entries[entry.pv]
                setup.journal.entries[entry.pv] = f"{version}0", tree
            await drop(entry)

        instead(setup.journal, drop=drop_after_a_write)
        async with setup.at_work():
            for number in range(2 * BURST):
                linstor.place(PV, ("n2", "n1")[number % 2])
                touched = 0
                setup.queue.add(RD, source="promotion")
                await asyncio.sleep(20.0)

        against = setup.cluster_view.backoff.against(PV)
        assert against is not None
        assert against.reason is Reason.HELD_BACK


@pytest.mark.parametrize("number", [1, 50])
async def test_an_annotation_on_a_volume_that_goes_has_it_not_resumed(number: int) -> None:
    """It has no entry, and not our finalizer: there is nothing to be done for it."""
    async with cluster_with(PV) as cluster:
        linstor = FakeLinstor("n1", "n2")
        linstor.place(PV, "n1")
        names = [PvName(f"evil-{each}") for each in range(number)]
        for name in names:
            linstor.place(name, "n1")
            bind(cluster, name, "n1")
        await asyncio.sleep(5.0)
        setup = setup_on(cluster, linstor)
        read, reads = setup.volumes.read, list[PvName]()

        async def volume_read(name: PvName) -> Manifest | None:
            reads.append(name)
            return await read(name)

        instead(setup.volumes, read=volume_read)
        async with setup.at_work():
            await reconciled_for(setup, 1)
            for name in names:
                held = {"metadata": {"finalizers": ["example.com/hold"]}}
                cluster.patch("persistentvolumes", name, held)
                cluster.delete("persistentvolumes", name)
                annotated = {"metadata": {"annotations": {MARKER_ANNOTATION: "x"}}}
                cluster.patch("persistentvolumes", name, annotated)
            await reconciled_for(setup, 1)
            reads.clear()
            await reconciled_for(setup, 10)

        assert reads == []
