"""Looks at one resource at a time and sets its volumes' affinities right."""

import asyncio
import logging
import random
from collections.abc import Awaitable

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.keyed_queue import KeyedQueue, Lane, QueueClosed, Turn
from linstor_affinity_events.engine.picture import Picture
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.replacer import Ended, LeftAlone, Replacer
from linstor_affinity_events.engine.saved_notes import SavedNotes
from linstor_affinity_events.engine.second_looks import SECOND_LOOK, SecondLooks
from linstor_affinity_events.engine.teller import DEFERRED_FOR, Teller
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.engine.walk import AFFINITY_FIELD
from linstor_affinity_events.errors import Again, Conflict, Invalid, Refused, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.affinity import read_affinity
from linstor_affinity_events.model.manifest import Manifest, affinity_patch
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.replacement import Outcome
from linstor_affinity_events.model.verdict import (
    Change,
    Later,
    Reason,
    Refusal,
    Resume,
    Settled,
    Skipped,
    Verdict,
    decide,
)
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

RESUMED_AGAIN = 1.0
NEWS_SOON, NEWS_LATE, NEWS_WITHIN = 0.02, 5.0, 120.0
FAILED_FIRST, FAILED_MOST = 0.5, 300.0
NOTED_MOST = 10.0
NOTED_USUAL = 50
"""There are hardly more journal entries than --workers. Where there are more than this, others
write them, and those that fail are retried the less often the more there are.
"""
PATIENCE_MOST = 60.0


