"""What others ask us over HTTP."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from linstor_affinity_events.adapters.http.endpoints import (
    Address,
    EndpointSources,
    HttpEndpoints,
    is_loopback,
)
from linstor_affinity_events.errors import BadSettings
from tests.adapters.test_status_page import STATUS

LOOPBACK = "127.0.0.1"
ANY = (LOOPBACK, 0)
BIND, METRICS = "--bind-address", "--metrics-address"


@asynccontextmanager
async def listening(
    *,
    bind: Address | None = ANY,
    metrics: Address | None = None,
    not_ready: Mapping[str, str] | None = None,
    status_for_all: bool = False,
    others: Mapping[str, object] | None = None,
    status: Callable[[str], Awaitable[Mapping[str, Any]]] | None = None,
) -> AsyncIterator[HttpEndpoints]:
    async def found(search: str) -> Mapping[str, Any]:
        return {"search": search, **(others or {})}

    responses = EndpointSources(
        lambda: not_ready or {},
        lambda: b"metric 1\n",
        status or found,
        status_for_all=status_for_all,
    )
    endpoints = HttpEndpoints(responses, bind=bind, metrics=metrics)
    try:
        await endpoints.start()
        yield endpoints
    finally:
        await endpoints.stop()


async def asked(
    port: int, path: str, *, host: str = LOOPBACK, headers: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession(f"http://{host}:{port}", headers=headers) as client,
        client.get(path) as response,
    ):
        return response.status, response.content_type, await response.text()


@pytest.fixture
def elsewhere() -> str:
    """An address of this host by which a peer does not look local; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but those of loopback")
        address = str(probe.getsockname()[0])
    if is_loopback((address, 0)):
        pytest.skip("this host has no address but those of loopback")
    return address


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 1), True),
        (("127.9.9.9", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("::ffff:10.0.0.1", 1, 0, 0), False),
        (("10.0.0.1", 1), False),
        (("169.254.0.1", 1), False),
        (("fe80::1%eth0", 1, 0, 2), False),
        (("fd00::1", 1, 0, 0), False),
        (("0.0.0.0", 1), False),
        (("localhost", 1), False),
        (("", 1), False),
        ((), False),
        ("/run/socket", False),
        ("", False),
        (None, False),
    ],
)
def test_which_peers_are_on_this_host(peer: object, local: bool) -> None:
    assert is_loopback(peer) is local


@pytest.mark.parametrize("path", ["/status", "/status?q=x"])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_peers_on_this_host_are_shown_the_status(host: str, path: str) -> None:
    async with listening(bind=("::", 0)) as endpoints:
        assert (await asked(endpoints.ports[BIND], path, host=host))[0] == 200


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:1", True),
        ("127.1.2.3", True),
        ("[::1]:8000", True),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.0.2.1", False),
        ("127.0.0.1:99999", False),
        ("", False),
    ],
)
async def test_pages_under_other_names_are_not_shown_the_status_by_a_browser_here(
    host: str, *, shown: bool
) -> None:
    """Who owns such a name can have it resolve to 127.0.0.1."""
    async with listening() as endpoints:
        port = endpoints.ports[BIND]
        code, _, _ = await asked(port, "/status", headers={"Host": host})

    assert code == (200 if shown else 403)


async def test_a_status_for_all_is_shown_under_any_name() -> None:
    async with listening(status_for_all=True) as endpoints:
        port = endpoints.ports[BIND]
        code, _, _ = await asked(port, "/status", headers={"Host": "storage.example"})

    assert code == 200


@pytest.mark.parametrize("path", ["/", "/status"])
async def test_peers_elsewhere_are_not_shown_the_status_whatever_headers_they_send(
    path: str, elsewhere: str
) -> None:
    said = {"X-Forwarded-For": LOOPBACK, "X-Real-IP": LOOPBACK, "Forwarded": f"for={LOOPBACK}"}

    async with listening(bind=("::", 0)) as endpoints:
        port = endpoints.ports[BIND]
        code, _, text = await asked(port, path, host=elsewhere, headers={**said, "Host": LOOPBACK})
        probe = await asked(port, "/healthz", host=elsewhere)

    assert code == 403
    assert "kubectl port-forward" in text
    assert probe[0] == 200


async def test_peers_elsewhere_are_shown_the_status_if_it_is_open_to_all(elsewhere: str) -> None:
    async with listening(bind=("::", 0), status_for_all=True) as endpoints:
        assert (await asked(endpoints.ports[BIND], "/status", host=elsewhere))[0] == 200


def taken_address() -> tuple[socket.socket, Address]:
    """An address at which somebody else listens."""
    taken = socket.create_server((LOOPBACK, 0))
    return taken, (LOOPBACK, taken.getsockname()[1])


async def test_healthz_responds_with_200() -> None:
    async with listening(not_ready={"linstor": "refused"}) as endpoints:
        assert await asked(endpoints.ports[BIND], "/healthz") == (200, "text/plain", "ok\n")


async def test_readyz_responds_with_200_if_there_is_no_reason_against_it() -> None:
    async with listening() as endpoints:
        assert await asked(endpoints.ports[BIND], "/readyz") == (200, "text/plain", "ok\n")


async def test_readyz_lists_every_reason_for_not_being_ready() -> None:
    against = {"linstor": "refused", "kubernetes persistentvolumes": "not listed yet"}

    async with listening(not_ready=against) as endpoints:
        status, _, text = await asked(endpoints.ports[BIND], "/readyz")

    assert status == 503
    assert text.splitlines() == [
        "not ready",
        "linstor: refused",
        "kubernetes persistentvolumes: not listed yet",
    ]


