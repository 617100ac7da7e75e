"""Who leads: a minute takes one or two seconds here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes import lease as kube_lease
from linstor_affinity_events.adapters.kubernetes.api import KubeApi, Query
from linstor_affinity_events.adapters.kubernetes.election import (
    AlwaysLeading,
    ElectionTimes,
    LeaseElection,
)
from linstor_affinity_events.adapters.kubernetes.leader_health import YIELD_AFTER_FIRST
from linstor_affinity_events.adapters.kubernetes.lease import LeaseName
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.printable import LONGEST_TEXT
from tests.adapters.peers import loads, running
from tests.contracts.manifests import lease
from tests.engine.setup import instead
from tests.fakes.kube_server import FakeCluster, KubeServer

pytestmark = pytest.mark.fast_clock(40)

LEASE = "affinity"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DURATION, DEADLINE, RETRY = 30.0, 25.0, 10.0
TIMES = ElectionTimes(lease_duration=DURATION, renew_deadline=DEADLINE, retry_period=RETRY)


class Election:
    """An API server and those who want to lead; on a clock of its own."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.server = KubeServer(self.cluster)
        self.reported: dict[str, list[bool]] = {}
        self.apis: list[KubeApi] = []

    def candidate(
        self,
        name: str,
        *,
        namespace: str = "default",
        healthy: Callable[[], bool] = lambda: True,
        now: Callable[[], datetime] = lambda: datetime.fromtimestamp(clock(), UTC),
    ) -> LeaseElection:
        api = KubeApi(loads(self.server.url))
        self.apis.append(api)
        self.reported[name] = []
        return LeaseElection(
            api,
            LeaseName(namespace, LEASE),
            name,
            TIMES,
            on_change=self.reported[name].append,
            now=now,
            healthy=healthy,
        )

    def held_by(self, holder: str, **spec: Any) -> None:
        given = lease(LEASE, holderIdentity=holder, leaseDurationSeconds=30, **spec)
        self.cluster.create("leases", given, namespace="default")

    @property
    def spec(self) -> dict[str, Any]:
        stored = self.cluster.get("leases", LEASE, "default")
        assert stored is not None
        spec: dict[str, Any] = stored["spec"]
        return spec

    async def __aenter__(self) -> "Election":
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for api in self.apis:
            await api.close()
        await self.server.stop()


@pytest.fixture
async def election() -> AsyncIterator[Election]:
    async with Election() as election:
        yield election


def clock() -> float:
    return asyncio.get_running_loop().time()


async def until(holds: Callable[[], bool], *, within: float = 150.0) -> float:
    """Wait until it is so; returns how long that took."""
    begun = clock()
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.1)
    return clock() - begun


async def test_the_first_candidate_leads_at_once(election: Election) -> None:
    one = election.candidate("one")

    async with running(one.run()):
        took = await until(lambda: one.leading)

    assert took < RETRY
    assert (election.spec["holderIdentity"], election.spec["leaseTransitions"]) == ("one", 0)
    assert election.reported["one"] == [True]


async def test_an_unhealthy_leader_yields_to_a_healthy_one(election: Election) -> None:
    unhealthy, healthy = (
        election.candidate("unhealthy", healthy=lambda: False),
        election.candidate("healthy"),
    )

    async with running(unhealthy.run()):
        await until(lambda: unhealthy.leading)
        async with running(healthy.run()):
            took = await until(lambda: healthy.leading)
            assert not unhealthy.leading
            for _ in range(60):
                await asyncio.sleep(1.0)
                assert healthy.leading

    assert took < YIELD_AFTER_FIRST + 3 * RETRY


async def test_an_only_instance_that_yielded_leads_once_it_is_healthy(election: Election) -> None:
    state = {"healthy": False}
    one = election.candidate("one", healthy=lambda: state["healthy"])

    async with running(one.run()):
        await until(lambda: one.leading)
        await until(lambda: not one.leading)
        await asyncio.sleep(2.0)
        state["healthy"] = True

        took = await until(lambda: one.leading)

    assert took < 3.0


async def test_if_all_are_unhealthy_one_still_leads(election: Election) -> None:
    alone = election.candidate("alone", healthy=lambda: False)
    led = 0

    async with running(alone.run()):
        await until(lambda: alone.leading)
        for _ in range(200):
            await asyncio.sleep(1.0)
            led += alone.leading

    assert led > 80


