"""Streams become hints; broken ones are opened again."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.hints import Hint, MissedSome, Touched, from_stream
from linstor_affinity_events.errors import LoginRefused, Unreachable
from linstor_affinity_events.model.names import ResourceName
from tests.fakes.linstor import FakeStream
from tests.fakes.others import FakeTelemetry

OPENED = MissedSome("fake stream opened")


def hints_of(stream: FakeStream, telemetry: FakeTelemetry) -> AsyncGenerator[Hint, None]:
    return from_stream(stream, Backoff(first=0.2, most=30.0, chance=random.Random(1)), telemetry)


async def test_a_promotion_names_its_resource_and_a_node_concerns_all() -> None:
    stream = FakeStream()
    stream.tell({"resource_name": "PVC-1", "node_name": "n1"})
    stream.tell({"node": {"name": "n1"}})

    async with aclosing(hints_of(stream, FakeTelemetry())) as hints:
        assert await anext(hints) == OPENED
        assert await anext(hints) == Touched(ResourceName("pvc-1"))
        assert await anext(hints) == MissedSome("node")


async def test_every_connection_begins_with_the_news_that_some_were_missed() -> None:
    stream, telemetry = FakeStream(), FakeTelemetry()
    stream.hang_up()
    stream.break_off(Unreachable("cut"))

    async with aclosing(hints_of(stream, telemetry)) as hints:
        for _ in range(3):
            assert await anext(hints) == OPENED

    assert stream.connections == 3
    assert telemetry.counted["stream fake down"] == 2


async def test_a_peer_that_hangs_up_at_once_is_asked_less_and_less_often() -> None:
    stream = FakeStream()
    moments = []
    async with aclosing(hints_of(stream, FakeTelemetry())) as hints:
        for _ in range(12):
            stream.hang_up()
            await anext(hints)
            moments.append(asyncio.get_running_loop().time())

    pauses = [later - sooner for sooner, later in pairwise(moments)]
    assert pauses[0] < 0.3
    assert 20.0 <= pauses[-1] <= 30.0


async def test_a_login_that_is_refused_is_tried_again_for_it_may_be_mended() -> None:
    stream = FakeStream()
    stream.refuse = LoginRefused("no")

    async def mend() -> None:
        await asyncio.sleep(100.0)
        stream.refuse = None

    mending = asyncio.create_task(mend())
    async with aclosing(hints_of(stream, FakeTelemetry())) as hints:
        assert await anext(hints) == OPENED
    await mending
