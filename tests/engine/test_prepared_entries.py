"""Others set an entry back to `prepared`, as if the owner deleted the volume."""

import asyncio
from collections.abc import Callable

import pytest

from linstor_affinity_events.errors import Conflict, Unreachable
from linstor_affinity_events.model.keys import FINALIZER
from linstor_affinity_events.model.manifest import Manifest, Patch
from linstor_affinity_events.model.names import PvName
from tests.engine.forged_entries import is_on, reconciled
from tests.engine.setup import (
    PV,
    RD,
    Json,
    Setup,
    bind,
    cluster_with,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.engine.test_entries_rewritten_in_replacement import bound, no_claim, rewrite, state, uid
from tests.engine.test_names_on_volumes import mark_and_crash
from tests.engine.test_two_runs import fail_over
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

EVENTS: dict[str, type[Exception] | None] = {"label": None, "response lost": Unreachable}


def deleting(tree: Json) -> None:
    tree["state"] = "deleting"


def detaches(change: Patch) -> bool:
    return "claimRef" in (change.get("spec") or {})


def rewritten(setup: Setup) -> None:
    rewrite(setup, state)


def for_another(setup: Setup) -> None:
    rewrite(setup, uid)


def removed(setup: Setup) -> None:
    setup.journal.entries.clear()


@pytest.mark.parametrize("change", [rewritten, for_another, removed])
@pytest.mark.parametrize("error", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("after", ["delete", "detach"])
async def test_a_run_that_continues_knows_what_it_has_deleted_itself(
    after: str, error: type[Exception] | None, change: Callable[[Setup], None]
) -> None:
    """Anybody makes it observe again, by a label."""
    async with one_setup("n2") as first:
        setup = await mark_and_crash(first)
        delete, patch = setup.volumes.delete, setup.volumes.patch
        attacked: list[bool] = []

        def attack() -> None:
            if attacked:
                return
            attacked.append(True)
            change(setup)
            if error is not None:
                raise error("the response is lost")
            labels = {"metadata": {"labels": {"somebody": "else"}}}
            setup.cluster.patch("persistentvolumes", PV, labels)

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            if after == "delete":
                attack()
            return response

        async def patched(name: PvName, change: Patch) -> Manifest:
            response = await patch(name, change)
            if after == "detach" and detaches(change):
                attack()
            return response

        instead(setup.volumes, delete=deleted, patch=patched)
        async with setup.at_work():
            await reconciled(setup, 10)

        assert attacked
        assert is_on(setup.cluster, "n2")
        assert setup.claim()["status"]["phase"] == "Bound"


async def detach_and_crash(setup: Setup) -> Setup:
    """Returns the instance that goes on."""
    patch = setup.volumes.patch

    async def patched(name: PvName, change: Patch) -> Manifest:
        response = await patch(name, change)
        if detaches(change):
            raise asyncio.CancelledError
        return response

    instead(setup.volumes, patch=patched)
    async with setup.volumes.watching():
        await setup.replacer.resume(PV)
        await asyncio.wait([asyncio.create_task(replace(setup, "n2"))])
    return setup_on(setup.cluster, setup.linstor, journal=setup.journal, holder="third")


@pytest.mark.parametrize("change", [rewritten, for_another, removed])
@pytest.mark.parametrize("later", [0.0, 120.0])
@pytest.mark.parametrize("deleted_before", [True, False])
async def test_a_run_that_continues_knows_what_it_has_removed(
    change: Callable[[Setup], None], later: float, *, deleted_before: bool
) -> None:
    """The API server does not answer its creation, perhaps for so long that other runs follow."""
    async with one_setup("n2") as first:
        setup = await mark_and_crash(first)
        if deleted_before:
            setup = await detach_and_crash(setup)
        create, failing, absent = setup.volumes.create, True, list[bool]()

        async def created(manifest: Manifest) -> Manifest:
            if not failing:
                return await create(manifest)
            if not absent and setup.cluster.get("persistentvolumes", PV) is None:
                absent.append(True)
                if not later:
                    change(setup)
            raise Unreachable("no response")

        instead(setup.volumes, create=created)
        async with setup.at_work():
            await setup.full_reconciler.reconcile_all("leading")
            await until(lambda: absent)
            await asyncio.sleep(later)
            if later:
                change(setup)
            await asyncio.sleep(30.0)
            failing = False
            await reconciled(setup, 10)

        assert is_on(setup.cluster, "n2")
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_a_detached_volume_is_not_let_go_by_its_entry() -> None:
    async with one_setup("n2") as first:
        third = await detach_and_crash(await mark_and_crash(first))
        rewrite(third, state)
        async with third.at_work():
            await reconciled(third, 10)
            assert FINALIZER in third.pv()["metadata"]["finalizers"]

            rewrite(third, deleting)
            await third.replacer.resume(PV)

        assert is_on(third.cluster, "n2")


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "not yet noticed"])
@pytest.mark.parametrize("after", ["delete", "detach"])
async def test_an_instance_that_leads_no_longer_lets_no_volume_go(
    after: str, *, noticed: bool
) -> None:
    """Who may write the Lease has the other one lead between the markers and the deletion. The
    first one may notice that only when it renews the Lease.
    """
    async with bound() as (first, sidecars):
        second = standing_by(first)
        late, delete, patch = first.volumes.delete, second.volumes.delete, second.volumes.patch
        about, attacked = asyncio.Event(), asyncio.Event()

        async def deleted_late(manifest: Manifest) -> Manifest | None:
            about.set()
            await attacked.wait()
            return await late(manifest)

        async def attack() -> None:
            if not attacked.is_set():
                rewrite(second, state)
                attacked.set()
                await asyncio.sleep(0.2)

        async def deleted(manifest: Manifest) -> Manifest | None:
            response = await delete(manifest)
            if after == "delete":
                await attack()
            return response

        async def patched(name: PvName, change: Patch) -> Manifest:
            response = await patch(name, change)
            if after == "detach" and detaches(change):
                await attack()
            return response

        instead(first.volumes, delete=deleted_late)
        instead(second.volumes, delete=deleted, patch=patched)
        async with first.at_work(), second.at_work():
            first.queue.add(RD, source="promotion")
            await about.wait()
            fail_over(first, second)
            if not noticed:
                first.leadership.leading = first.leadership.lease_is_another = True
            await reconciled(second, 10)

        assert attacked.is_set()
        assert is_on(second.cluster, "n2")
        assert sidecars.reclaimed == []