async def test_an_instance_that_recovered_does_not_wait(election: Election) -> None:
    state = {"healthy": False}
    alone = election.candidate("alone", healthy=lambda: state["healthy"])

    async with running(alone.run()):
        await until(lambda: alone.leading)
        await until(lambda: not alone.leading)
        state["healthy"] = True
        assert await until(lambda: alone.leading) <= RETRY + 1.0


async def test_of_two_candidates_one_leads(election: Election) -> None:
    one, two = election.candidate("one"), election.candidate("two")

    async with running(one.run()), running(two.run()):
        await until(lambda: one.leading or two.leading)
        both = 0
        for _ in range(80):
            await asyncio.sleep(1.0)
            both += one.leading and two.leading

    assert both == 0
    assert sorted([len(election.reported["one"]), len(election.reported["two"])]) == [0, 1]


async def test_of_two_instances_with_one_identity_only_the_later_leads(election: Election) -> None:
    earlier, later = election.candidate("same"), election.candidate("same")

    async with running(earlier.run()):
        await until(lambda: earlier.leading)
        async with running(later.run()):
            await until(lambda: later.leading)
            # From its next renewal on the earlier one knows.
            took = await until(lambda: not earlier.leading)
            changes = 0
            for _ in range(80):
                await asyncio.sleep(1.0)
                changes += earlier.leading or not later.leading

    assert took <= RETRY + 2.0
    assert changes == 0


async def test_an_instance_takes_over_from_a_silent_one_with_the_same_identity(
    election: Election,
    caplog: pytest.LogCaptureFixture,
) -> None:
    earlier, later = election.candidate("same"), election.candidate("same")
    async with running(earlier.run()):
        await until(lambda: earlier.leading)
        async with running(later.run()):
            await until(lambda: later.leading and not earlier.leading)

        took = await until(lambda: earlier.leading)

    assert took >= DURATION - RETRY
    assert caplog.text.count("another instance uses the same --leader-election-id") == 1


async def test_the_lease_of_another_instance_with_the_same_identity_is_not_released(
    election: Election,
) -> None:
    earlier, later = election.candidate("same"), election.candidate("same")
    async with running(earlier.run()):
        await until(lambda: earlier.leading)
    async with running(later.run()):
        await until(lambda: later.leading)

        await earlier.release()

        assert election.spec["holderIdentity"] == "same"


async def test_the_lease_of_an_earlier_process_is_acquired_although_the_first_attempt_was_lost(
    election: Election,
) -> None:
    election.held_by("one")
    election.server.faults.add(method="PUT", status=500)
    one = election.candidate("one")

    async with running(one.run()):
        took = await until(lambda: one.leading)

    assert took < 2 * RETRY


async def test_a_leader_recognises_its_lease_after_a_renewal_without_response(
    election: Election,
) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        election.server.faults.add(method="PUT", drop_after=True)
        await asyncio.sleep(3 * RETRY)

        assert one.leading
    assert election.reported["one"] == [True]


async def test_a_leader_keeps_leading(election: Election) -> None:
    one = election.candidate("one")

    async with running(one.run()):
        await until(lambda: one.leading)
        await asyncio.sleep(3 * DURATION)

        assert one.leading
    assert election.reported["one"] == [True]


async def test_a_renewal_is_one_request_and_no_read(election: Election) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        before = election.spec["renewTime"]
        read = election.server.faults.add(method="GET", status=500)
        await asyncio.sleep(3 * DURATION)

        assert one.leading
        assert election.spec["renewTime"] > before
        assert election.spec["leaseTransitions"] == 0
        assert read.hits == 0
    assert election.reported["one"] == [True]


async def test_a_released_lease_is_acquired_at_once(election: Election) -> None:
    one, two = election.candidate("one"), election.candidate("two")
    async with running(one.run()):
        await until(lambda: one.leading)
    async with running(two.run()):
        await until(lambda: two.holder == "one")

        await one.release()
        took = await until(lambda: two.leading)

    assert not one.leading
    assert took < RETRY + 5.0
    assert election.spec["leaseTransitions"] == 1


async def test_a_lease_is_released_however_deep_its_managed_fields_are(election: Election) -> None:
    """Whoever may write the Lease can store levels that JSON parsers read, and writers refuse."""
    deep: dict[str, object] = {}
    for _ in range(300):
        deep = {"f:x": deep}
    fields = [{"manager": "x", "operation": "Update", "fieldsV1": deep}]

    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        get = one._api.get

        async def read(path: str, query: Query | None = None) -> dict[str, Any]:
            lease = await get(path, query)
            return {**lease, "metadata": {**lease["metadata"], "managedFields": fields}}

        instead(one._api, get=read)
        await one.release()

    assert election.spec["holderIdentity"] == ""


