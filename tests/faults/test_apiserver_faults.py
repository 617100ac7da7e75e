"""An API server that is busy, broken, slow, cut off, started again; and watches that end."""

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.faults.fleet import Fleet, MakeFleet, name_in
from tests.testbed.fixtures import BOTH
from tests.testbed.proxied import ProxiedTestbed
from tests.testbed.proxy import Action, Asked, CutBody, Delay, Hang, Reset, Respond

Fault = Callable[[ProxiedTestbed, Fleet], AbstractAsyncContextManager[None]]

ELECTED = "--leader-election=true"
FEW_FULL_RECONCILES = "--reconcile-rate=10m"
NOTICED_WITHIN = 45.0
WAIT = 3
LONG_REAL = pytest.param("real", marks=[pytest.mark.real, pytest.mark.long])
LONG_BOTH = [pytest.param("fake", marks=pytest.mark.long), LONG_REAL]

ANYTHING = re.compile("")
NO_WATCH = re.compile("^(?!watch )")
WRITES = re.compile("^(create|update|patch|delete) (persistentvolumes|configmaps)")


def failing(action: Action, times: int) -> Fault:
    """Requests, whatever they are, meet this until it struck so often."""

    @asynccontextmanager
    async def fault(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
        rule = proxied.kubernetes.on(NO_WATCH, action, times=times)
        yield
        await proxied.record.until(lambda: rule.hits == times)

    return fault


def writes_failing(action: Action, times: int) -> Fault:
    """Every other write meets this until it struck so often."""

    @asynccontextmanager
    async def fault(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
        observed = 0

        def every_other(asked: Asked) -> bool:
            nonlocal observed
            observed += WRITES.search(asked.label) is not None
            return bool(observed % 2) and WRITES.search(asked.label) is not None

        rule = proxied.kubernetes.on(every_other, action, times=times)
        yield
        await proxied.record.until(lambda: rule.hits == times)

    return fault


@asynccontextmanager
async def dropping_connections(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    for _ in range(3):
        proxied.record.forget()
        proxied.kubernetes.drop_connections()
        fleet.move_during()
        await proxied.record.until(lambda: "watch persistentvolumes" in proxied.record.labels())
    yield


@asynccontextmanager
async def watches_cut_in_mid_line(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    begun = len(proxied.record.asked)
    rule = proxied.kubernetes.on("watch persistentvolumes", CutBody(700), times=3)
    proxied.kubernetes.drop_connections()
    yield
    await proxied.record.until(
        lambda: proxied.record.labels()[begun:].count("watch persistentvolumes") > rule.hits == 3
    )


@asynccontextmanager
async def watches_refused(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    rule = proxied.kubernetes.on("watch persistentvolumes", Respond(500), times=3)
    proxied.kubernetes.drop_connections()
    yield
    await proxied.record.until(lambda: rule.hits == 3)


@asynccontextmanager
async def history_said_to_be_gone(proxied: ProxiedTestbed, fleet: Fleet) -> AsyncIterator[None]:
    """A watch that gets a 410 in its first line, as an API server does that has forgotten."""
    said = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'
    rule = proxied.kubernetes.on("watch persistentvolumes", Respond(200, said), times=2)
    proxied.kubernetes.drop_connections()
    yield
    await proxied.record.until(lambda: rule.hits == 2)
    await fleet.service.until_said("no longer has the resourceVersion")


@pytest.mark.parametrize("testbed", ["fake", LONG_REAL], indirect=True)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(failing(Respond(500), 40), id="500"),
        pytest.param(failing(Respond(503), 40), id="503"),
        pytest.param(failing(Respond(429, headers={"Retry-After": "1"}), 15), id="429"),
        pytest.param(failing(Delay(request=0.3, response=0.3), 30), id="slow"),
        pytest.param(failing(Reset(forwarded=False), 30), id="reset before"),
        pytest.param(failing(Reset(forwarded=True), 30), id="reset after"),
        pytest.param(failing(CutBody(20), 30), id="cut answers"),
        pytest.param(writes_failing(Respond(500), 20), id="writes fail"),
        pytest.param(writes_failing(Reset(forwarded=True), 20), id="writes unanswered"),
        dropping_connections,
        watches_cut_in_mid_line,
        pytest.param(watches_refused, marks=pytest.mark.long),
        history_said_to_be_gone,
    ],
)
async def test_api_server_errors(proxied: ProxiedTestbed, fleet: MakeFleet, fault: Fault) -> None:
    async with (
        fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving,
        fault(proxied, moving),
    ):
        moving.move_during()


@pytest.mark.parametrize("testbed", LONG_BOTH, indirect=True)
@pytest.mark.parametrize(
    "forwarded", [pytest.param(False, id="unheard"), pytest.param(True, id="heard")]
)
async def test_an_api_server_that_never_responds(
    proxied: ProxiedTestbed, fleet: MakeFleet, forwarded: bool
) -> None:
    async with (
        fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving,
        writes_failing(Hang(forwarded=forwarded), 4)(proxied, moving),
    ):
        moving.move_during()


@pytest.mark.parametrize("testbed", LONG_BOTH, indirect=True)
async def test_an_api_server_that_disappears_without_closing_connections(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    async with watched_again(proxied, fleet):
        await proxied.kubernetes.vanish()


@pytest.mark.parametrize("testbed", LONG_BOTH, indirect=True)
async def test_an_api_server_that_falls_silent_on_open_connections(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    """As behind a load balancer. Only the service's own writes show that events are missing."""
    async with watched_again(proxied, fleet):
        proxied.kubernetes.fall_silent()


@asynccontextmanager
async def watched_again(proxied: ProxiedTestbed, fleet: MakeFleet) -> AsyncIterator[None]:
    """Volumes move, and a new watch is opened soon after what the block does to the old one."""
    async with fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving:
        proxied.record.forget()
        gone = time.monotonic()
        yield
        moving.move_during()

        await proxied.record.until(lambda: "watch persistentvolumes" in proxied.record.labels())
        first = next(each for each in proxied.record if each.label == "watch persistentvolumes")
        assert first.at - gone < NOTICED_WITHIN


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_an_api_server_that_compacts_during_changes(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    server = proxied.testbed.cluster.server
    assert server is not None
    async with fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving:
        for _ in range(3):
            server.compact()
            server.expire_watches()
            moving.move_during()


@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_an_api_server_that_restarts(proxied: ProxiedTestbed, fleet: MakeFleet) -> None:
    server = proxied.testbed.cluster.server
    assert server is not None
    async with fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving:
        await server.stop()
        moving.move_during()
        await moving.service.until_said("list or watch failed")
        await server.start()


@pytest.mark.parametrize("testbed", [BOTH[1]], indirect=True)
async def test_a_real_api_server_that_is_killed_and_restarted(
    proxied: ProxiedTestbed, fleet: MakeFleet
) -> None:
    real = proxied.testbed.cluster.real
    assert real is not None
    async with fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving:
        moving.move_during()
        with moving.without_api_server(proxied.record):
            await real.restart_apiserver()


@pytest.mark.parametrize("testbed", [BOTH[1]], indirect=True)
async def test_a_real_api_server_that_compacts(proxied: ProxiedTestbed, fleet: MakeFleet) -> None:
    real = proxied.testbed.cluster.real
    assert real is not None
    async with fleet(proxied.testbed, proxied.service(ELECTED, FEW_FULL_RECONCILES)) as moving:
        moving.move_during()
        with moving.without_api_server(proxied.record):
            await real.forget_history()


@pytest.mark.parametrize(
    "label",
    [
        "get persistentvolumes",
        "list configmaps",
        pytest.param("watch persistentvolumes", marks=pytest.mark.long),
        pytest.param("patch persistentvolumes", marks=pytest.mark.long),
        pytest.param("create configmaps", marks=pytest.mark.long),
        pytest.param("update leases.coordination.k8s.io", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("testbed", ["fake"], indirect=True)
async def test_retry_after_of_the_api_server_is_respected(
    proxied: ProxiedTestbed, fleet: MakeFleet, label: str
) -> None:
    """Neither a trigger nor a full reconcile nor the clock make it come sooner."""
    refused: list[Asked] = []

    def first_of_its_kind(asked: Asked) -> bool:
        if asked.label != label or refused:
            return False
        refused.append(asked)
        return True

    def again() -> list[Asked]:
        return [
            each for each in proxied.record if each.at > refused[0].at and same(each, refused[0])
        ]

    service = proxied.service(
        ELECTED, "--reconcile-rate=1s", "--leader-election-retry-period=500ms"
    )
    async with fleet(proxied.testbed, service) as moving:
        response = Respond(429, headers={"Retry-After": str(WAIT)})
        rule = proxied.kubernetes.on(first_of_its_kind, response)
        if label.startswith("watch"):
            proxied.kubernetes.drop_connections()
        moving.move_during()
        await rule.struck.wait()
        moving.move_during()
        await proxied.record.until(lambda: bool(again()))

        assert again()[0].at - refused[0].at >= WAIT


def same(one: Asked, other: Asked) -> bool:
    return (one.label, one.path, name_in(one)) == (other.label, other.path, name_in(other))
