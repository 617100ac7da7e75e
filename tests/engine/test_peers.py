"""Beside admission policies, other controllers and people: what the whole engine makes of them."""

import asyncio
from typing import Any

import pytest

from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.decision import Reason
from linstor_affinity_events.model.keys import ORIGINAL_POLICY_ANNOTATION
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import ClaimName, PvName
from linstor_affinity_events.model.results import Postponed
from linstor_affinity_events.model.steps import Outcome
from tests.engine.setup import (
    PV,
    RD,
    Setup,
    cluster_with,
    instead,
    one_setup,
    replace,
    setup_on,
    until,
)
from tests.fakes.kube_server import metadata
from tests.fakes.kube_server.metadata import Writer
from tests.fakes.linstor import FakeLinstor
from tests.testbed import manifests

Json = dict[str, Any]

CLAIM = f"claim-{PV}"
CONTROLLER = Writer(name="kube-controller-manager", subresource="status")


async def reconciled_for(setup: Setup, seconds: float) -> None:
    """Let a full reconcile come each minute."""
    for _ in range(int(seconds / 60)):
        await setup.full_reconciler.reconcile_all("period")
        await asyncio.sleep(60.0)


def moved_elsewhere(operation: str, pv: Json) -> None:
    affinity = pv["spec"].get("nodeAffinity")
    if operation == "CREATE" and affinity:
        pv["spec"]["nodeAffinity"] = manifests.on_nodes(["elsewhere"])


async def test_a_policy_that_changes_new_affinities_causes_no_repeated_replacement() -> None:
    async with one_setup("n2") as setup, setup.at_work():
        setup.cluster.mutations.append(moved_elsewhere)
        await reconciled_for(setup, 3600.0)

        assert setup.nodes() == {"elsewhere"}
        assert setup.faults.writes.count("remove") < 10
        [(name, _, why), *_] = setup.notices.warnings
        assert name == PV
        assert "but is linbit.com/hostname=elsewhere now" in why
        assert setup.cluster_view.backoff.held_back() == 1
        assert setup.reporter.out_of_sync[PV].reason == Reason.DIFFERENT

        setup.cluster.mutations.clear()
        await reconciled_for(setup, 3600.0)
        assert setup.nodes() == {"n2"}


