"""Stopped during a burst: running replacements finish, and nothing else starts."""

import asyncio
import signal
from typing import Any

import pytest

from tests.faults.fleet import MakeFleet
from tests.figures import Figures
from tests.testbed.clusters import until
from tests.testbed.fixtures import MakeService
from tests.testbed.manifests import nodes_of, preserved
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Hang, Reset
from tests.testbed.service import running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

BURST = 60
GRACE = 25.0
LONG_REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.long])


async def volumes_on(testbed: Testbed) -> dict[str, Json]:
    listed = await testbed.cluster.ask("GET", "/api/v1/persistentvolumes")
    return {item["metadata"]["name"]: item for item in listed["items"]}


def uid(volume: Json) -> str:
    return str(volume["metadata"]["uid"])


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGTERM], id="once"),
        pytest.param([signal.SIGTERM, signal.SIGTERM, signal.SIGINT], id="thrice"),
        pytest.param([signal.SIGINT, signal.SIGTERM], id="by-hand"),
    ],
)
async def test_on_shutdown_running_replacements_finish_and_no_other_starts(
    proxied: ProxiedTestbed, figures: Figures, signals: list[signal.Signals]
) -> None:
    testbed = proxied.testbed
    names = [f"pvc-{n}" for n in range(BURST)]
    await testbed.add_many(names, "n1")
    before = await volumes_on(testbed)
    service = proxied.service("--leader-election=true")
    async with running(service):
        for name in names:
            testbed.world.move(name, "n1", "n2")
        await service.until_said("volume affinity updated", times=3)
        service.signal(signals[0])
        await service.until_said("INFO stopping: completing the work in progress")
        for number in signals[1:]:
            service.signal(number)
        reported = service.said().count("volume affinity updated")
        assert await service.ended(GRACE) == 0

    after = await volumes_on(testbed)
    done = {name for name in names if name in after and uid(after[name]) != uid(before[name])}
    assert after.keys() == before.keys()
    assert await testbed.entries() == []
    for name in names:
        assert preserved(after[name]) == preserved(before[name])
        assert nodes_of(after[name]) == ({"n2"} if name in done else {"n1"})
    untouched = set(names) - done
    versions = {name: after[name]["metadata"]["resourceVersion"] for name in untouched}
    assert versions == {name: before[name]["metadata"]["resourceVersion"] for name in untouched}
    assert len(done) - reported <= 10, "more were finished than may be under way at a time"
    assert untouched, "all were done before it was told to stop"
    assert testbed.observer.lost == []
    figures.count("replacements finished on the way out", len(done) - reported)


async def test_repeated_signals_do_not_cut_shutdown_short(
    fake_testbed: Testbed, service_on: MakeService
) -> None:
    service = service_on(fake_testbed)
    async with running(service):
        ended = asyncio.create_task(service.ended(GRACE))
        while not ended.done():
            for number in (signal.SIGTERM, signal.SIGINT):
                service.signal(number)
            await asyncio.sleep(0.001)

        assert await ended == 0
    assert "Traceback" not in service.said()


@pytest.mark.parametrize("testbed", ["fake", LONG_REAL], indirect=True)
@pytest.mark.parametrize(
    "action", [Hang(forwarded=False), Reset(forwarded=False)], ids=["hangs", "cuts"]
)
async def test_shutdown_ends_despite_api_server_errors(
    proxied: ProxiedTestbed, fleet: MakeFleet, action: Hang | Reset
) -> None:
    """What could not be finished has its entry, and the next start finishes it."""
    grace = 2.0
    testbed = proxied.testbed
    await testbed.add("pvc-1", ["n1"])
    before = (await volumes_on(testbed))["pvc-1"]
    service = proxied.service("--leader-election=true", f"--shutdown-grace={grace:g}s")
    async with running(service):
        rule = proxied.kubernetes.on("delete persistentvolumes", action)
        testbed.world.move("pvc-1", "n1", "n2")
        await rule.struck.wait()
        broken = proxied.kubernetes.on(lambda _: True, action, times=None)
        service.signal(signal.SIGTERM)
        assert await service.ended(grace + 10.0) == 0
        assert await testbed.entries() != []

    proxied.kubernetes.rules.remove(broken)
    async with running(proxied.service()):
        await testbed.until_on("pvc-1", "n2")

        async def no_entry_is_left() -> bool:
            return not await testbed.entries()

        await until(no_entry_is_left, "no note is left")
    assert preserved((await volumes_on(testbed))["pvc-1"]) == preserved(before)
    assert testbed.observer.lost == []


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_sigterm_during_start_ends_the_service_at_once(
    testbed: Testbed, service_on: MakeService
) -> None:
    """Neither Kubernetes nor LINSTOR responds yet."""
    service = service_on(testbed, "--server=http://127.0.0.1:1", linstor="http://127.0.0.1:1")
    await service.start()
    await service.until_said("list or watch failed")

    assert await service.stop() == 0
