"""Two instances at once, in the middle of many moves: without an election, killed, or asleep."""

import asyncio
import json
import signal
import socket

from tests.e2e.conftest import MakeService
from tests.e2e.test_lifecycle import SHORT_LEASE, holder
from tests.testbed.clusters import until
from tests.testbed.manifests import nodes_of
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

NAMES = [f"pvc-{n}" for n in range(12)]
ROUNDS = ("n2", "n3", "n1")
LEASE_LASTS = 3.0


def generations(testbed: Testbed, name: str) -> int:
    """How many incarnations of a volume there were."""
    return len(
        {observed.manifest["metadata"]["uid"] for observed in testbed.observer.history[name]}
    )


async def all_well(testbed: Testbed, node: str) -> None:
    """Every volume is there, as it was but for the affinity, and belongs to its claim."""
    for name in NAMES:
        await testbed.until_on(name, node)
        await testbed.until_bound(name)

    async def no_entries() -> bool:
        return await testbed.entries() == []

    await until(no_entries, "no note is left")
    found = (await testbed.cluster.ask("GET", "/api/v1/persistentvolumes"))["items"]
    assert {item["metadata"]["name"] for item in found} == set(NAMES)
    for item in found:
        assert nodes_of(item) == {node}
        assert item["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
        assert item["metadata"]["annotations"].keys() == {"pv.kubernetes.io/provisioned-by"}
        assert item["spec"]["claimRef"]["name"] == f"claim-{item['metadata']['name']}"
    assert testbed.observer.lost == []


async def burst(testbed: Testbed, leaving: str, target: str) -> None:
    """All volumes move, and it is seen that the first of them is being replaced."""
    before = {name: generations(testbed, name) for name in NAMES}
    testbed.world.evacuate(leaving, target=target)
    await testbed.observer.until(
        lambda: any(generations(testbed, name) > before[name] for name in NAMES),
        "some volume is replaced",
    )


async def test_two_instances_without_leader_election_lose_nothing_and_do_not_fight(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add_many(NAMES, "n1")
    alone = "--leader-election=false"

    async with running(service_on(testbed, alone)), running(service_on(testbed, alone)):
        here = "n1"
        for target in ROUNDS:
            testbed.world.evacuate(here, target=target)
            await all_well(testbed, target)
            testbed.world.restore(here)
            here = target
        counted = {name: generations(testbed, name) for name in NAMES}
        # Each rechecks some seconds after a change: a fight that still goes on shows then.
        await asyncio.sleep(5.0)

    # One for each move, and as many for moves that the other had not heard of yet.
    assert max(counted.values()) <= 1 + 2 * len(ROUNDS)
    assert {name: generations(testbed, name) for name in NAMES} == counted
    assert testbed.observer.lost == []


def two(testbed: Testbed, service_on: MakeService) -> tuple[Service, Service]:
    first = service_on(testbed, "--leader-election-id=first", *SHORT_LEASE)
    return first, service_on(testbed, "--leader-election-id=second", *SHORT_LEASE)


async def test_after_a_leader_is_killed_within_a_burst_nothing_is_lost(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add_many(NAMES, "n1")
    first, second = two(testbed, service_on)

    async with running(first), running(second):
        await burst(testbed, "n1", "n2")
        await first.kill()
        await all_well(testbed, "n2")

        assert await holder(testbed) == "second"


async def test_a_leader_suspended_past_its_lease_does_no_harm_when_it_resumes(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add_many(NAMES, "n1")
    first, second = two(testbed, service_on)

    async with running(first), running(second):
        await burst(testbed, "n1", "n2")
        first.signal(signal.SIGSTOP)

        async def taken_over() -> bool:
            return await holder(testbed) == "second"

        await until(taken_over, "the other leads")
        testbed.world.restore("n1")
        await burst(testbed, "n2", "n3")
        first.signal(signal.SIGCONT)
        await all_well(testbed, "n3")
        await asyncio.sleep(LEASE_LASTS)
        await all_well(testbed, "n3")

        assert await holder(testbed) == "second"
    for name in NAMES:
        assert generations(testbed, name) <= 1 + 2 * 2


async def test_two_instances_on_one_host_without_identity_do_not_both_lead(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-1", ["n1"])
    pair = [service_on(testbed, *SHORT_LEASE, LEASE_HOLDER_IDENTITY="") for _ in range(2)]

    async with running(pair[0]), running(pair[1]):
        # Both have had a try by now, and each renewal would find out about the other.
        await asyncio.sleep(LEASE_LASTS)
        leads = [json.loads((await each.ask("/status"))[1])["leading"] for each in pair]
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")

        assert sorted(leads) == [False, True]
        await pair[leads.index(True)].until_said("volume affinity updated")
        assert (await holder(testbed)).startswith(f"{socket.gethostname()}_")
    assert [each.said().count("volume affinity updated") for each in pair] == [
        int(leading) for leading in leads
    ]
