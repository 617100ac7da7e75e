"""Bad input gets a clear line and leaves volumes alone; the service stays up."""

from typing import Any

import pytest

from tests.e2e.conftest import MakeService
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

WRONG = manifests.on_nodes(["elsewhere"])


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        pytest.param(
            {"annotations": {"override.piraeus.io/policy": "- fromsame: [zone]"}},
            "rule 1 is not of the form fromSame",
            id="policy-misspelt",
        ),
        pytest.param({"handle": "pvc-1/many"}, "is not a valid LINSTOR volume", id="handle"),
        pytest.param(
            {"storage_class": "nowhere-to-be-found"},
            "StorageClass 'nowhere-to-be-found' does not exist",
            id="class",
        ),
        pytest.param({"handle": "unheard-of"}, "LINSTOR has no resource", id="resource"),
    ],
)
async def test_invalid_input_is_reported_and_the_volume_unchanged(
    testbed: Testbed, service_on: MakeService, volume: Json, said: str
) -> None:
    testbed.place("pvc-1", ["n1"])
    await testbed.bind("pvc-1", WRONG, **volume)
    await testbed.until_bound("pvc-1")
    before = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")

    async def reported() -> bool:
        events = await testbed.cluster.ask(
            "GET", "/apis/events.k8s.io/v1/namespaces/default/events"
        )
        return any(
            e["type"] == "Warning"
            and said in e["note"]
            and e["regarding"].get("uid") == before["metadata"]["uid"]
            for e in events["items"]
        )

    async with running(service_on(testbed, "--reconcile-rate=1s")) as service:
        await service.until_said(said)
        await until(reported, "a Warning Event says so")
        full_reconciles = await service.metric("linstor_affinity_full_reconcile_seconds_count")

        async def reconciled_again() -> bool:
            now = await service.metric("linstor_affinity_full_reconcile_seconds_count")
            return now >= full_reconciles + 2

        await until(reconciled_again, "two more full passes ended")

    after = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"] == before["spec"]
    assert service.said().count("volume not updated") == 1


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"event: may-promote-change\ndata: {broken\n\n", id="no-json"),
        pytest.param(b"data: [1, 2]\n\n", id="no-object"),
        pytest.param(b'data: {"resource_name": 7}\n\n', id="wrong-type"),
        pytest.param(b"\xff\xfe\n\n", id="no-utf-8"),
        pytest.param(b"data: " + b"x" * (9 * 1024 * 1024), id="line-without-end"),
    ],
)
async def test_broken_frames_are_ignored(
    fake_testbed: Testbed, service_on: MakeService, frame: bytes
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])

    async with running(service_on(testbed)) as service:
        testbed.linstor.send_raw("promotion", frame)
        testbed.world.move_silently("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")
        await service.until_ready()
        assert await service.stop() == 0

    assert "Traceback" not in service.said()


async def test_without_linstor_the_service_stays_up_and_says_why(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    await testbed.linstor.stop_listening()
    service = service_on(testbed)
    await service.start()

    async def says_why() -> bool:
        status, why = await service.ask("/readyz")
        return status == 503 and "cannot reach LINSTOR" in why

    try:
        await until(says_why, "readyz says why")
        assert (await service.ask("/healthz"))[0] == 200
        await testbed.linstor.start_listening()
        testbed.world.move("pvc-1", "n1", "n2")
        await service.until_ready()
        await testbed.until_on("pvc-1", "n2")
    finally:
        await service.kill()
    assert "Traceback" not in service.said()


async def test_a_login_rejected_by_linstor_is_reported_with_the_remedy(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    testbed.world.login = ("admin", "the-right-password")
    service = service_on(testbed, LS_USERNAME="admin", LS_PASSWORD="wrong-one")
    await service.start()

    async def says_why() -> bool:
        status, why = await service.ask("/readyz")
        return status == 503 and "LS_USERNAME and LS_PASSWORD" in why

    try:
        await until(says_why, "readyz names the variables to set")
    finally:
        await service.kill()
    assert "wrong-one" not in service.said()


async def test_the_service_works_with_the_right_login(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])
    testbed.world.login = ("admin", "the-right-password")

    async with running(service_on(testbed, LS_USERNAME="admin", LS_PASSWORD="the-right-password")):
        testbed.world.move("pvc-1", "n1", "n2")
        await testbed.until_on("pvc-1", "n2")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"no": "list"}', id="object"),
        pytest.param(b'[{"name": 5}]', id="wrong-type"),
        pytest.param(b"<html>proxy</html>", id="html"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
async def test_responses_of_the_wrong_shape_change_nothing(
    fake_testbed: Testbed, service_on: MakeService, body: bytes
) -> None:
    testbed = fake_testbed
    await testbed.add("pvc-1", ["n1"])

    async with running(service_on(testbed, "--reconcile-rate=1h")) as service:
        path = "/v1/resource-definitions/pvc-1/resources"
        testbed.world.fail_next(path, 200, body)
        testbed.world.move("pvc-1", "n1", "n2")
        await service.until_said("reconcile failed")
        await testbed.until_on("pvc-1", "n2")

    assert "Traceback" not in service.said()


async def test_a_journal_namespace_that_does_not_exist_is_reported_without_a_traceback(
    testbed: Testbed, service_on: MakeService
) -> None:
    testbed.place("pvc-1", ["n1"])
    await testbed.bind("pvc-1", WRONG)
    await testbed.until_bound("pvc-1")
    before = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1")

    async with running(service_on(testbed, "--journal-namespace=is-not-there")) as service:
        await service.until_said("namespace is-not-there, in which journal entries are kept")
        assert "Traceback" not in service.said()

    assert await testbed.cluster.ask("GET", "/api/v1/persistentvolumes/pvc-1") == before