async def test_a_release_with_response_410_is_only_logged(
    election: Election,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
    election.server.faults.add(method="GET", status=410)

    await one.release()

    assert election.spec["holderIdentity"] == "one"
    assert "cannot release the Lease" in caplog.text


async def test_of_a_holder_with_a_long_name_only_the_beginning_is_kept(election: Election) -> None:
    election.held_by("x" * 10**6)
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.holder.startswith("xxx"))

    assert len(one.holder) == LONGEST_TEXT


async def test_a_follower_releases_nothing(election: Election) -> None:
    election.held_by("ghost")
    one = election.candidate("one")

    await one.release()

    assert election.spec["holderIdentity"] == "ghost"


async def test_a_leader_does_not_release_what_another_has_taken(election: Election) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
    changed = {"spec": {"holderIdentity": "ghost"}}
    election.cluster.patch("leases", LEASE, changed, namespace="default")

    await one.release()

    assert election.spec["holderIdentity"] == "ghost"


async def test_an_expired_lease_is_acquired(election: Election) -> None:
    election.held_by("ghost")
    one = election.candidate("one")

    async with running(one.run()):
        took = await until(lambda: one.leading)

    assert DURATION <= took < DURATION + RETRY
    assert (election.spec["holderIdentity"], election.spec["leaseTransitions"]) == ("one", 1)


async def test_the_timestamps_in_a_lease_are_ignored(election: Election) -> None:
    # Its holder's clock may be days behind, and it is alive all the same.
    election.held_by("ghost", renewTime="2001-01-01T00:00:00.000000Z")
    one = election.candidate("one")

    async with running(one.run()):
        await asyncio.sleep(DURATION / 2)

        assert not one.leading


async def test_a_wall_clock_that_jumps_changes_nothing(election: Election) -> None:
    jumps = cycle((0, 10, -10, 3, -7))
    one = election.candidate("one", now=lambda: NOON + timedelta(hours=next(jumps)))
    two = election.candidate("two", now=lambda: NOON + timedelta(hours=next(jumps)))

    async with running(one.run()):
        await until(lambda: one.leading)
        async with running(two.run()):
            await asyncio.sleep(DURATION * 3)

            assert (one.leading, two.leading) == (True, False)
    assert (election.reported["one"], election.reported["two"]) == ([True], [])


async def test_a_renewed_lease_is_never_acquired_by_others(election: Election) -> None:
    election.held_by("ghost")
    one = election.candidate("one")

    async with running(one.run()):
        for number in range(6):
            await asyncio.sleep(DURATION / 2)
            renewed = {"spec": {"renewTime": f"2026-01-01T00:00:0{number}.000000Z"}}
            election.cluster.patch("leases", LEASE, renewed, namespace="default")

        assert not one.leading
    assert election.reported["one"] == []


async def test_a_longer_lease_duration_is_respected(election: Election) -> None:
    election.held_by("ghost")
    election.cluster.patch(
        "leases", LEASE, {"spec": {"leaseDurationSeconds": 90}}, namespace="default"
    )
    one = election.candidate("one")
    read = election.server.faults.add(method="GET", path_regex="leases", times=1000)

    async with running(one.run()):
        took = await until(lambda: one.leading)

    assert took >= 90.0
    # At most a retry period apart, and not much more often when 30 s are over.
    assert read.hits < 2 * 90.0 / RETRY


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"holderIdentity": ""}, id="released"),
        pytest.param({"holderIdentity": None}, id="nobody's"),
        pytest.param({"holderIdentity": "one"}, id="our own from before a restart"),
    ],
)
async def test_a_lease_without_holder_is_acquired_at_once(
    election: Election, spec: dict[str, Any]
) -> None:
    election.held_by("ghost")
    election.cluster.patch("leases", LEASE, {"spec": spec}, namespace="default")
    one = election.candidate("one")

    async with running(one.run()):
        took = await until(lambda: one.leading)

    assert took < RETRY


async def test_without_responses_leadership_ends_before_others_may_acquire_it(
    election: Election,
) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        await election.server.stop()

        took = await until(lambda: not one.leading)
        await until(lambda: election.reported["one"] == [True, False])

    assert DEADLINE - RETRY - 1.0 <= took <= DEADLINE
    assert one.failure is not None