async def test_a_policy_that_labels_every_update_restarts_no_replacement() -> None:
    count = 0

    def stamped(operation: str, pv: Json) -> None:
        nonlocal count
        count += 1
        pv["metadata"].setdefault("annotations", {})["policy.example.com/stamp"] = str(count)

    async with one_setup("n2") as setup, setup.volumes.watching():
        setup.cluster.mutations.append(stamped)

        assert await replace(setup, "n2") is Outcome.DONE
        assert setup.nodes() == {"n2"}
        assert setup.faults.writes.count("remove") == 1
        assert setup.pv()["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


async def test_other_changes_by_a_policy_are_reported_once_and_accepted() -> None:
    def remounted(operation: str, pv: Json) -> None:
        if operation == "CREATE":
            pv["spec"]["mountOptions"] = ["ro"]

    async with cluster_with() as cluster:
        linstor = FakeLinstor("n1", "n2", "n3")
        linstor.place(PV, "n2")
        claim = cluster.create(
            "persistentvolumeclaims", manifests.claim(CLAIM), namespace="default"
        )
        made = manifests.volume(
            PV, claim=claim, node_affinity=manifests.on_nodes(["n1"]), mountOptions=["noatime"]
        )
        cluster.create("persistentvolumes", made)
        setup = setup_on(cluster, linstor)
        async with setup.at_work():
            await asyncio.sleep(1.0)
            cluster.mutations.append(remounted)
            await reconciled_for(setup, 600.0)

        assert setup.nodes() == {"n2"}
        assert setup.faults.writes.count("remove") == 1
        assert [(n, r) for n, r, _ in setup.notices.warnings] == [(PV, "VolumeCreatedDifferent")]


async def test_an_unstable_placement_causes_no_endless_replacements() -> None:
    async with one_setup("n2") as setup, setup.at_work():
        for number in range(1800):
            setup.linstor.place(PV, f"n{number % 2 + 2}")
            setup.queue.add(RD, source="promotion")
            await asyncio.sleep(2.0)

        assert setup.faults.writes.count("remove") < 30
        assert any("more than 10 times" in why for _, _, why in setup.notices.warnings)


async def lost_and_found(setup: Setup) -> None:
    for phase in ("Lost", "Bound"):
        status = {"status": {"phase": phase}}
        setup.cluster.patch(
            "persistentvolumeclaims", CLAIM, status, namespace="default", writer=CONTROLLER
        )


@pytest.mark.parametrize("responded", [True, False])
@pytest.mark.parametrize("lost", [True, False])
async def test_a_claim_that_was_lost_for_a_moment_is_counted(
    monkeypatch: pytest.MonkeyPatch, lost: bool, responded: bool
) -> None:
    async with one_setup("n2") as setup, setup.volumes.watching():
        create = setup.volumes.create

        async def created(manifest: Manifest) -> Manifest:
            made = await create(manifest)
            # The API server's clock has a resolution of seconds, and the claim was not bound just
            # now.
            monkeypatch.setattr(metadata, "now", lambda: "2036-01-01T00:00:00Z")
            if lost:
                await lost_and_found(setup)
            if not responded:
                raise Unreachable("the answer is lost")
            return made

        instead(setup.volumes, create=created)
        assert await replace(setup, "n2") is Outcome.DONE
        assert setup.telemetry.counted["claim lost"] == lost


async def test_a_claim_deleted_while_the_resync_is_avoided_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By whoever continues a replacement: then policy Retain is kept."""
    async with one_setup("n2") as first:
        first.faults.refuse("remove", Unreachable)
        async with first.volumes.watching():
            with pytest.raises(Unreachable):
                await replace(first, "n2")
        second = setup_on(first.cluster, first.linstor, journal=first.journal, holder="another")
        waits = [True]

        async def waited(*_: object) -> Postponed | None:
            if not waits:
                return None
            waits.clear()
            claim: Json = {"metadata": {"finalizers": []}}
            second.cluster.patch("persistentvolumeclaims", CLAIM, claim, namespace="default")
            second.cluster.delete("persistentvolumeclaims", CLAIM, namespace="default")
            return Postponed()

        monkeypatch.setattr(ClaimGuard, "avoid_resync", waited)
        async with second.volumes.watching():
            await second.replacer.load()
            assert await second.replacer.resume(PvName(PV)) is Outcome.RECREATED_WITH_RETAIN
        after = second.pv()
        assert after["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        assert after["metadata"]["annotations"][ORIGINAL_POLICY_ANNOTATION] == "Delete"


async def test_a_volume_deferred_for_minutes_is_reported_although_nothing_changes() -> None:
    async with one_setup("n1", "n2") as setup, setup.at_work():
        wish = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
        setup.cluster.patch("persistentvolumeclaims", CLAIM, wish, namespace="default")
        setup.reporter._now = asyncio.get_running_loop().time
        await reconciled_for(setup, 120.0)
        assert setup.notices.warnings == []
        await reconciled_for(setup, 600.0)

        [(name, _, why)] = setup.notices.warnings
        assert name == PV
        assert "its claim is being resized from 1Gi to 2Gi" in why
        await setup.full_reconciler.reconcile_all("period")
        assert setup.telemetry.now["deferred"] == 1

        capacity = {"spec": {"capacity": {"storage": "2Gi"}}}
        setup.cluster.patch("persistentvolumes", PV, capacity)
        await until(lambda: setup.nodes() == {"n1", "n2"}, within=120.0)


async def test_a_new_volume_deleted_before_its_entry_stays_deleted() -> None:
    async with one_setup("n2") as setup:
        create, read_claim = setup.volumes.create, setup.volumes.read_claim
        created = False

        async def made(manifest: Manifest) -> Manifest:
            nonlocal created
            response = await create(manifest)
            created = True
            return response

        async def failing(claim: ClaimName) -> Manifest | None:
            if created and setup.cluster.get("persistentvolumes", PV) is not None:
                without_finalizers: Json = {"metadata": {"finalizers": []}}
                setup.cluster.patch("persistentvolumes", PV, without_finalizers)
                setup.cluster.delete("persistentvolumes", PV)
                raise Unreachable("the answer is lost")
            return await read_claim(claim)

        instead(setup.volumes, create=made, read_claim=failing)
        async with setup.volumes.watching():
            assert await replace(setup, "n2") is Outcome.DELETED_BY_USER

        assert setup.cluster.get("persistentvolumes", PV) is None
        assert setup.journal.entries == {}
