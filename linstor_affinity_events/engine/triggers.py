"""Triggers from an event stream, across broken connections."""

import asyncio
import logging
from collections.abc import AsyncGenerator

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.ports import EventsMissed, EventStream, Trigger
from linstor_affinity_events.engine.streams import Streams
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.logs import facts

log = logging.getLogger(__name__)


DATABASE = "database"
DATABASE_SOURCES = frozenset({DATABASE})
"""Streams that watch LINSTOR's own database, if that is kept in Kubernetes."""


async def triggers_from(
    stream: EventStream, delays: Backoff, streams: Streams
) -> AsyncGenerator[Trigger, None]:
    """Yield triggers forever, over any number of broken connections.

    Each connection starts with EventsMissed, because LINSTOR does not replay earlier events.
    The delay is reset only when an event arrives or a connection outlives the longest delay:
    a peer that accepts and closes connections must not cause full reconciles without pause.

    Wrap it in `contextlib.aclosing`, or its connection outlives the loop that read it.
    """
    clock = asyncio.get_running_loop().time
    reported = ""
    while True:
        opened = None
        try:
            async with stream.connect() as events:
                opened = clock()
                streams.opened(stream.name)
                log.info(
                    "event stream connected; a full reconcile follows, for changes before the "
                    "connection",
                    extra=facts(stream=stream.name),
                )
                reported = ""
                yield EventsMissed(f"{stream.name} stream connected")
                async for trigger in events:
                    delays.reset()
                    streams.event(stream.name)
                    yield trigger
                log.info(
                    "event stream closed by the server; reconnecting. A full reconcile "
                    "follows then, and finds what was missed",
                    extra=facts(stream=stream.name),
                )
        except (Again, Refused) as error:
            if str(error) != reported:
                log.warning(
                    "event stream failed; reconnecting until it succeeds. A full reconcile "
                    "follows then, and finds what was missed; until then, the periodic "
                    "ones do",
                    extra=facts(stream=stream.name, error=error),
                )
            reported = str(error)
        streams.closed(stream.name)
        if opened is not None and clock() - opened > 60:
            delays.reset()
        await asyncio.sleep(delays.next())