async def test_leadership_expires_even_if_nothing_runs(election: Election) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)

    took = await until(lambda: not one.leading)

    assert took <= DEADLINE


async def test_a_renewal_with_a_late_response_does_not_extend_leadership(
    election: Election,
) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        election.server.faults.add(method="PUT", delay_after=9.0, times=1000)
        await asyncio.sleep(2 * RETRY)
        election.server.faults.clear()
        election.server.faults.add(status=500, times=1000)

        # Counted from the start of the last renewal, not from its response.
        took = await until(lambda: not one.leading)

    assert took <= DEADLINE


async def test_after_an_outage_one_instance_leads_again(election: Election) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        await election.server.stop()
        await until(lambda: election.reported["one"] == [True, False])
        await election.server.start()

        await until(lambda: election.reported["one"] == [True, False, True])

    assert one.failure is None


async def test_an_instance_that_loses_the_race_for_a_lease_follows(election: Election) -> None:
    election.held_by("")
    election.server.faults.add(method="PUT", status=409)
    one = election.candidate("one")

    async with running(one.run()):
        await until(lambda: len(election.server.log.matching("PUT")) == 1)
        lost = not one.leading
        await until(lambda: one.leading)

    assert lost


async def test_a_leader_reads_the_lease_again_after_a_conflict(election: Election) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        election.server.faults.add(method="PUT", status=409)
        await asyncio.sleep(3 * RETRY)

        assert one.leading
    assert election.reported["one"] == [True]


async def test_a_leader_whose_lease_was_taken_follows(election: Election) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        taken = {"spec": {"holderIdentity": "ghost"}}
        election.cluster.patch("leases", LEASE, taken, namespace="default")

        took = await until(lambda: not one.leading)

    assert took <= RETRY + 2.0
    assert one.holder == "ghost"


async def test_a_deleted_lease_is_created_again(election: Election) -> None:
    one = election.candidate("one")
    async with running(one.run()):
        await until(lambda: one.leading)
        election.cluster.delete("leases", LEASE, namespace="default")

        # The Lease is there before its creation has been responded.
        await until(lambda: len(election.reported["one"]) == 3)

        assert one.leading
        assert election.cluster.get("leases", LEASE, "default") is not None
    assert election.reported["one"] == [True, False, True]


@pytest.mark.parametrize("restored", [False, True])
async def test_a_leader_notices_that_another_may_have_led_in_between(
    election: Election, *, restored: bool
) -> None:
    one, two = election.candidate("one"), election.candidate("two")
    async with running(one.run()):
        await until(lambda: one.leading)
        renewed = election.spec["renewTime"]
        # The next renewal is as far away as can be.
        await until(lambda: election.spec["renewTime"] != renewed)
        before = election.spec
        free = {"spec": {"holderIdentity": ""}}
        election.cluster.patch("leases", LEASE, free, namespace="default")
        async with running(two.run()):
            await until(lambda: two.leading, within=RETRY)
        after = {"spec": before} if restored else free
        election.cluster.patch("leases", LEASE, after, namespace="default")
        assert election.reported == {"one": [True], "two": [True]}

        await until(lambda: len(election.reported["one"]) > 1)
        await asyncio.sleep(3 * RETRY)

        assert one.leading
    assert election.reported["one"] == [True, False, True]


@pytest.mark.parametrize("status", [403, 404, 409, 422, 429, 500])
async def test_no_error_response_ends_an_election(election: Election, status: int) -> None:
    election.server.faults.add(method="POST", status=status)
    one = election.candidate("one")

    async with running(one.run()):
        await until(lambda: one.leading)


async def test_a_missing_namespace_is_reported_until_it_exists(election: Election) -> None:
    one = election.candidate("one", namespace="later")

    async with running(one.run()):
        await until(lambda: one.failure is not None)
        election.cluster.create("namespaces", {"metadata": {"name": "later"}})
        await until(lambda: one.leading)


async def test_a_server_that_never_responds_does_not_block_an_election(election: Election) -> None:
    election.server.faults.add(delay=10_000)
    one = election.candidate("one")

    async with running(one.run()):
        took = await until(lambda: one.leading)

    assert took <= 2 * RETRY + 5.0


def test_without_leader_election_every_instance_leads() -> None:
    assert AlwaysLeading().leading