class Reconciler:
    """One look at a time for each resource; a look that fails comes back later, by itself."""

    def __init__(
        self,
        ports: Ports,
        *,
        queue: KeyedQueue[ResourceName],
        picture: Picture,
        replacer: Replacer,
        saved_notes: SavedNotes,
        teller: Teller,
        chance: random.Random,
    ) -> None:
        self._queue, self._picture, self._index = queue, picture, ports.index
        self._linstor, self._volumes, self._replacer = ports.linstor, ports.volumes, replacer
        self._saved_notes, self._leadership = saved_notes, ports.leadership
        self._teller, self._telemetry = teller, ports.telemetry
        self._chance = chance
        self._failing: dict[ResourceName, Backoff] = {}
        self._failing_since: dict[ResourceName, float] = {}
        self._second_looks = SecondLooks(queue)
        self._patience: dict[PvName, Backoff] = {}
        self._changed_at: dict[ResourceName, float] = {}

    async def work(self) -> None:
        """Take turns until the queue closes; the only place that outlives an unforeseen error."""
        while True:
            try:
                async with self._queue.claim() as turn:
                    await self._turn(turn)
            except QueueClosed:
                return

    def remembered(self) -> int:
        """How much is kept between looks, of volumes and resources together."""
        own = len(self._failing) + len(self._second_looks) + len(self._patience)
        return own + self._picture.remembered()

    def forget_gone(self) -> None:
        """Drop what is remembered of volumes and resources that are there no more."""
        self._picture.forget_gone()
        for name in [name for name in self._patience if self._index.get(name) is None]:
            del self._patience[name]
        known = self._index.resources()
        self._second_looks.keep(known)
        for resource in [name for name in self._failing if name not in known]:
            if not self._replacer.unfinished.of(resource):
                del self._failing[resource]
                self._failing_since.pop(resource, None)
        old = asyncio.get_running_loop().time() - NEWS_WITHIN
        for resource in [name for name, at in self._changed_at.items() if at < old]:
            del self._changed_at[resource]

    async def _turn(self, turn: Turn[ResourceName]) -> None:
        await self._tried(turn, self.look(turn))

    async def _tried(self, turn: Turn[ResourceName], work: Awaitable[None]) -> None:
        """Do what a turn is for; where it fails it is tried again later."""
        try:
            await work
        except Again as error:
            self._failed(turn, error, after=error.after)
        except Refused as error:
            self._failed(turn, error, after=FAILED_MOST / 10)
        except Exception:
            log.exception("look failed unforeseen", extra=facts(rd=turn.key))
            self._failed(turn, None, after=FAILED_MOST / 10)
        else:
            self._failing.pop(turn.key, None)
            self._failing_since.pop(turn.key, None)

    def _failed(
        self, turn: Turn[ResourceName], error: Exception | None, after: float | None
    ) -> None:
        noted = bool(self._replacer.unfinished.of(turn.key))
        most = self._noted_most(turn.key) if noted else FAILED_MOST
        first = turn.key not in self._failing
        now = asyncio.get_running_loop().time()
        since = self._failing_since.setdefault(turn.key, now)
        if first:
            self._failing[turn.key] = Backoff(first=FAILED_FIRST, most=most, chance=self._chance)
        delay = max(self._failing[turn.key].next(), after or 0.0)
        urgent = noted and most == NOTED_MOST
        if noted:
            delay = min(delay, most) if urgent else most
        self._telemetry.failed_look(type(error).__name__)
        if error is not None:
            # A conflict is the usual way to learn that somebody else was quicker; what goes on
            # failing was told when it began.
            usual = isinstance(error, Conflict) or not first
            level = logging.DEBUG if usual else logging.WARNING
            again = round(delay, 1)
            log.log(level, "look failed", extra=facts(rd=turn.key, why=error, again_in_s=again))
        lane = Lane.URGENT if urgent else Lane.CHANGE if noted else Lane.LOOK
        self._queue.add(turn.key, after=delay, since=turn.since, lane=lane)
        # That a peer can't be reached is told by other means, once for all.
        if now - since >= DEFERRED_FOR and not isinstance(error, Unreachable):
            why = f"reconciling it keeps failing: {error or 'unexpected error, see the log'}"
            for volume in self._index.of(turn.key):
                self._teller.lasts(volume, Later(Reason.FAILING, why), since_age=now - since)

    def _noted_most(self, resource: ResourceName) -> float:
        """The longest pause before the next attempt to end unfinished replacements of a resource:
        short for a volume that this instance has seen, and where there are as few as usual.
        """
        unfinished = self._replacer.unfinished
        if unfinished.has_seen_any(unfinished.of(resource)):
            return NOTED_MOST
        return NOTED_MOST * max(1.0, len(unfinished.pending) / NOTED_USUAL)

    async def look(self, turn: Turn[ResourceName]) -> None:
        """See where the data of one resource is now, and act on what follows for its volumes."""
        proceed, failed = await self._finish(turn)
        if not proceed:
            return
        if not self._index.of(turn.key) and turn.key not in self._picture.saved:
            self._no_volume(turn)
            if failed is not None:
                raise failed
            return
        definition, placement = await together(
            self._linstor.definition(turn.key), self._linstor.placement(turn.key)
        )
        await self._judge(turn, definition, placement)
        if failed is not None:
            raise failed

    async def answer(
        self, turn: Turn[ResourceName], definition: Definition, placement: Placement
    ) -> bool:
        """Judge by what a bulk read told, which writes nothing; False if that was not enough and
        a look of its own was asked for.
        """
        if not self._index.of(turn.key):
            self._no_volume(turn)
            return True
        if self._begun(turn.key) or not self._picture.knows_nodes_of(placement):
            self.look_alone(turn)
            return False
        await self._tried(turn, self._judge(turn, definition, placement))
        return True

    def look_alone(self, turn: Turn[ResourceName]) -> None:
        """Ask once more for a look that was not had, and that no read for many can stand in for."""
        self._queue.add(turn.key, since=turn.since, source=turn.source, alone=True)

    async def _judge(
        self,
        turn: Turn[ResourceName],
        definition: Definition | None,
        placement: Placement | None,
    ) -> None:
        await self._picture.know_nodes(placement)
        if definition is not None and definition.saved and self._leadership.leading:
            await self._saved_notes.take_over(definition)
            if self._replacer.unfinished.of(turn.key):
                self._queue.add(turn.key, lane=Lane.URGENT, since=turn.since)
                return
        log.debug(
            "look",
            extra=facts(
                rd=turn.key,
                told_by=turn.source or "nobody",
                waited_ms=round((asyncio.get_running_loop().time() - turn.since) * 1000, 1),
                data_on=",".join(sorted(placement.serving_nodes)) if placement else "unknown",
            ),
        )
        settled, failed = True, None
        for volume in tuple(self._index.of(turn.key)):
            case = self._picture.case(volume, definition, placement)
            verdict = decide(case)
            self._teller.duplicates(volume, case.twins)
            try:
                settled &= await self._act(turn, volume, verdict, definition, placement)
            except (Again, Refused) as error:
                # One volume's trouble must not keep its siblings from their turn.
                failed = error
        if failed is not None:
            raise failed
        self._second_looks.plan(turn, placement, settled=settled)

    def _no_volume(self, turn: Turn[ResourceName]) -> None:
        """Keep a hint until the watch has told of the volume that we have just made."""
        self._second_looks.forget(turn.key)
        age = asyncio.get_running_loop().time() - self._changed_at.get(turn.key, float("-inf"))
        if turn.hinted and age < NEWS_WITHIN:
            after = NEWS_SOON if age < NEWS_LATE else SECOND_LOOK
            self._queue.add(turn.key, after=after, since=turn.since, source=turn.source)

    def _begun(self, resource: ResourceName) -> list[PvName]:
        """Volumes of the resource that somebody is replacing, or was."""
        names = self._replacer.unfinished.of(resource)
        for volume in self._index.of(resource):
            if volume.marked and volume.name not in names:
                names.append(volume.name)
        return names

    async def _finish(self, turn: Turn[ResourceName]) -> tuple[bool, Again | Refused | None]:
        """Bring unfinished replacements of the resource to their end, without asking LINSTOR;
        answers whether to go on, and what to raise when all else is done: a note that can't be
        followed must not keep the other volumes of its resource from their turn.
        """
        names = self._begun(turn.key)
        if not names or not self._leadership.leading:
            return True, None
        if not self._queue.may_change(turn, urgent=True):
            self._queue.add(turn.key, lane=Lane.URGENT, since=turn.since, source=turn.source)
            return False, None
        failed: Again | Refused | None = None
        for name in names:
            try:
                await self._finish_one(turn, name)
            except (Again, Refused) as error:
                failed = error
        if failed is not None and not any(v.name not in names for v in self._index.of(turn.key)):
            raise failed
        return True, failed

    async def _finish_one(self, turn: Turn[ResourceName], name: PvName) -> None:
        begun = asyncio.get_running_loop().time()
        volume = self._index.get(name)
        ended = await self._replacer.resume(name)
        if isinstance(ended, LeftAlone):
            self._replacer.unfinished.left_alone(name, ended.others)
            return
        if isinstance(ended, Refusal):
            if volume is not None:
                self._teller.tell(volume, ended)
            else:
                log.error(
                    "note refused; nothing is done for it until it is mended or deleted",
                    extra=facts(pv=name, rd=turn.key, why=ended.why),
                )
            return
        took = asyncio.get_running_loop().time() - begun
        self._telemetry.changed("resume", str(ended), took, took)
        if ended in {Outcome.DONE, Outcome.KEPT, Outcome.UNWOUND}:
            self._picture.backoff.changed(name)
        log.info("unfinished replacement ended", extra=facts(pv=name, rd=turn.key, outcome=ended))
        # What the note wanted may be old by now, and what is known of the volume is for a moment.
        self._queue.add(turn.key, after=RESUMED_AGAIN, since=turn.since)

    async def _act(
        self,
        turn: Turn[ResourceName],
        volume: Volume,
        verdict: Verdict,
        definition: Definition | None,
        placement: Placement | None,
    ) -> bool:
        """Do what the verdict asks for; answers whether nothing was to be changed."""
        self._teller.tell(volume, verdict)
        match verdict:
            case Settled() | Skipped() | Refusal():
                self._patience.pop(volume.name, None)
                return True
            case Later():
                self._later(turn, volume, verdict)
                return True
            case Resume():
                # It was just brought to its end, or is another's to end; the index will tell.
                if self._leadership.leading:
                    self._wait(turn, volume, RESUMED_AGAIN)
                return False
            case Change():
                pass
        if not self._leadership.leading or self._queue.closed:
            return False
        if not self._queue.may_change(turn, urgent=verdict.urgent):
            lane = Lane.URGENT if verdict.urgent else Lane.CHANGE
            self._queue.add(turn.key, lane=lane, since=turn.since, source=turn.source)
            return False
        await self._change(turn, volume, definition, placement)
        return False

    async def _change(
        self,
        turn: Turn[ResourceName],
        cached: Volume,
        definition: Definition | None,
        placement: Placement | None,
    ) -> None:
        """Read the volume uncached, decide again, and only then write."""
        begun = asyncio.get_running_loop().time()
        pv, claim = await self._read(cached)
        if not self._leadership.leading or self._queue.closed:
            return
        volume = None if pv is None else self._volumes.describe(pv)
        if pv is None or volume is None:
            return
        verdict = decide(self._picture.case(volume, definition, placement))
        if not isinstance(verdict, Change) or volume.key != cached.key:
            self._not_after_all(turn, volume, verdict)
            return
        how, ended = await self._write(pv, claim, volume, verdict)
        if isinstance(ended, Later | Refusal):
            self._not_after_all(turn, volume, ended)
            return
        now = asyncio.get_running_loop().time()
        self._telemetry.changed(how, str(ended.outcome), now - begun, now - turn.since)
        self._telemetry.told_first(turn.source or "nobody")
        if ended.outcome in {Outcome.DONE, Outcome.KEPT}:
            if not ended.held_up:
                self._queue.places.learn((how, claim is not None), now - begun)
            self._patience.pop(volume.name, None)
            self._changed_at[turn.key] = now
            self._changed(volume, ended, verdict, how=how, took=now - turn.since)
        else:
            # Who undoes our marks each time would have us at it for ever.
            self._picture.backoff.changed(volume.name)
            log.info(
                "volume changed meanwhile; it is retried automatically",
                extra=facts(pv=volume.name, rd=volume.key, outcome=ended.outcome),
            )
            self._wait(turn, volume, SECOND_LOOK)

    def _changed(
        self, volume: Volume, ended: Ended, change: Change, *, how: str, took: float
    ) -> None:
        """Tell of a change that was made, and of how it came out."""
        backoff, now_there = self._picture.backoff, ended.volume or volume
        if AFFINITY_FIELD not in ended.different:
            backoff.changed(volume.name)
            self._teller.changed(volume, now_there, change, how=how, took=took)
            self._teller.came_out_different(now_there, ended.different)
            return
        backoff.changed(volume.name, different=_not_as_wanted(now_there, change))
        against = backoff.against(volume.name)
        if against is not None:
            self._teller.tell(now_there, against)

    async def _read(self, volume: Volume) -> tuple[Manifest | None, Manifest | None]:
        if volume.claim is None:
            return await self._volumes.read(volume.name), None
        return await together(
            self._volumes.read(volume.name), self._volumes.read_claim(volume.claim)
        )

    def _not_after_all(self, turn: Turn[ResourceName], volume: Volume, verdict: Verdict) -> None:
        self._teller.tell(volume, verdict)
        if isinstance(verdict, Later):
            self._later(turn, volume, verdict)
        elif not isinstance(verdict, Refusal | Settled):
            self._queue.add(turn.key, after=SECOND_LOOK, since=turn.since)

    def _later(self, turn: Turn[ResourceName], volume: Volume, verdict: Later) -> None:
        """Come back at the moment that is known, else after pauses that grow: a claim that is Lost
        for good must not be asked after for ever.
        """
        if verdict.after is None:
            return
        if verdict.reason is Reason.YOUNG:
            self._queue.add(turn.key, after=verdict.after, since=turn.since)
        else:
            self._wait(turn, volume, verdict.after)

    def _wait(self, turn: Turn[ResourceName], volume: Volume, least: float) -> None:
        if volume.name not in self._patience:
            self._patience[volume.name] = Backoff(
                first=least, most=PATIENCE_MOST, chance=self._chance
            )
        after = max(least, self._patience[volume.name].next())
        self._queue.add(turn.key, after=after, since=turn.since)

    async def _write(
        self, pv: Manifest, claim: Manifest | None, volume: Volume, change: Change
    ) -> tuple[str, Ended | Later | Refusal]:
        if change.in_place:
            try:
                made = await self._volumes.patch(volume.name, affinity_patch(pv, change.wanted))
            except Invalid as error:
                if not any("nodeAffinity" in field for field in error.fields):
                    return "patch", Refusal(Reason.NOT_ALLOWED, str(error))
                self._picture.cluster_refused_change()
            except Refused as error:
                return "patch", Refusal(Reason.NOT_ALLOWED, str(error))
            else:
                right = read_affinity(made["spec"]) == change.wanted
                different = () if right else (AFFINITY_FIELD,)
                return "patch", Ended(Outcome.DONE, self._volumes.describe(made), different)
        if volume.key is None:
            raise AssertionError("a volume without a key is never to be changed")
        return "replace", await self._replacer.replace(
            pv, claim, volume.key, change.wanted, urgent=change.urgent
        )


def _not_as_wanted(now_there: Volume, change: Change) -> str:
    return (
        f"its node affinity was set to {change.wanted} and came out as {now_there.affinity}: an "
        "admission policy or another program changed it on the way. It is left so and tried again "
        "after growing pauses of up to an hour; exempt the field manager linstor-affinity-events "
        "from that policy, or change it"
    )
