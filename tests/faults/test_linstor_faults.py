"""LINSTOR down, slow, hung, restarted, half of it silent, failed over."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest

from tests.fakes.linstor_server import NODES, PROMOTION, LinstorServer
from tests.faults.fleet import Fleet, MakeFleet
from tests.testbed.clusters import until
from tests.testbed.fixtures import BOTH
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Hang, Proxy, linstor_terms
from tests.testbed.testbed import Testbed

Fault = Callable[[ProxiedTestbed, Fleet], AbstractAsyncContextManager[None]]

ELECTED = "--leader-election=true"
FEW_FULL_RECONCILES = ("--reconcile-rate=10m",)
"""Then it is by events, and by what follows a reconnection, that changes are found."""


@asynccontextmanager
async def down(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    """Connections are refused."""
    await proxied.testbed.linstor.stop_listening()
    await fleet.service.until_said("event stream failed", times=2)
    yield
    await proxied.testbed.linstor.start_listening()


@asynccontextmanager
async def on_standby(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    """Connections are taken, and cut before a word is said."""
    proxied.testbed.world.standby = True
    proxied.testbed.linstor.drop_connections()
    await fleet.service.until_said("event stream failed", times=2)
    yield
    proxied.testbed.world.standby = False


@asynccontextmanager
async def slow(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    world = proxied.testbed.world
    world.timing = replace(world.timing, rest_delay=1.5)
    yield
    # The slowness is met: a reconcile that began in it has to end in it.
    await asyncio.sleep(2.0)
    world.timing = replace(world.timing, rest_delay=0.0)


@asynccontextmanager
async def hung(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    """Streams continue, and no request gets a response."""
    proxied.testbed.world.rest_hang = True
    yield
    await fleet.service.until_said("timed out")
    proxied.testbed.world.rest_hang = False


@asynccontextmanager
async def restarted(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    for _ in range(3):
        await proxied.testbed.linstor.stop_listening()
        fleet.move_during()
        await proxied.testbed.linstor.start_listening()
        await proxied.testbed.linstor.subscribed(PROMOTION)
    yield


@asynccontextmanager
async def serving_errors(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    proxied.testbed.world.fail_next("/v1/", 500, [{"ret_code": -1, "message": "broken"}], times=30)
    yield
    await fleet.service.until_said("broken")


@asynccontextmanager
async def with_hung_satellites(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    """The view of everything fails as long as it lasts, and so it does to the end of the test."""
    proxied.testbed.world.hung_satellites.add("n4")
    yield
    proxied.testbed.linstor.cut_streams()
    await proxied.testbed.linstor.subscribed(NODES)


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
@pytest.mark.parametrize(
    "fault",
    [
        down,
        on_standby,
        slow,
        pytest.param(hung, marks=pytest.mark.long),
        restarted,
        serving_errors,
        with_hung_satellites,
    ],
)
async def test_linstor_errors(proxied: ProxiedTestbed, fleet: MakeFleet, fault: Fault) -> None:
    async with (
        fleet(
            proxied.testbed, proxied.service(ELECTED, *FEW_FULL_RECONCILES), rested=True
        ) as moving,
        fault(proxied, moving),
    ):
        moving.move_during()


@pytest.mark.parametrize("testbed", [BOTH[1]], indirect=True)
async def test_linstor_down_beside_a_real_kubernetes(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    async with (
        fleet(
            proxied.testbed, proxied.service(ELECTED, *FEW_FULL_RECONCILES), rested=True
        ) as moving,
        down(proxied, moving),
    ):
        moving.move_during()


@asynccontextmanager
async def two_controllers(testbed: Testbed) -> AsyncIterator[tuple[Proxy, LinstorServer, Proxy]]:
    """The active one behind its proxy; the other, not listening yet; and the proxy of that one."""
    async with (
        LinstorServer(testbed.world) as heir,
        Proxy(testbed.linstor.url, linstor_terms) as first,
        Proxy(heir.url, linstor_terms) as second,
    ):
        await heir.stop_listening()
        yield first, heir, second


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_another_controller_takes_over_from_a_stopped_one(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    testbed = proxied.testbed
    async with two_controllers(testbed) as (_, heir, _second):
        service = proxied.service(
            ELECTED, *FEW_FULL_RECONCILES, LS_CONTROLLERS=f"{testbed.linstor.url},{heir.url}"
        )
        async with fleet(testbed, service, rested=True) as moving:
            await testbed.linstor.stop_listening()
            moving.move_during()
            await heir.start_listening()
            await heir.subscribed(PROMOTION)
            await heir.subscribed(NODES)

    await testbed.linstor.start_listening()


@pytest.mark.long
@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_another_controller_takes_over_from_a_hung_one(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    """A hung process keeps its connections: only its silence shows, and only where it is asked."""
    async with two_controllers(proxied.testbed) as (first, heir, second):
        service = proxied.service(
            ELECTED, "--reconcile-rate=2s", LS_CONTROLLERS=f"{first.url},{second.url}"
        )
        async with fleet(proxied.testbed, service) as moving:
            proxied.testbed.linstor.pause_streams()
            first.on(re.compile(""), Hang(forwarded=False), times=None)
            await heir.start_listening()
            moving.move_during()
            await heir.subscribed(PROMOTION)
            await heir.subscribed(NODES)


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_a_leader_without_linstor_is_live_and_says_why_it_is_not_ready(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    async with fleet(
        proxied.testbed, proxied.service(ELECTED, *FEW_FULL_RECONCILES), rested=True
    ) as moving:
        await proxied.testbed.linstor.stop_listening()
        moving.move_during()

        async def not_ready() -> bool:
            status, why = await moving.service.ask("/readyz")
            return status == 503 and "promotion stream" in why

        await until(not_ready, "it says that it is not ready")
        assert (await moving.service.ask("/healthz"))[0] == 200
        await proxied.testbed.linstor.start_listening()
