"""Hints: cheap and lossy news that a resource may have moved.

A hint starts a look and decides nothing; doubled, late or lost hints do no harm.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.ports import EventStream, Telemetry
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import ResourceName, resource_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Touched:
    """Something happened to this resource."""

    resource: ResourceName


@dataclass(frozen=True, slots=True)
class MissedSome:
    """We may have been deaf for a while, or it concerns all: look at everything."""

    cause: str


Hint = Touched | MissedSome

DATABASE = "database"
DATABASE_SOURCES = frozenset({DATABASE})
"""Streams of rows of LINSTOR's own database, where it is kept in Kubernetes."""


def hint_of(event: Mapping[str, object]) -> Hint:
    """A promotion names its resource; whatever happens to a node may concern any of them."""
    name = event.get("resource_name")
    return Touched(resource_name(name)) if isinstance(name, str) and name else MissedSome("node")


async def from_stream(
    stream: EventStream, delays: Backoff, telemetry: Telemetry
) -> AsyncGenerator[Hint, None]:
    """Yield hints for ever, over any number of broken connections.

    Each connection opens with MissedSome, because LINSTOR replays nothing that happened
    before it. Delays shrink only when an event arrives, or a connection outlives the longest of
    them: a peer that accepts and hangs up must not be able to make us sweep without pause.

    Wrap it in `contextlib.aclosing`, or its connection outlives the loop that read it.
    """
    clock = asyncio.get_running_loop().time
    told = ""
    while True:
        opened = None
        try:
            async with stream.connect() as events:
                opened = clock()
                telemetry.stream(stream.name, up=True)
                log.info("event stream open", extra=facts(stream=stream.name))
                told = ""
                yield MissedSome(f"{stream.name} stream opened")
                async for event in events:
                    delays.reset()
                    telemetry.stream_event(stream.name)
                    yield hint_of(event)
                log.info("event stream closed by its peer", extra=facts(stream=stream.name))
        except (Again, Refused) as error:
            if str(error) != told:
                log.warning("event stream broken", extra=facts(stream=stream.name, why=error))
            told = str(error)
        telemetry.stream(stream.name, up=False)
        if opened is not None and clock() - opened > 60:
            delays.reset()
        await asyncio.sleep(delays.next())
