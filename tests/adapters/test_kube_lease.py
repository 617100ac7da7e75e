"""What is written to a Lease, and whether it is free, by pure functions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.leader_health import (
    YIELD_AFTER_FIRST,
    YIELD_AFTER_MOST,
    LeaderHealth,
)
from linstor_affinity_events.adapters.kubernetes.lease import MOST_HELD, LeaseRecord, released

LEASE = "affinity"
DURATION = 30.0
NOON, LATER = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=UTC)
Json = dict[str, Any]


def record(identity: str = "one") -> LeaseRecord:
    return LeaseRecord(LEASE, identity=identity, duration=DURATION)


def stored(lease: Json, version: str = "1") -> Json:
    return {**lease, "metadata": {**lease["metadata"], "resourceVersion": version}}


def lease_of(identity: str, now: datetime = NOON) -> Json:
    return stored(record(identity).taken(None, now))


def test_another_holder_keeps_the_lease_until_its_duration_is_over() -> None:
    one, lease = record(), lease_of("two")
    one.seen(lease, 100.0)
    one.seen(lease, 120.0)

    assert one.is_held_by_another(lease, 100.0 + DURATION - 0.1)
    assert not one.is_held_by_another(lease, 100.0 + DURATION)
    assert one.expires_in(110.0) == DURATION - 10.0


@pytest.mark.parametrize("holder", ["one", "two"])
def test_a_released_lease_is_free(holder: str) -> None:
    one, lease = record(), released(lease_of(holder))
    one.seen(lease, 0.0)

    assert not one.is_held_by_another(lease, 0.0)


def test_a_lease_of_the_same_identity_is_free_until_this_process_has_led() -> None:
    one, lease = record(), lease_of("one")
    one.seen(lease, 0.0)

    assert one.is_ours(lease)
    assert not one.is_held_by_another(lease, 0.0)


def test_a_lease_acquired_by_a_duplicate_is_held_by_another() -> None:
    one = record()
    one.wrote(stored(one.taken(None, NOON)), 0.0)
    foreign = stored(record().taken(lease_of("one"), LATER), "2")
    one.seen(foreign, 1.0)

    assert one.is_held_by_duplicate(foreign)
    assert not one.is_ours(foreign)
    assert one.is_held_by_another(foreign, 1.0)


def test_an_attempt_without_response_is_recognised_among_later_ones() -> None:
    one, free = record(), stored(released(lease_of("two")))
    attempts = [one.taken(free, NOON + timedelta(seconds=n)) for n in range(3)]
    one.wrote(stored(attempts[-1], "2"), 3.0)

    assert all(one.is_ours(stored(attempt, "3")) for attempt in attempts)


def test_attempts_of_long_ago_are_forgotten() -> None:
    one, free = record(), stored(released(lease_of("two")))
    attempts = [one.taken(free, NOON + timedelta(seconds=n)) for n in range(100)]
    one.wrote(stored(attempts[-1], "2"), 100.0)

    assert not one.is_ours(stored(attempts[0], "3"))


def test_an_attempt_without_response_is_no_change_by_others() -> None:
    one = record()
    one.wrote(ours := stored(one.taken(None, NOON)), 0.0)
    one.seen(ours, 1.0)
    lost = stored(one.taken(ours, LATER), "2")

    one.seen(lost, 2.0)

    assert not one.changed_by_others


def test_a_change_by_others_is_remembered_until_a_write_succeeds() -> None:
    one = record()
    one.wrote(stored(one.taken(None, NOON)), 0.0)
    one.seen(free := stored(released(lease_of("two")), "2"), 1.0)
    lost = stored(one.taken(free, LATER), "3")

    one.seen(lost, 2.0)

    assert one.changed_by_others
    one.wrote(stored(one.taken(lost, LATER), "4"), 3.0)
    assert not one.changed_by_others


@pytest.mark.parametrize(
    ("holder", "acquired", "transitions"), [("one", NOON, 0), ("two", LATER, 1)]
)
def test_a_renewal_preserves_what_a_takeover_changes(
    holder: str, acquired: datetime, transitions: int
) -> None:
    one = record()
    ours = stored(one.taken(None, NOON))
    given = ours if holder == "one" else lease_of(holder)

    spec = one.taken(given, LATER)["spec"]

    assert spec["acquireTime"] == acquired.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    assert spec["renewTime"] == LATER.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("one", transitions)


@pytest.mark.parametrize(("said", "written"), [(2**31 - 2, 2**31 - 1), (2**31 - 1, 0), ("x", 1)])
def test_transitions_never_exceed_what_kubernetes_stores(said: object, written: int) -> None:
    lease = lease_of("two")
    lease["spec"]["leaseTransitions"] = said

    assert record().taken(lease, NOON)["spec"]["leaseTransitions"] == written


def test_a_leader_yields_later_each_time_as_long_as_it_stays_unhealthy() -> None:
    health = LeaderHealth(lambda: False, pause=1.0)
    now, waited = 0.0, []
    for _ in range(8):
        begun = now
        while not health.should_yield(now, leading=True):
            now += 1.0
        waited.append(now - begun)
        assert (health.yields(now), health.yields(now + 1.0)) == (True, False)

    assert waited[0] == YIELD_AFTER_FIRST
    # From the second time on it has been unhealthy since the first.
    assert sum(waited) == YIELD_AFTER_MOST


def test_a_healthy_instance_does_not_yield() -> None:
    state = {"healthy": False}
    health = LeaderHealth(lambda: state["healthy"], pause=10.0)
    assert not health.should_yield(0.0, leading=True)
    assert health.should_yield(YIELD_AFTER_FIRST, leading=True)

    state["healthy"] = True

    assert not health.yields(YIELD_AFTER_FIRST)
    assert not health.should_yield(1000.0, leading=True)


@pytest.mark.parametrize(
    ("says", "waited"),
    [
        (90, 90.0),
        (1, DURATION),
        (0, DURATION),
        (-(2**40), DURATION),
        (2**31 - 1, MOST_HELD),
        (10**400, MOST_HELD),
        (None, DURATION),
        ("90", DURATION),
        (1e300, DURATION),
        ([], DURATION),
    ],
    ids=lambda value: str(value)[:12],
)
def test_how_long_the_lease_of_another_holder_is_valid(says: object, waited: float) -> None:
    assert record().valid_for({"spec": {"leaseDurationSeconds": says}}) == waited
