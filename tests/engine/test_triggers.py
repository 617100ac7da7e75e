"""Streams become triggers; broken ones are opened again."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.ports import EventsMissed, ResourceTouched, Trigger
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.engine.triggers import triggers_from
from linstor_affinity_events.errors import LoginRefused, Unreachable
from linstor_affinity_events.model.names import ResourceName
from tests.fakes.linstor import FakeStream

OPENED = EventsMissed("fake stream connected")


def a_registry() -> Streams:
    return Streams(lambda: 2e9)


def triggers_of(stream: FakeStream, streams: Streams) -> AsyncGenerator[Trigger, None]:
    return triggers_from(stream, Backoff(first=0.2, most=30.0, chance=random.Random(1)), streams)


async def test_events_are_passed_on_after_the_stream_is_reported_connected() -> None:
    stream = FakeStream()
    reported: list[Trigger] = [ResourceTouched(ResourceName("pvc-1")), EventsMissed("node")]
    for trigger in reported:
        stream.send(trigger)
    streams = a_registry()

    async with aclosing(triggers_of(stream, streams)) as triggers:
        assert [await anext(triggers) for _ in range(3)] == [OPENED, *reported]

    assert streams.state("fake").events == 2


async def test_every_connection_starts_with_events_missed() -> None:
    stream, streams = FakeStream(), a_registry()
    stream.hang_up()
    stream.break_off(Unreachable("cut"))

    async with aclosing(triggers_of(stream, streams)) as triggers:
        for _ in range(3):
            assert await anext(triggers) == OPENED

    assert stream.connections == 3
    assert streams.state("fake").connects == 3


async def test_a_peer_that_disconnects_at_once_is_retried_with_backoff() -> None:
    stream = FakeStream()
    moments = []
    async with aclosing(triggers_of(stream, a_registry())) as triggers:
        for _ in range(12):
            stream.hang_up()
            await anext(triggers)
            moments.append(asyncio.get_running_loop().time())

    pauses = [later - sooner for sooner, later in pairwise(moments)]
    assert pauses[0] < 0.3
    assert 20.0 <= pauses[-1] <= 30.0


async def test_a_rejected_login_is_retried() -> None:
    stream = FakeStream()
    stream.refuse = LoginRefused("no")

    async def repair() -> None:
        await asyncio.sleep(100.0)
        stream.refuse = None

    repairing = asyncio.create_task(repair())
    async with aclosing(triggers_of(stream, a_registry())) as triggers:
        assert await anext(triggers) == OPENED
    await repairing