async def test_the_status_page_is_rendered_beside_the_event_loop() -> None:
    """Hundreds of rows that others have written hold up a thread of their own."""
    threads = set[int]()

    class Version:
        def __str__(self) -> str:
            threads.add(threading.get_ident())
            return "1"

    async with listening(others={**STATUS, "version": Version()}) as endpoints:
        status, _, page = await asked(endpoints.ports[BIND], "/")

    assert status == 200
    assert "Version 1" in page
    assert threads.isdisjoint({threading.get_ident()})


@pytest.mark.parametrize("path", ["/", "/status"])
async def test_who_hangs_up_leaves_no_work_for_the_status(path: str) -> None:
    """The connection is not counted any more, and each status may take megabytes."""
    at_work = 0
    go_on = asyncio.Event()

    async def status(search: str) -> Mapping[str, Any]:
        nonlocal at_work
        at_work += 1
        try:
            await go_on.wait()
        finally:
            at_work -= 1
        return {"search": search}

    async def reach(number: int) -> None:
        while at_work != number:  # noqa: ASYNC110, nothing else tells
            await asyncio.sleep(0.01)

    async with listening(status=status) as endpoints, asyncio.timeout(10):
        port = endpoints.ports[BIND]
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            writers.append(writer)
        await reach(1)
        for writer in writers:
            writer.close()
        await reach(0)

        go_on.set()
        assert (await asked(port, "/status"))[0] == 200


async def test_one_page_is_rendered_at_a_time_also_when_clients_hang_up() -> None:
    """Its thread goes on, and another one would keep the event loop from running."""
    rendering, most, go_on, lock = 0, 0, threading.Event(), threading.Lock()

    class Version:
        def __str__(self) -> str:
            nonlocal rendering, most
            with lock:
                rendering += 1
                most = max(most, rendering)
            go_on.wait(10)
            with lock:
                rendering -= 1
            return "1"

    async with listening(others={**STATUS, "version": Version()}) as endpoints, asyncio.timeout(10):
        port = endpoints.ports[BIND]
        _, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not rendering:  # noqa: ASYNC110, nothing else tells
            await asyncio.sleep(0.01)
        writer.transport.abort()
        waits = asyncio.create_task(asked(port, "/"))
        # A request of the same port that is answered later than that one could have begun.
        for _ in range(20):
            assert (await asked(port, "/healthz"))[0] == 200
        go_on.set()
        assert (await waits)[0] == 200

    assert most == 1


async def test_one_status_is_read_at_a_time() -> None:
    begun, most, go_on = 0, 0, asyncio.Event()

    async def status(search: str) -> Mapping[str, Any]:
        nonlocal begun, most
        begun += 1
        most = max(most, begun)
        await go_on.wait()
        begun -= 1
        return {"search": search}

    async with listening(status=status) as endpoints, asyncio.TaskGroup() as group:
        port = endpoints.ports[BIND]
        all_asked = [group.create_task(asked(port, f"/status?q={n}")) for n in range(10)]
        async with asyncio.timeout(10):
            while not begun:  # noqa: ASYNC110, nothing else tells
                await asyncio.sleep(0.01)
        assert (await asked(port, "/healthz"))[0] == 200
        go_on.set()

    assert most == 1
    assert [each.result()[0] for each in all_asked] == [200] * 10


async def test_metrics_are_disabled_without_an_address() -> None:
    async with listening() as endpoints:
        status, _, _ = await asked(endpoints.ports[BIND], "/metrics")

    assert status == 404
    assert METRICS not in endpoints.ports


async def test_metrics_may_have_an_address_of_their_own() -> None:
    taken, address = taken_address()
    taken.close()

    async with listening(metrics=address) as endpoints:
        at_metrics = await asked(endpoints.ports[METRICS], "/metrics")
        at_bind = await asked(endpoints.ports[BIND], "/metrics")
        probes_at_metrics = await asked(endpoints.ports[METRICS], "/healthz")

    assert at_metrics == (200, "text/plain", "metric 1\n")
    assert (at_bind[0], probes_at_metrics[0]) == (404, 404)


async def test_metrics_may_share_the_address() -> None:
    async with listening(metrics=ANY) as endpoints:
        port = endpoints.ports[BIND]

        assert (await asked(port, "/metrics"))[0] == 200
        assert (await asked(port, "/healthz"))[0] == 200


async def test_metrics_can_be_served_alone() -> None:
    async with listening(bind=None, metrics=ANY) as endpoints:
        assert (await asked(endpoints.ports[METRICS], "/metrics"))[0] == 200
        assert BIND not in endpoints.ports


async def test_all_endpoints_can_be_disabled() -> None:
    async with listening(bind=None) as endpoints:
        assert endpoints.ports == {}


async def test_all_addresses_include_those_of_ipv4() -> None:
    async with listening(bind=("::", 0)) as endpoints:
        assert (await asked(endpoints.ports[BIND], "/healthz"))[0] == 200


@pytest.mark.parametrize("flag", [BIND, METRICS])
async def test_an_address_in_use_is_reported_with_its_flag(flag: str) -> None:
    taken, address = taken_address()
    bind, metrics = (address, None) if flag == BIND else (None, address)

    with taken, pytest.raises(BadSettings, match=flag):
        async with listening(bind=bind, metrics=metrics):
            pass


async def test_an_address_that_does_not_exist_is_reported() -> None:
    with pytest.raises(BadSettings, match="no-such-host"):
        async with listening(bind=("no-such-host.invalid", 0)):
            pass


async def test_the_address_is_free_after_the_server_stopped() -> None:
    async with listening() as endpoints:
        port = endpoints.ports[BIND]

    with socket.create_server((LOOPBACK, port)):
        pass
