"""Kubernetes Events about volume and claim, which never block anything."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.events import MOST_WAITING, KubeEvents
from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import ClaimName, PvName, ResourceName, Uid
from linstor_affinity_events.model.volume import Volume
from tests.adapters.peers import loads, running, until
from tests.fakes.kube_server import FakeCluster, KubeServer

Json = dict[str, Any]

EVENTS = "events.events.k8s.io"
CLAIM = ClaimName(namespace="shop", name="data", uid=Uid("claim-uid"))


def volume(claim: ClaimName | None = CLAIM) -> Volume:
    return Volume(
        name=PvName("pvc-1"),
        uid=Uid("pv-uid"),
        handle="pvc-1",
        key=VolumeKey(ResourceName("pvc-1")),
        affinity=NO_AFFINITY,
        created_at=0.0,
        claim=claim,
    )


def moment() -> datetime:
    return datetime(2026, 11, 23, 5, 8, 9, 250_000, UTC)


@pytest.fixture
async def events(api: KubeApi, cluster: FakeCluster) -> AsyncIterator[KubeEvents]:
    cluster.create("namespaces", {"metadata": {"name": "shop"}})
    events = KubeEvents(api, instance="pod-1", now=moment)
    async with running(events.run()):
        yield events


async def stored(cluster: FakeCluster, number: int) -> list[Json]:
    await until(lambda: len(cluster.objects(EVENTS)) == number)
    return cluster.objects(EVENTS)


async def test_a_change_is_reported_on_volume_and_claim(
    events: KubeEvents, cluster: FakeCluster
) -> None:
    events.inform(volume(), "VolumeAffinityUpdated", "Node affinity changed")

    reported = {event["metadata"]["namespace"]: event for event in await stored(cluster, 2)}

    assert reported["default"]["regarding"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "name": "pvc-1",
        "uid": "pv-uid",
    }
    assert reported["shop"]["regarding"] == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "shop",
        "name": "data",
        "uid": "claim-uid",
    }
    for event in reported.values():
        assert (event["type"], event["reason"]) == ("Normal", "VolumeAffinityUpdated")
        assert event["note"] == "Node affinity changed"
        assert event["eventTime"] == "2026-11-23T05:08:09.250000Z"
        assert event["reportingController"] == "linstor-affinity-events"


async def test_a_warning_has_type_warning(events: KubeEvents, cluster: FakeCluster) -> None:
    events.warn(volume(claim=None), "VolumeAffinityNotUpdated", "no replica")

    [reported] = await stored(cluster, 1)

    assert (reported["type"], reported["reason"], reported["note"]) == (
        "Warning",
        "VolumeAffinityNotUpdated",
        "no replica",
    )


async def test_no_event_is_sent_for_a_claim_without_uid_or_valid_name(
    events: KubeEvents, cluster: FakeCluster
) -> None:
    events.warn(volume(ClaimName(namespace="shop", name="data")), "X", "x")
    events.warn(volume(claim=None), "Y", "y")
    events.warn(volume(ClaimName(namespace="0/" + "x" * 99, name="x", uid=Uid("1"))), "Z", "z")

    reported = await stored(cluster, 3)

    assert {event["metadata"]["namespace"] for event in reported} == {"default"}


@pytest.mark.parametrize("letter", ["x", "ä", "€", "😀"])
async def test_a_long_message_is_cut(events: KubeEvents, cluster: FakeCluster, letter: str) -> None:
    events.warn(volume(claim=None), "X", letter * 2000)

    [reported] = await stored(cluster, 1)

    assert 1000 < len(reported["note"].encode()) <= 1024
    assert reported["note"].endswith(letter + "…")


async def test_a_message_of_the_maximum_length_is_not_cut(
    events: KubeEvents, cluster: FakeCluster
) -> None:
    events.warn(volume(claim=None), "X", "x" * 1024)

    [reported] = await stored(cluster, 1)

    assert reported["note"] == "x" * 1024


async def test_a_lone_surrogate_does_not_stop_the_events(
    events: KubeEvents, cluster: FakeCluster
) -> None:
    events.warn(volume(claim=None), "X", "half a character: \ud800")
    events.warn(volume(claim=None), "Y", "a whole one")

    await until(lambda: any(event["reason"] == "Y" for event in cluster.objects(EVENTS)))


async def test_an_instance_with_a_long_name_is_cut(api: KubeApi, cluster: FakeCluster) -> None:
    events = KubeEvents(api, instance="x" * 300, now=moment)
    events.warn(volume(claim=None), "X", "x")

    await events.flush()

    assert [event["reportingInstance"] for event in cluster.objects(EVENTS)] == ["x" * 128]


async def test_events_dropped_from_a_full_queue_are_counted(api: KubeApi) -> None:
    events = KubeEvents(api, instance="pod-1", now=moment)

    for _ in range(MOST_WAITING + 3):
        events.warn(volume(claim=None), "X", "x")

    assert events.lost == 3


@pytest.mark.parametrize("status", [403, 404, 422, 500])
async def test_a_rejected_event_is_counted_and_the_next_one_sent(
    events: KubeEvents, cluster: FakeCluster, kube: KubeServer, status: int
) -> None:
    kube.faults.add(method="POST", status=status)

    events.warn(volume(claim=None), "X", "x")
    events.warn(volume(claim=None), "Y", "y")

    [reported] = await stored(cluster, 1)
    assert (reported["reason"], events.lost) == ("Y", 1)


async def test_a_repeated_warning_is_one_event_series(api: KubeApi, cluster: FakeCluster) -> None:
    before, after = (KubeEvents(api, instance=name, now=moment) for name in ("pod-1", "pod-2"))
    for events in (before, after):
        events.warn(volume(claim=None), "X", "no replica")
        await events.flush()
    after.warn(volume(claim=None), "X", "another reason")
    await after.flush()

    assert sorted(event["note"] for event in cluster.objects(EVENTS)) == [
        "another reason",
        "no replica",
    ]
    assert (before.lost, after.lost) == (0, 0)


async def test_each_change_has_its_own_event(api: KubeApi, cluster: FakeCluster) -> None:
    events = KubeEvents(api, instance="pod-1", now=moment)
    for _ in range(2):
        events.inform(volume(claim=None), "VolumeAffinityUpdated", "changed")

    await events.flush()

    assert len(cluster.objects(EVENTS)) == 2


async def test_queued_events_are_sent_on_shutdown(api: KubeApi, cluster: FakeCluster) -> None:
    events = KubeEvents(api, instance="pod-1", now=moment)
    for number in range(20):
        events.warn(volume(claim=None), "X", f"x{number}")

    await events.flush()

    assert len(cluster.objects(EVENTS)) == 20


@pytest.mark.fast_clock(10)
async def test_shutdown_does_not_wait_for_a_slow_server() -> None:
    async with KubeServer(FakeCluster()) as kube:
        kube.faults.add(method="POST", delay=1000)
        api = KubeApi(loads(kube.url))
        events = KubeEvents(api, instance="pod-1", now=moment)
        events.warn(volume(claim=None), "X", "x")
        begun = asyncio.get_running_loop().time()
        await events.flush()
        took = asyncio.get_running_loop().time() - begun
        await api.close()

    assert took < 3.0


async def test_control_characters_do_not_reach_an_event(
    events: KubeEvents, cluster: FakeCluster
) -> None:
    events.warn(volume(), "bad-policy", "fromSame: [\u202e\x1b[2J\u2028\n]")
    events.inform(volume(), "VolumeAffinityUpdated", "was\u2066 now\x85")

    entries = {event["note"] for event in await stored(cluster, 4)}

    assert entries == {
        "fromSame: [\\u202e\\u001b[2J\\u2028\\u000a]",
        "was\\u2066 now\\u0085",
    }