@pytest.mark.parametrize("late", [0.05, 1.0])
async def test_a_failover_between_deletion_and_detaching_keeps_no_volume_terminating(
    late: float,
) -> None:
    """The second instance sees neither markers that say deletion nor a name but that of the first,
    and takes the markers off. The first one goes on with what it has deleted.
    """
    async with bound() as (first, sidecars):
        second = standing_by(first)
        patch, attacked = first.volumes.patch, list[bool]()

        async def patched(name: PvName, change: Patch) -> Manifest:
            if detaches(change) and not attacked:
                attacked.append(True)
                rewrite(first, state)
                fail_over(first, second)
                second.full_reconciler.request("leading")
                await asyncio.sleep(late)
            return await patch(name, change)

        instead(first.volumes, patch=patched)
        async with first.at_work(), second.at_work():
            full = asyncio.create_task(second.full_reconciler.run())
            first.queue.add(RD, source="promotion")
            await until(lambda: is_on(first.cluster, "n2"))
            await reconciled(second, 5)
            full.cancel()

        assert attacked
        assert is_on(first.cluster, "n2")
        assert first.claim()["status"]["phase"] == "Bound"
        assert sidecars.reclaimed == []


async def test_a_claim_that_others_took_out_of_the_entry_is_found_on_the_volume() -> None:
    """The instance that detached it knows it; another one finds it in the markers."""
    async with bound() as (first, _):
        second = standing_by(first)
        patch, remove, attacked = first.volumes.patch, first.volumes.remove, list[bool]()

        async def patched(name: PvName, change: Patch) -> Manifest:
            response = await patch(name, change)
            if detaches(change) and not attacked:
                attacked.append(True)
                rewrite(first, no_claim)
            return response

        async def removed_late(manifest: Manifest) -> None:
            if first.leadership.leading:
                fail_over(first, second)
                second.full_reconciler.request("leading")
                await until(lambda: is_on(first.cluster, "n2"))
            await remove(manifest)

        instead(first.volumes, patch=patched, remove=removed_late)
        async with first.at_work(), second.at_work():
            full = asyncio.create_task(second.full_reconciler.run())
            first.queue.add(RD, source="promotion")
            await until(lambda: attacked and is_on(first.cluster, "n2"))
            await reconciled(second, 5)
            full.cancel()

        assert first.claim()["status"]["phase"] == "Bound"
        assert first.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


def standing_by(first: Setup) -> Setup:
    second = setup_on(first.cluster, first.linstor, journal=first.journal, holder="another")
    second.leadership.leading = False
    second.engine.leadership_changed(leading=False)
    return second


async def new_term_while_absent(setup: Setup, then: Callable[[], None] = lambda: None) -> None:
    """Somebody writes the Lease while the volume is absent, so that the leader begins a new term,
    and does something else. The first creation comes before the removal, as it usually may.
    """
    create, attacked = setup.volumes.create, list[bool]()

    async def created(manifest: Manifest) -> Manifest:
        if not attacked and setup.cluster.get("persistentvolumes", PV) is None:
            attacked.append(True)
            then()
            setup.engine.leadership_changed(leading=False)
            setup.engine.leadership_changed(leading=True)
            raise Conflict("the volume exists")
        return await create(manifest)

    instead(setup.volumes, create=created)
    async with setup.at_work():
        setup.queue.add(RD, source="promotion")
        await until(lambda: attacked)
        await reconciled(setup, 10)
    assert is_on(setup.cluster, "n2")


@pytest.mark.parametrize("changes", [{}, {"state": "prepared"}, {"volume": "theirs/0"}], ids=str)
async def test_a_new_term_keeps_no_run_from_what_it_removed(changes: Json) -> None:
    async with one_setup("n2") as setup:
        await new_term_while_absent(
            setup, lambda: rewrite(setup, lambda tree: tree.update(changes))
        )

        assert setup.pv()["spec"]["csi"]["volumeHandle"] == PV
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_a_new_term_detaches_no_volume_with_mount_options_of_its_own() -> None:
    async with cluster_with() as cluster:
        bind(cluster, PV, "n1", policy="Delete")
        await asyncio.sleep(1.0)
        cluster.patch("persistentvolumes", PV, {"spec": {"mountOptions": ["noatime"]}})
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        setup.linstor.place(PV, "n2")

        await new_term_while_absent(setup)

        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert setup.claim()["status"]["phase"] == "Bound"


async def test_a_new_term_detaches_no_volume_without_a_claim() -> None:
    async with cluster_with() as cluster:
        on_n1 = manifests.on_nodes(["n1"])
        made = manifests.volume(PV, claim=None, node_affinity=on_n1, policy="Delete")
        cluster.create("persistentvolumes", made)
        await asyncio.sleep(1.0)
        setup = setup_on(cluster, FakeLinstor("n1", "n2"))
        setup.linstor.place(PV, "n2")

        await new_term_while_absent(setup)

        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert "claimRef" not in setup.pv()["spec"]
