"""LINSTOR down, slow, hung, restarted, half of it silent, failed over."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest

from tests.fakes.linstor_server import NODES, PROMOTION, LinstorServer
from tests.faults.fleet import Fleet, MakeFleet
from tests.stage.clusters import until
from tests.stage.fixtures import BOTH
from tests.stage.proxied import ProxiedStage
from tests.stage.proxy import Hang, Proxy, linstor_terms
from tests.stage.stage import Stage

Trouble = Callable[[ProxiedStage, Fleet], AbstractAsyncContextManager[None]]

ELECTED = "--leader-election=true"
FEW_FULL_RECONCILES = ("--reconcile-rate=10m",)
"""Then it is by events, and by what follows a reconnection, that changes are found."""


@asynccontextmanager
async def down(proxied: ProxiedStage, fleet: Fleet) -> AsyncIterator[None]:
    """Connections are refused."""
    await proxied.stage.linstor.stop_listening()
    await fleet.service.until_said("event stream failed", times=2)
    yield
    await proxied.stage.linstor.start_listening()


@asynccontextmanager
async def on_standby(proxied: ProxiedStage, fleet: Fleet) -> AsyncIterator[None]:
    """Connections are taken, and cut before a word is said."""
    proxied.stage.world.standby = True
    proxied.stage.linstor.drop_connections()
    await fleet.service.until_said("event stream failed", times=2)
    yield
    proxied.stage.world.standby = False


@asynccontextmanager
async def slow(proxied: ProxiedStage, fleet: Fleet) -> AsyncIterator[None]:
    world = proxied.stage.world
    world.timing = replace(world.timing, rest_delay=1.5)
    yield
    # The slowness is met: a look that began in it has to end in it.
    await asyncio.sleep(2.0)
    world.timing = replace(world.timing, rest_delay=0.0)


@asynccontextmanager
async def hung(proxied: ProxiedStage, fleet: Fleet) -> AsyncIterator[None]:
    """Streams go on, and no request is ever answered."""
    proxied.stage.world.rest_hang = True
    yield
    await fleet.service.until_said("timed out")
    proxied.stage.world.rest_hang = False


@asynccontextmanager
async def restarted(proxied: ProxiedStage, fleet: Fleet) -> AsyncIterator[None]:
    for _ in range(3):
        await proxied.stage.linstor.stop_listening()
        fleet.move_during()
        await proxied.stage.linstor.start_listening()
        await proxied.stage.linstor.subscribed(PROMOTION)
    yield


@asynccontextmanager
async def answering_errors(proxied: ProxiedStage, fleet: Fleet) -> AsyncIterator[None]:
    proxied.stage.world.fail_next("/v1/", 500, [{"ret_code": -1, "message": "broken"}], times=30)
    yield
    await fleet.service.until_said("broken")


@asynccontextmanager
async def with_hung_satellites(proxied: ProxiedStage, fleet: Fleet) -> AsyncIterator[None]:
    """The view of everything fails as long as it lasts, and so it does to the end of the test."""
    proxied.stage.world.hung_satellites.add("n4")
    yield
    proxied.stage.linstor.cut_streams()
    await proxied.stage.linstor.subscribed(NODES)


@pytest.mark.parametrize("stage", ["fake"], indirect=True)
@pytest.mark.parametrize(
    "trouble",
    [
        down,
        on_standby,
        slow,
        pytest.param(hung, marks=pytest.mark.long),
        restarted,
        answering_errors,
        with_hung_satellites,
    ],
)
async def test_linstor_errors(proxied: ProxiedStage, fleet: MakeFleet, trouble: Trouble) -> None:
    async with (
        fleet(proxied.stage, proxied.service(ELECTED, *FEW_FULL_RECONCILES), rested=True) as moving,
        trouble(proxied, moving),
    ):
        moving.move_during()


@pytest.mark.parametrize("stage", [BOTH[1]], indirect=True)
async def test_linstor_down_beside_a_real_kubernetes(
    proxied: ProxiedStage, fleet: MakeFleet
) -> None:
    async with (
        fleet(proxied.stage, proxied.service(ELECTED, *FEW_FULL_RECONCILES), rested=True) as moving,
        down(proxied, moving),
    ):
        moving.move_during()


@asynccontextmanager
async def two_controllers(stage: Stage) -> AsyncIterator[tuple[Proxy, LinstorServer, Proxy]]:
    """The active one behind its proxy; the other, not listening yet; and the proxy of that one."""
    async with (
        LinstorServer(stage.world) as heir,
        Proxy(stage.linstor.url, linstor_terms) as first,
        Proxy(heir.url, linstor_terms) as second,
    ):
        await heir.stop_listening()
        yield first, heir, second


@pytest.mark.parametrize("stage", ["fake"], indirect=True)
async def test_another_controller_takes_over_from_a_stopped_one(
    proxied: ProxiedStage, fleet: MakeFleet
) -> None:
    stage = proxied.stage
    async with two_controllers(stage) as (_, heir, _second):
        service = proxied.service(
            ELECTED, *FEW_FULL_RECONCILES, LS_CONTROLLERS=f"{stage.linstor.url},{heir.url}"
        )
        async with fleet(stage, service, rested=True) as moving:
            await stage.linstor.stop_listening()
            moving.move_during()
            await heir.start_listening()
            await heir.subscribed(PROMOTION)
            await heir.subscribed(NODES)

    await stage.linstor.start_listening()


@pytest.mark.long
@pytest.mark.parametrize("stage", ["fake"], indirect=True)
async def test_another_controller_takes_over_from_a_hung_one(
    proxied: ProxiedStage, fleet: MakeFleet
) -> None:
    """A hung process keeps its connections: only its silence tells, and only where it is asked."""
    async with two_controllers(proxied.stage) as (first, heir, second):
        service = proxied.service(
            ELECTED, "--reconcile-rate=2s", LS_CONTROLLERS=f"{first.url},{second.url}"
        )
        async with fleet(proxied.stage, service) as moving:
            proxied.stage.linstor.pause_streams()
            first.on(re.compile(""), Hang(forwarded=False), times=None)
            await heir.start_listening()
            moving.move_during()
            await heir.subscribed(PROMOTION)
            await heir.subscribed(NODES)


@pytest.mark.parametrize("stage", ["fake"], indirect=True)
async def test_a_leader_without_linstor_is_live_and_says_why_it_is_not_ready(
    proxied: ProxiedStage, fleet: MakeFleet
) -> None:
    async with fleet(
        proxied.stage, proxied.service(ELECTED, *FEW_FULL_RECONCILES), rested=True
    ) as moving:
        await proxied.stage.linstor.stop_listening()
        moving.move_during()

        async def not_ready() -> bool:
            status, why = await moving.service.ask("/readyz")
            return status == 503 and "promotion stream" in why

        await until(not_ready, "it says that it is not ready")
        assert (await moving.service.ask("/healthz"))[0] == 200
        await proxied.stage.linstor.start_listening()
