"""The status of the running service, as JSON values for the status page."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from linstor_affinity_events import __version__
from linstor_affinity_events.adapters.kubernetes.election import Election
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.engine.engine import Engine
from linstor_affinity_events.engine.reporter import Changed, OutOfSync
from linstor_affinity_events.engine.yielding import yielding
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.printable import LONGEST_TEXT

MOST_VOLUMES = 500
"""The most rows that the page shows; the search finds the others."""

YIELD_EVERY = 500
"""Volumes searched between cooperative yields: searching 50,000 without one took a third of a
second.
"""


class StatusReport:
    """Reads the state of the other components; its only own state is its start time."""

    def __init__(
        self,
        engine: Engine,
        *,
        instance: str,
        index: VolumeIndex,
        streams: tuple[str, ...],
        election: Election,
        not_ready: Callable[[], Mapping[str, str]],
    ) -> None:
        self._instance, self._index, self._reporter = instance, index, engine.reporter
        self._full_reconciler, self._queue = engine.full_reconciler, engine.queue
        self._unfinished = engine.replacer.unfinished
        self._states, self._streams, self._election = engine.streams, streams, election
        self._not_ready = not_ready
        self._started = time.time()

    async def tree(self, search: str) -> dict[str, Any]:
        """Return the whole status. `volumes` are those out of sync or, with a search text, those
        whose name, claim or handle contains it; at most the first MOST_VOLUMES.
        """
        names, number = await self._first(self._found(search) if search else self._out_of_sync())
        unfinished, _ = await self._first(self._pending())
        rows = [
            self._row(volume)
            async for name in yielding(names, every=YIELD_EVERY)
            if (volume := self._index.get(name))
        ]
        return {
            "version": __version__,
            "instance": self._instance,
            "started": _moment(self._started),
            "ready": not (against := self._not_ready()),
            "notReady": dict(against),
            "leading": self._election.leading,
            "leader": self._election.holder or None,
            "queue": self._queue_tree(),
            "streams": [self._stream(name) for name in self._streams],
            "fullReconcile": self._last_full_reconcile(),
            "counts": {
                "volumes": len(self._index),
                "outOfSync": len(self._reporter.out_of_sync),
                "unfinished": len(self._unfinished.pending),
                "stuck": len(self._unfinished.absent.stuck),
            },
            "unfinished": [
                {
                    "volume": name,
                    "resource": str(key),
                    "error": self._unfinished.absent.stuck.get(name),
                }
                for name in unfinished
                if (key := self._unfinished.pending.get(name)) is not None
            ],
            "search": search or None,
            "volumes": rows,
            "more": number - len(names),
            "changes": [_change(each) for each in reversed(self._reporter.latest)],
        }

    def _queue_tree(self) -> dict[str, Any]:
        since = self._queue.oldest()
        age = 0.0 if since is None else asyncio.get_running_loop().time() - since
        return {
            "waiting": len(self._queue),
            "processing": self._queue.processing,
            "oldestSeconds": round(max(age, 0.0), 3),
        }

    def _stream(self, name: str) -> dict[str, Any]:
        state = self._states.state(name)
        return {
            "stream": name,
            "connected": state.up,
            "since": _moment(state.since),
            "lastEvent": _moment(state.last_event),
            "events": state.events,
            "connects": state.connects,
        }

    def _last_full_reconcile(self) -> dict[str, Any]:
        last = self._full_reconciler.last
        if last is None:
            return {"failure": self._full_reconciler.failure}
        age = asyncio.get_running_loop().time() - last.ended
        return {
            "failure": self._full_reconciler.failure,
            "ended": _moment(time.time() - age),
            "tookSeconds": round(last.took, 3),
            "cause": last.cause,
            "volumes": last.volumes,
            "bulk": last.bulk,
        }

    async def _out_of_sync(self) -> AsyncGenerator[PvName, None]:
        async for name in yielding(tuple(self._reporter.out_of_sync), every=YIELD_EVERY):
            if self._index.get(name) is not None:
                yield name

    async def _found(self, search: str) -> AsyncGenerator[PvName, None]:
        wanted = search.lower()
        async for volume in yielding(tuple(self._index.all()), every=YIELD_EVERY):
            if _contains(volume, wanted):
                yield volume.name

    async def _pending(self) -> AsyncGenerator[PvName, None]:
        async for name in yielding(tuple(self._unfinished.pending), every=YIELD_EVERY):
            yield name

    async def _first(self, found: AsyncGenerator[PvName, None]) -> tuple[list[PvName], int]:
        """Return the first MOST_VOLUMES names and the number of all; sort only those shown."""
        first: list[PvName] = []
        number = 0
        async with aclosing(found):
            async for name in found:
                number += 1
                first.append(name)
                if len(first) >= 2 * MOST_VOLUMES:
                    first = sorted(first)[:MOST_VOLUMES]
        return sorted(first)[:MOST_VOLUMES], number

    def _row(self, volume: Volume) -> dict[str, Any]:
        why = self._reporter.out_of_sync.get(volume.name)
        if why is not None:
            return _row(volume, why)
        waits = volume.key is not None and volume.key.resource in self._queue
        return _row(volume, None, state="waiting" if waits else "in_sync")


def _contains(volume: Volume, wanted: str) -> bool:
    names = (volume.name, str(volume.claim or ""), volume.handle)
    return any(wanted in name.lower() for name in names)


def _row(volume: Volume, why: OutOfSync | None, *, state: str = "") -> dict[str, Any]:
    return {
        "volume": volume.name,
        "claim": None if volume.claim is None else str(volume.claim),
        "resource": None if volume.key is None else str(volume.key),
        # One character more than is shown, so that it is seen to be cut.
        "affinity": str(volume.affinity)[: LONGEST_TEXT + 1],
        "state": state if why is None else why.kind,
        "reason": None if why is None else why.reason,
        "message": None if why is None else why.why,
        "since": None if why is None else _moment(why.since),
    }


def _change(change: Changed) -> dict[str, Any]:
    return {
        "at": _moment(change.at),
        "volume": change.pv,
        "claim": change.claim,
        "resource": change.resource,
        "before": change.was,
        "after": change.now,
        "method": change.how,
        "latencyMs": round(change.took * 1000, 1),
    }


def _moment(seconds: float) -> str | None:
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
