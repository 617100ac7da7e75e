"""/status: why each volume's affinity is so, as the running service knows it."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import MakeService
from tests.testbed.clusters import until
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]


async def status(service: Service, search: str = "") -> Json:
    code, text = await service.ask(f"/status?q={search}" if search else "/status")
    assert code == 200
    found: Json = json.loads(text)
    return found


async def test_the_status_has_changes_streams_and_reasons(
    testbed: Testbed, service_on: MakeService
) -> None:
    await testbed.add("pvc-moved", ["n1"])
    await testbed.add(
        "pvc-skipped", ["n1"], annotations={"piraeus.io/skip-affinity-controller": "x"}
    )
    await testbed.add("pvc-good", ["n1"])

    async with running(service_on(testbed)) as service:
        testbed.world.move("pvc-moved", "n1", "n2")
        await testbed.until_on("pvc-moved", "n2")
        await service.until_said("volume affinity updated")

        async def observed() -> bool:
            return bool((await status(service))["volumes"])

        await until(observed, "the skipped volume is shown")
        reported = await status(service)
        found = await status(service, "CLAIM-PVC-GOOD")

    [change] = reported["changes"]
    assert (change["volume"], change["claim"]) == ("pvc-moved", "default/claim-pvc-moved")
    assert (change["before"], change["after"]) == (
        "linbit.com/hostname=n1",
        "linbit.com/hostname=n2",
    )
    assert 0 < change["latencyMs"] < 60_000
    [skipped] = reported["volumes"]
    assert (skipped["volume"], skipped["reason"]) == ("pvc-skipped", "skip-annotation")
    assert skipped["message"] == "annotation piraeus.io/skip-affinity-controller is set"
    assert {each["stream"]: each["connected"] for each in reported["streams"]} == {
        "promotion": True,
        "nodes": True,
    }
    assert reported["streams"][0]["events"] > 0
    assert reported["ready"]
    assert reported["leading"]
    assert reported["counts"]["volumes"] == 3
    assert reported["fullReconcile"]["volumes"] == 3
    assert [(each["volume"], each["state"]) for each in found["volumes"]] == [
        ("pvc-good", "in_sync")
    ]


async def test_the_status_names_what_is_not_ready(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    async with running(service_on(fake_testbed)) as service:
        await fake_testbed.linstor.stop_listening()

        async def cut() -> bool:
            return not (await status(service))["ready"]

        await until(cut, "the service is not ready")
        reported = await status(service)

    assert "linstor promotion stream" in reported["notReady"]
    assert not reported["streams"][0]["connected"]


@pytest.mark.parametrize("off", ["off", "false"])
async def test_the_page_can_be_disabled(
    fake_testbed: Testbed, service_on: MakeService, off: str
) -> None:
    async with running(service_on(fake_testbed, f"--status-page={off}")) as service:
        responses = [await service.ask(path) for path in ("/", "/status", "/healthz")]

    assert [code for code, _ in responses] == [404, 404, 200]


async def test_only_get_requests_are_allowed(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    async with running(service_on(fake_testbed)) as service:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            for path in ("/", "/status"):
                assert (await service.ask(path, method=method))[0] == 405
