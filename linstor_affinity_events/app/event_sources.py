"""What gives the engine triggers: LINSTOR's event streams and, if possible, its database."""

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from linstor_affinity_events.adapters.kubernetes.database import KubeDatabase
from linstor_affinity_events.engine.engine import Engine
from linstor_affinity_events.engine.ports import EventsMissed, EventStream, ResourceTouched
from linstor_affinity_events.engine.triggers import triggers_from


class EventSources:
    """Passes triggers to the engine. `watch_database` is auto, on or off."""

    def __init__(
        self,
        engine: Engine,
        streams: Sequence[EventStream],
        database: KubeDatabase,
        *,
        watch_database: str,
    ) -> None:
        self._engine, self._streams, self._database = engine, streams, database
        self._watch_database = watch_database
        self.database_failure: str | None = None
        """Why the database is not watched although the settings require it."""

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Return what to run until cancelled, by name."""
        return {f"stream-{stream.name}": self._listen(stream) for stream in self._streams} | {
            "database": self._listen_to_database()
        }

    async def _listen_to_database(self) -> None:
        if self._watch_database == "off":
            return
        required = self._watch_database == "on"
        self.database_failure = "not connected yet" if required else None
        rows = await self._database.found(required=required)
        self.database_failure = None
        await self._listen(rows)

    async def _listen(self, stream: EventStream) -> None:
        engine = self._engine
        triggers = triggers_from(stream, engine.delays(first=0.2, most=30.0), engine.streams)
        async with aclosing(triggers):
            async for trigger in triggers:
                match trigger:
                    case EventsMissed(cause):
                        engine.full_reconciler.request(cause)
                    case ResourceTouched(resource):
                        engine.trigger(resource, stream.name)
        raise RuntimeError("an event source ended unexpectedly")
