"""The full pass: the net under every hint that never came. It finds suspects and queues them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.breaths import with_breaths
from linstor_affinity_events.engine.keyed_queue import KeyedQueue, Lane
from linstor_affinity_events.engine.picture import Picture
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.replacer import Replacer
from linstor_affinity_events.engine.teller import Teller, kind_of, reason_of
from linstor_affinity_events.engine.whole_view import WholeView
from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.verdict import Change, Later, Refusal, Resume, Verdict, decide
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

BREATH = 200
"""Volumes decided on before other tasks get their turn."""

SPACING = 1.0
PERIOD = "period"


@dataclass(frozen=True, slots=True)
class Pass:
    """A full pass that ended well."""

    ended: float
    """By the loop's clock."""

    took: float
    cause: str
    volumes: int
    bulk: bool
    """Whether LINSTOR gave all placements in one piece."""


class Sweeper:
    """Passes over all volumes at a steady pace, and at once when something was missed."""

    def __init__(
        self,
        ports: Ports,
        *,
        queue: KeyedQueue[ResourceName],
        picture: Picture,
        whole_view: WholeView,
        replacer: Replacer,
        teller: Teller,
        delays: Backoff,
        forget_gone: Callable[[], None] = lambda: None,
        after_pass: Callable[[], None] = lambda: None,
        pace: float = 60.0,
        limit: float = 60.0,
    ) -> None:
        self._queue, self._picture, self._index = queue, picture, ports.index
        self._linstor, self._whole_view, self._replacer = ports.linstor, whole_view, replacer
        self._leadership = ports.leadership
        self._teller, self._telemetry = teller, ports.telemetry
        self._delays, self._pace, self._limit = delays, pace, limit
        self._forget_gone, self._after_pass = forget_gone, after_pass
        self._causes: dict[str, float] = {}
        """Why a pass is wanted, and since when."""
        self._wanted = asyncio.Event()
        self._begun = 0.0
        self._read_since = 0.0
        self.failure: str | None = "no full pass has ended yet"
        """Why the last pass failed; None once one has ended well."""
        self.last: Pass | None = None

    def request(self, cause: str) -> None:
        """Ask for a pass as soon as can be; requests that come while one runs share the next."""
        self._request({cause: asyncio.get_running_loop().time()})

    def _request(self, causes: Mapping[str, float]) -> None:
        for cause, since in causes.items():
            self._causes[cause] = max(since, self._causes.get(cause, since))
        self._wanted.set()

    async def run(self) -> None:
        """Pass for ever; a pass that fails is begun again with growing delays."""
        self._begun = asyncio.get_running_loop().time()
        while True:
            causes = await self._next_causes()
            cause = "+".join(causes)
            self._begun = asyncio.get_running_loop().time()
            if not self._leadership.leading and self.failure is None:
                # Once it is known that all could be read, the one who leads passes for all.
                continue
            failed = await self._tried(cause)
            if failed is None:
                self._delays.reset()
                if self.failure is not None:
                    log.info("full pass ended", extra=facts(cause=cause))
                self.failure = None
                delay = min(SPACING, self._pace / 2)
                again = self._unanswered(causes)
            else:
                delay = self._failed(cause, *failed)
                again = causes
            self._after_pass()
            await asyncio.sleep(delay)
            if again:
                self._request(again)

    def _unanswered(self, causes: Mapping[str, float]) -> Mapping[str, float]:
        """Causes that are younger than some of what the last pass went by: it may have begun in an
        attempt that was cut off before they came.
        """
        read_since = self._read_since
        return {c: since for c, since in causes.items() if c != PERIOD and since > read_since}

    async def _tried(self, cause: str) -> tuple[str, str] | None:
        """Sweep; answers the kind of failure and what it says, None if all went well. Nothing of
        what was read is referred to any more when it has ended.
        """
        before = self._whole_view.kept
        try:
            async with asyncio.timeout(self._limit):
                await self.sweep(cause)
        except TimeoutError:
            kept = self._whole_view.kept
            if kept == before:
                return "TimeoutError", f"cut off after {self._limit:g} s"
            # It gets on, and need not wait for longer each time.
            self._delays.reset()
            return "TimeoutError", (
                f"cut off after {self._limit:g} s, with {kept} of {len(self._index.resources())} "
                "resources read one by one; it goes on with the others"
            )
        except (Again, Refused) as error:
            return type(error).__name__, str(error)
        return None

    async def _next_causes(self) -> Mapping[str, float]:
        try:
            async with asyncio.timeout_at(self._begun + self._pace):
                await self._wanted.wait()
        except TimeoutError:
            self.request(PERIOD)
        causes, self._causes = self._causes, {}
        self._wanted.clear()
        return causes

    def _failed(self, cause: str, kind: str, why: str) -> float:
        """Tell of it; answers after how long to begin again."""
        self._telemetry.failed_pass(kind)
        if why != self.failure:
            log.warning("full pass failed", extra=facts(cause=cause, why=why))
        self.failure = why
        return self._delays.next()

    async def sweep(self, cause: str) -> None:
        """Decide on every volume from a few big reads and queue those that want something done."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        if self._leadership.leading:
            known = set(self._replacer.unfinished.pending.values())
            for key in await self._replacer.load():
                # What is retried already is so at its own pace.
                if key not in known or key.resource not in self._queue:
                    self._queue.add(key.resource, lane=Lane.URGENT)
            self._replacer.unfinished.review(self._index.get)
        await self._picture.read_nodes()
        definitions = await self._linstor.definitions()
        view = await self._whole_view.placements(self._index.resources())
        self._picture.saved = frozenset(d.resource for d in definitions.values() if d.saved)
        for resource in self._picture.saved:
            self._queue.add(resource)
        found = await self._decide_all(cause, definitions, view.placements)
        self._tell_astray(found)
        self._telemetry.census(found)
        self._telemetry.deferred(self._teller.deferred())
        self.last = Pass(clock(), clock() - begun, cause, sum(found.values()), view.bulk)
        self._telemetry.swept(cause, self.last.took, self.last.volumes, bulk=view.bulk)
        self._read_since = min(begun, view.since)

    async def _decide_all(
        self,
        cause: str,
        definitions: Mapping[ResourceName, Definition],
        placements: Mapping[ResourceName, Placement],
    ) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        async for resource in with_breaths(tuple(self._index.resources()), every=BREATH):
            definition = definitions.get(resource)
            placement = None if definition is None else placements.get(resource)
            if definition is not None and placement is None:
                placement = Placement(resource)
            for volume in tuple(self._index.of(resource)):
                verdict = decide(self._picture.case(volume, definition, placement))
                found[kind_of(verdict), reason_of(verdict)] += 1
                self._suspect(cause, resource, volume, verdict)
        for name in [name for name in self._teller.unsettled if self._index.get(name) is None]:
            self._teller.forget(name)
        self._forget_gone()
        return found

    def _suspect(
        self, cause: str, resource: ResourceName, volume: Volume, verdict: Verdict
    ) -> None:
        match verdict:
            case Change():
                if resource not in self._queue and volume.name not in self._teller.unsettled:
                    self._telemetry.drift_unannounced(cause)
                    log.info(
                        "drift found that no event told",
                        extra=facts(pv=volume.name, rd=resource, cause=cause),
                    )
                self._queue.add(resource)
            case Resume():
                if self._leadership.leading:
                    self._queue.add(resource, lane=Lane.URGENT)
            case Later(_, _, after) if after is not None:
                self._queue.add(resource, after=after)
            case Refusal() if not self._teller.told(volume, verdict):
                # What was read may be old by now: let a look tell it.
                self._queue.add(resource)
            case _:
                self._teller.tell(volume, verdict)

    def _tell_astray(self, found: Counter[tuple[str, str]]) -> None:
        for volume in self._index.astray():
            verdict = decide(self._picture.case(volume, None, None))
            found[kind_of(verdict), reason_of(verdict)] += 1
            self._teller.tell(volume, verdict)
