"""LINSTOR's event streams, against a controller on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import orjson
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from linstor_affinity_events.adapters.linstor.connection import Login
from linstor_affinity_events.adapters.linstor.event_streams import (
    FRAME_LIMIT,
    NODES_PATH,
    PROMOTION_PATH,
    LinstorStream,
    trigger_of,
)
from linstor_affinity_events.engine.ports import EventsMissed, ResourceTouched, Trigger
from linstor_affinity_events.errors import Unreachable
from linstor_affinity_events.model.names import ResourceName
from tests.adapters.peers import CLOSED, TIMEOUT, linstor_at, unresponsive_peer
from tests.fakes.linstor_server import NODES, PROMOTION, LinstorServer, LinstorWorld

MIB = 1024 * 1024
MAY = {"resource_name": "pvc-1", "node_name": "n1", "may_promote": True}
MAY_NOT = {"resource_name": "PVC-2", "node_name": "n1", "may_promote": False}
TOUCHED, OTHER = ResourceTouched(ResourceName("pvc-1")), ResourceTouched(ResourceName("pvc-2"))
ANY = EventsMissed("node")


def frame(payload: object, name: str = "may-promote-change") -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(payload))


def promotions(*urls: str, login: Login | None = None) -> LinstorStream:
    return LinstorStream(linstor_at(*urls, login=login), name="promotion", path=PROMOTION_PATH)


@asynccontextmanager
async def opened(
    linstor: LinstorServer, stream: LinstorStream | None = None
) -> AsyncIterator[AsyncIterator[Trigger]]:
    """A connection that the controller knows of."""
    async with asyncio.timeout(TIMEOUT):
        async with (stream or promotions(linstor.url)).connect() as events:
            await linstor.subscribed(PROMOTION)
            yield events


async def next_after(
    linstor: LinstorServer, happens: Callable[[], None], stream: LinstorStream | None = None
) -> Trigger:
    """Open a connection, have something happen, and take the next event."""
    async with opened(linstor, stream) as events:
        happens()
        return await anext(events)


def writes(linstor: LinstorServer, raw: bytes) -> Callable[[], None]:
    return partial(linstor.send_raw, PROMOTION, raw)


async def test_frames_become_events(linstor: LinstorServer) -> None:
    async with opened(linstor) as events:
        linstor.send_raw(PROMOTION, frame(MAY))

        assert await anext(events) == TOUCHED


async def test_a_recorded_change_is_an_event(linstor: LinstorServer, world: LinstorWorld) -> None:
    async with opened(linstor) as events:
        world.go_offline("n1")

        assert await anext(events) == TOUCHED


async def test_the_nodes_stream_yields_node_events(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    stream = LinstorStream(linstor_at(linstor.url), name="nodes", path=NODES_PATH)

    async with asyncio.timeout(TIMEOUT), stream.connect() as events:
        await linstor.subscribed(NODES)
        world.set_node_prop("n1", "Aux/x", "1")

        assert await anext(events) == ANY


async def test_several_frames_in_one_read_are_several_events(linstor: LinstorServer) -> None:
    async with opened(linstor) as events:
        linstor.send_raw(PROMOTION, frame(MAY) + frame(MAY_NOT) + frame(MAY))

        assert [await anext(events) for _ in range(3)] == [TOUCHED, OTHER, TOUCHED]


async def test_one_frame_in_many_reads_is_one_event(linstor: LinstorServer) -> None:
    raw = frame(MAY)

    async with opened(linstor) as events:
        for position in range(len(raw)):
            linstor.send_raw(PROMOTION, raw[position : position + 1])
            await asyncio.sleep(0)

        assert await anext(events) == TOUCHED


async def test_a_large_node_is_one_event(linstor: LinstorServer) -> None:
    large = {**MAY, "props": {"Aux/x": "x" * (FRAME_LIMIT - 200)}}

    async with opened(linstor) as events:
        linstor.send_raw(PROMOTION, frame(large))

        assert await anext(events) == TOUCHED


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
async def test_lines_can_end_with_lf_or_crlf(linstor: LinstorServer, ending: bytes) -> None:
    async with opened(linstor) as events:
        linstor.send_raw(PROMOTION, frame(MAY).replace(b"\n", ending))

        assert await anext(events) == TOUCHED


async def test_comments_and_unknown_fields_are_ignored(
    linstor: LinstorServer,
) -> None:
    noise = b": keepalive\n\nretry: 5\nid: 7\nnonsense\nnonsense: x\n"

    async with opened(linstor) as events:
        linstor.send_raw(PROMOTION, noise + frame(MAY))

        assert await anext(events) == TOUCHED


@pytest.mark.parametrize(
    "payload",
    [b"{", b"no JSON", b"[]", b"7", b"null", b'"text"', b"[" * 5000, b'{"a":NaN}'],
    ids=["half", "text", "list", "number", "null", "string", "deep", "NaN"],
)
async def test_an_event_that_cannot_be_parsed_may_concern_any_resource(
    linstor: LinstorServer, payload: bytes
) -> None:
    async with opened(linstor) as events:
        linstor.send_raw(PROMOTION, b"event: x\ndata: " + payload + b"\n\n" + frame(MAY))

        assert [await anext(events), await anext(events)] == [ANY, TOUCHED]


async def test_a_connection_cut_within_a_frame_is_reported(linstor: LinstorServer) -> None:
    with pytest.raises(Unreachable):
        await next_after(linstor, linstor.cut_streams)


async def test_the_next_connection_starts_with_an_empty_buffer(linstor: LinstorServer) -> None:
    stream = promotions(linstor.url)
    with pytest.raises(Unreachable):
        await next_after(linstor, linstor.cut_streams, stream)
    await linstor.subscribed(PROMOTION, 0)

    async with opened(linstor, stream) as events:
        linstor.send_raw(PROMOTION, frame(MAY))

        assert await anext(events) == TOUCHED


async def test_a_stream_that_ends_properly_ends_the_events() -> None:
    async with serving(frame(MAY)) as url, promotions(url).connect() as events:
        assert [event async for event in events] == [TOUCHED]


async def test_a_controller_that_closes_within_a_response_is_reported(
    linstor: LinstorServer,
) -> None:
    with pytest.raises(Unreachable):
        await next_after(linstor, linstor.end_streams)


async def test_bytes_that_are_not_valid_utf_8_end_the_connection(linstor: LinstorServer) -> None:
    with pytest.raises(Unreachable, match="UTF-8"):
        await next_after(linstor, writes(linstor, b'data: "\xff"\n\n'))


async def test_a_line_without_end_ends_the_connection(linstor: LinstorServer) -> None:
    with pytest.raises(Unreachable):
        await next_after(linstor, writes(linstor, b"data: " + b"x" * 3 * MIB))


async def test_a_frame_without_end_ends_the_connection(linstor: LinstorServer) -> None:
    line = b"data: " + b"x" * MIB + b"\n"

    with pytest.raises(Unreachable, match="2 MiB"):
        await next_after(linstor, writes(linstor, line * (FRAME_LIMIT // MIB + 1)))


async def test_a_rejected_login_is_reported(linstor: LinstorServer, world: LinstorWorld) -> None:
    world.login = ("admin", "secret")
    login = Login(username="admin", password="hunter2")

    with pytest.raises(Unreachable, match="400") as refused:
        async with promotions(linstor.url, login=login).connect():
            pass

    assert "hunter2" not in str(refused.value)


async def test_a_login_opens_the_stream(linstor: LinstorServer, world: LinstorWorld) -> None:
    world.login = ("admin", "secret")
    stream = promotions(linstor.url, login=Login(username="admin", password="secret"))

    async with opened(linstor, stream) as events:
        linstor.send_raw(PROMOTION, frame(MAY))

        assert await anext(events) == TOUCHED


@pytest.mark.parametrize("status", [204, 301, 302, 401, 404, 500, 503])
async def test_any_other_status_is_an_error(
    linstor: LinstorServer, world: LinstorWorld, status: int
) -> None:
    world.fail_next(PROMOTION_PATH, status, headers={"Location": f"{linstor.url}{NODES_PATH}"})

    with pytest.raises(Unreachable):
        async with promotions(linstor.url).connect():
            pass

    assert linstor.streams.count(NODES) == 0


async def test_a_response_of_another_content_type_is_an_error(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    world.fail_next(PROMOTION_PATH, 200, b"<html>", headers={"Content-Type": "text/html"})

    with pytest.raises(Unreachable, match="text/html"):
        async with promotions(linstor.url).connect():
            pass


ODD = [
    pytest.param("; a*" + "1" * 5000 + "=x", id="long number"),
    pytest.param("; a*", id="no section"),
    pytest.param("; a=" + "(" * 5000, id="brackets"),
    pytest.param(";" * 7000, id="semicolons"),
]


@pytest.mark.parametrize("parameters", ODD)
async def test_odd_parameters_of_a_content_type_are_ignored(parameters: str) -> None:
    kind = f"Text/Event-Stream{parameters}"

    async with serving(frame(MAY), kind=kind) as url, promotions(url).connect() as events:
        assert [event async for event in events] == [TOUCHED]


@pytest.mark.parametrize("parameters", ODD)
async def test_another_content_type_with_odd_parameters_is_an_error(parameters: str) -> None:
    async with serving(kind=f"text/plain{parameters}") as url:
        with pytest.raises(Unreachable, match="Content-Type"):
            async with promotions(url).connect():
                pass


async def test_a_controller_on_standby_is_reported(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    world.standby = True

    with pytest.raises(Unreachable):
        async with promotions(linstor.url).connect():
            pass


async def test_after_a_failure_the_next_controller_is_tried(linstor: LinstorServer) -> None:
    stream = promotions(CLOSED, linstor.url)
    with pytest.raises(Unreachable):
        async with stream.connect():
            pass

    async with opened(linstor, stream) as events:
        linstor.send_raw(PROMOTION, frame(MAY))

        assert await anext(events) == TOUCHED


async def test_a_stream_is_closed_once_another_controller_responds(
    linstor: LinstorServer, world: LinstorWorld
) -> None:
    """The one that it came from may hang, and keep its connections for ever."""
    async with LinstorServer(world) as heir:
        connection = linstor_at(linstor.url, heir.url)
        stream = LinstorStream(connection, name="promotion", path=PROMOTION_PATH)

        def another_responds() -> None:
            connection.responded(linstor.url)
            connection.responded(heir.url)

        with pytest.raises(Unreachable):
            await next_after(linstor, another_responds, stream)
        async with opened(heir, stream):
            pass


async def test_after_an_event_that_is_too_long_the_same_controller_is_asked(
    linstor: LinstorServer,
) -> None:
    """It has a node with very many properties, and any other controller sends the same event."""
    connection = linstor_at(linstor.url, CLOSED)
    stream = LinstorStream(connection, name="promotion", path=PROMOTION_PATH)
    event = b"data: " + b"x" * FRAME_LIMIT + b"\n\n"

    with pytest.raises(Unreachable, match="line of more than"):
        await next_after(linstor, writes(linstor, event), stream)

    assert connection.url == linstor.url


async def test_a_stream_stays_open_while_its_own_controller_responds(
    linstor: LinstorServer,
) -> None:
    connection = linstor_at(linstor.url, CLOSED)
    stream = LinstorStream(connection, name="promotion", path=PROMOTION_PATH)

    def responses() -> None:
        connection.responded(linstor.url)
        linstor.send_raw(PROMOTION, frame(MAY))

    assert await next_after(linstor, responses, stream) == TOUCHED


async def test_the_connection_is_closed_with_the_block(linstor: LinstorServer) -> None:
    async with opened(linstor):
        pass

    async with asyncio.timeout(TIMEOUT):
        await linstor.subscribed(PROMOTION, 0)


@pytest.mark.fast_clock(100)
async def test_a_controller_that_accepts_and_never_responds_times_out() -> None:
    async with unresponsive_peer() as url:
        with pytest.raises(Unreachable):
            async with asyncio.timeout(120), promotions(url).connect():
                pass


@pytest.mark.fast_clock(200)
async def test_a_stream_without_events_stays_open() -> None:
    async with (
        LinstorServer(LinstorWorld()) as server,
        promotions(server.url).connect() as events,
    ):
        await server.subscribed(PROMOTION)
        # aiohttp's own limit is 300 s.
        await asyncio.sleep(310)
        server.send_raw(PROMOTION, frame(MAY))

        assert await anext(events) == TOUCHED


@asynccontextmanager
async def serving(*chunks: bytes, kind: str = "text/event-stream") -> AsyncIterator[str]:
    """A peer that writes these, one after the other, and ends the stream properly."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_get(PROMOTION_PATH, stream)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


payloads = st.lists(
    st.dictionaries(st.sampled_from(["resource_name", "node_name", "x"]), st.text(max_size=8)),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=40)
@given(reported=payloads, cuts=st.lists(st.integers(1, 400), max_size=8))
async def test_events_do_not_depend_on_how_the_bytes_are_split(
    reported: list[dict[str, str]], cuts: list[int]
) -> None:
    raw = b"".join(frame(payload) for payload in reported)
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    chunks = [raw[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    async with serving(*chunks) as url, promotions(url).connect() as events:
        received = [event async for event in events]

    assert received == [trigger_of(orjson.dumps(payload).decode()) for payload in reported]