FAR = "2999-01-01T00:00:00.000000Z"
FOR_YEARS = 2**31 - 1


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"leaseDurationSeconds": FOR_YEARS}, id="held for 68 years"),
        pytest.param({"renewTime": FAR, "acquireTime": FAR}, id="renewed in the future"),
        pytest.param({"leaseTransitions": FOR_YEARS}, id="taken as often as can be counted"),
        pytest.param(
            {
                "leaseDurationSeconds": FOR_YEARS,
                "renewTime": FAR,
                "acquireTime": FAR,
                "leaseTransitions": FOR_YEARS,
                "strategy": "OldestEmulationVersion",
            },
            id="all of it",
        ),
    ],
)
async def test_an_absurd_lease_delays_leadership_only_briefly(
    election: Election, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    monkeypatch.setattr(kube_lease, "MOST_HELD", 60.0)

    election.held_by("somebody")
    election.cluster.patch("leases", LEASE, {"spec": spec}, namespace="default")
    one = election.candidate("one")

    async with running(one.run()):
        took = await until(lambda: one.leading)
        first = election.spec
        await until(lambda: election.spec["renewTime"] != first["renewTime"])

    assert took < 60.0 + 2 * RETRY
    assert first["leaseDurationSeconds"] == DURATION
    assert first["leaseTransitions"] in {0, 1}
    assert first["acquireTime"] != FAR
    assert "strategy" not in first


async def test_a_leader_confirms_that_it_leads_until_others_write_the_lease(
    election: Election,
) -> None:
    """Before its next renewal, by which it notices that as well."""
    one = election.candidate("one")

    async with running(one.run()):
        await until(lambda: one.leading)
        assert await one.confirmed()
        await asyncio.sleep(2 * RETRY)
        assert await one.confirmed()

        change = {"metadata": {"labels": {"somebody": "else"}}}
        election.cluster.patch("leases", LEASE, change, namespace="default")
        assert one.leading
        assert not await one.confirmed()

        await until(lambda: election.reported["one"] == [True, False, True])
        assert await one.confirmed()
        election.cluster.delete("leases", LEASE, namespace="default")
        assert not await one.confirmed()


async def test_a_leader_confirms_that_it_leads_beside_a_renewal(election: Election) -> None:
    """The version that it reads may be older or newer than that of the last response."""
    one = election.candidate("one")
    api = election.apis[0]
    get, replace_ = api.get, api.replace
    versions = list[str]()

    async def slow_get(path: str, query: Query | None = None) -> dict[str, Any]:
        found = await get(path, query)
        await asyncio.sleep(2 * RETRY)
        return found

    async def slow_replace(path: str, body: Any) -> dict[str, Any]:
        written = await replace_(path, body)
        versions.append(written["metadata"]["resourceVersion"])
        await asyncio.sleep(RETRY / 2)
        return written

    async with running(one.run()):
        await until(lambda: one.leading)
        instead(api, replace=slow_replace)
        await until(lambda: bool(versions))
        assert await one.confirmed()
        instead(api, get=slow_get, replace=replace_)
        assert await one.confirmed()

    assert election.reported["one"] == [True]


async def test_a_response_without_a_lease_confirms_nothing(election: Election) -> None:
    one = election.candidate("one")

    async def other(path: str, query: Query | None = None) -> dict[str, Any]:
        return {"kind": "Status"}

    async with running(one.run()):
        await until(lambda: one.leading)
        instead(election.apis[0], get=other)
        with pytest.raises(Unreachable):
            await one.confirmed()


async def test_no_leader_confirms_that_it_leads_while_it_takes_the_lease_back(
    election: Election,
) -> None:
    """Its new term begins with the response."""
    one = election.candidate("one")
    replace_, sent, responded = election.apis[0].replace, asyncio.Event(), asyncio.Event()

    async def slow_replace(path: str, body: Any) -> dict[str, Any]:
        written = await replace_(path, body)
        sent.set()
        await responded.wait()
        return written

    async with running(one.run()):
        await until(lambda: one.leading)
        change = {"metadata": {"labels": {"somebody": "else"}}}
        election.cluster.patch("leases", LEASE, change, namespace="default")
        await until(lambda: bool(election.server.log.matching("GET", LEASE)))
        instead(election.apis[0], replace=slow_replace)
        await sent.wait()
        if election.reported["one"] == [True]:
            assert not await one.confirmed()
        responded.set()
        await until(lambda: election.reported["one"] == [True, False, True])
        assert await one.confirmed()


async def test_an_instance_without_election_always_confirms_that_it_leads() -> None:
    """Beside others that do as well."""
    assert await AlwaysLeading().confirmed()
    assert not AlwaysLeading().exclusive
