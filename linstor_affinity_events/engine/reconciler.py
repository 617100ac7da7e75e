"""Reconciles one resource at a time: sets the node affinity of its volumes."""

import asyncio
import logging
import random
from collections.abc import Awaitable

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.cluster_view import ClusterView
from linstor_affinity_events.engine.keyed_queue import KeyedQueue, Priority, QueueClosed, WorkItem
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.rechecks import RECHECK_AFTER, Rechecks
from linstor_affinity_events.engine.replacer import Ended, Replacer
from linstor_affinity_events.engine.reporter import DEFERRED_FOR, Reporter
from linstor_affinity_events.engine.saved_volumes import SavedVolumes
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import Again, Conflict, Invalid, Refused, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.affinity import read_affinity
from linstor_affinity_events.model.decision import (
    Change,
    Decision,
    Deferred,
    InSync,
    Reason,
    Refusal,
    Resume,
    Skipped,
    decide,
)
from linstor_affinity_events.model.manifest import Manifest, affinity_patch
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.placement import Definition, Placement
from linstor_affinity_events.model.recreation import AFFINITY_FIELD
from linstor_affinity_events.model.steps import OUTCOMES, LeaveAlone, Outcome
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

RECHECK_RESUMED_AFTER = 1.0
WATCH_DELAY_FIRST, WATCH_DELAY_SHORT, WATCH_DELAY_MOST = 0.02, 5.0, 120.0
FAILED_FIRST, FAILED_MOST = 0.5, 300.0
UNFINISHED_MOST = 10.0
USUALLY_UNFINISHED = 50
"""There are hardly more journal entries than --workers. If there are more than this, others write
them, and the more there are, the less often those that fail are retried.
"""
RESUMED_AT_ONCE = 20
"""The most unfinished replacements that one work item resumes; there is hardly ever more than one
for a resource, unless others write the entries.
"""
RETRY_MOST = 60.0
NO_TRIGGER = "none"
"""In metrics: no event was received, and a full reconcile or a recheck found the change."""


class Reconciler:
    """Runs at most one reconcile per resource at a time, and retries a failed one with backoff."""

    def __init__(
        self,
        ports: Ports,
        *,
        queue: KeyedQueue[ResourceName],
        cluster_view: ClusterView,
        replacer: Replacer,
        saved_volumes: SavedVolumes,
        reporter: Reporter,
        chance: random.Random,
    ) -> None:
        self._queue, self._cluster_view, self._index = queue, cluster_view, ports.index
        self._linstor, self._volumes, self._replacer = ports.linstor, ports.volumes, replacer
        self._saved_volumes, self._leadership = saved_volumes, ports.leadership
        self._reporter, self._telemetry = reporter, ports.telemetry
        self._chance = chance
        self._failing: dict[ResourceName, Backoff] = {}
        self._failing_since: dict[ResourceName, float] = {}
        self._rechecks = Rechecks(queue)
        self._retry_delays: dict[PvName, Backoff] = {}
        self._changed_at: dict[ResourceName, float] = {}

    async def work(self) -> None:
        """Process work items until the queue closes. Only here are unexpected errors caught."""
        while True:
            try:
                async with self._queue.get() as item:
                    await self._work_on(item)
            except QueueClosed:
                return

    def remembered(self) -> int:
        """Number of entries kept between reconciles, for volumes and resources together."""
        own = len(self._failing) + len(self._rechecks) + len(self._retry_delays)
        return own + self._cluster_view.remembered()

    def forget_gone(self) -> None:
        """Drop the state kept for volumes and resources that no longer exist."""
        self._cluster_view.forget_gone()
        for name in [name for name in self._retry_delays if self._index.get(name) is None]:
            del self._retry_delays[name]
        known = self._index.resources()
        self._rechecks.keep(known)
        for resource in [name for name in self._failing if name not in known]:
            if not self._replacer.unfinished.of(resource):
                del self._failing[resource]
                self._failing_since.pop(resource, None)
        old = asyncio.get_running_loop().time() - WATCH_DELAY_MOST
        for resource in [name for name, at in self._changed_at.items() if at < old]:
            del self._changed_at[resource]

    async def _work_on(self, item: WorkItem[ResourceName]) -> None:
        await self._tried(item, self.reconcile(item))

    async def _tried(self, item: WorkItem[ResourceName], work: Awaitable[None]) -> None:
        """Run the work of an item, and requeue the item if it fails."""
        try:
            await work
        except Again as error:
            self._failed(item, error, after=error.after)
        except Refused as error:
            self._failed(item, error, after=FAILED_MOST / 10)
        except Exception:
            log.exception(
                "unexpected error while reconciling; it is retried. Please report this",
                extra=facts(resource=item.key),
            )
            self._failed(item, None, after=FAILED_MOST / 10)
        else:
            self._failing.pop(item.key, None)
            self._failing_since.pop(item.key, None)

    def _failed(
        self, item: WorkItem[ResourceName], error: Exception | None, after: float | None
    ) -> None:
        unfinished = bool(self._replacer.unfinished.of(item.key))
        most = self._unfinished_most(item.key) if unfinished else FAILED_MOST
        first = item.key not in self._failing
        now = asyncio.get_running_loop().time()
        since = self._failing_since.setdefault(item.key, now)
        if first:
            self._failing[item.key] = Backoff(first=FAILED_FIRST, most=most, chance=self._chance)
        delay = max(self._failing[item.key].next(), after or 0.0)
        urgent = unfinished and most == UNFINISHED_MOST
        if unfinished:
            delay = min(delay, most) if urgent else most
        self._telemetry.reconcile_failed("Unexpected" if error is None else type(error).__name__)
        if error is not None:
            # A conflict is expected when somebody else writes first; a lasting failure was logged
            # when it began.
            expected = isinstance(error, Conflict) or not first
            level = logging.DEBUG if expected else logging.WARNING
            again = round(delay, 1)
            log.log(
                level,
                "reconcile failed while a replacement is unfinished; it is retried until the "
                "volume is complete"
                if unfinished
                else "reconcile failed; it is retried. No volume is absent",
                extra=facts(resource=item.key, error=error, retry_in_s=again),
            )
        priority = (
            Priority.URGENT if urgent else Priority.CHANGE if unfinished else Priority.RECONCILE
        )
        self._queue.add(
            item.key, after=delay, since=item.since, source=item.source, priority=priority
        )
        # An unreachable API is reported elsewhere, once for all volumes.
        if now - since >= DEFERRED_FOR and not isinstance(error, Unreachable):
            why = f"reconciling it keeps failing: {error or 'unexpected error, see the log'}"
            for volume in self._index.of(item.key):
                self._reporter.report_lasting(
                    volume, Deferred(Reason.FAILING, why), since_age=now - since
                )

    def _unfinished_most(self, resource: ResourceName) -> float:
        """The longest delay before unfinished replacements of a resource are retried: short for a
        volume that this instance has observed, and if there are no more than usual.
        """
        unfinished = self._replacer.unfinished
        if unfinished.has_observed_any(unfinished.of(resource)):
            return UNFINISHED_MOST
        return UNFINISHED_MOST * max(1.0, len(unfinished.pending) / USUALLY_UNFINISHED)

    async def reconcile(self, item: WorkItem[ResourceName]) -> None:
        """Read where the data of one resource is now, decide on its volumes, and act."""
        proceed, failed = await self._finish(item)
        if not proceed:
            return
        if not self._index.of(item.key) and item.key not in self._cluster_view.saved:
            self._no_volume(item)
            if failed is not None:
                raise failed
            return
        definition, placement = await together(
            self._linstor.definition(item.key), self._linstor.placement(item.key)
        )
        await self._decide(item, definition, placement)
        if failed is not None:
            raise failed

    async def reconcile_from_batch(
        self, item: WorkItem[ResourceName], definition: Definition, placement: Placement
    ) -> bool:
        """Decide from a bulk read, and write nothing. Returns False if the item needs a single
        reconcile and was requeued for it.
        """
        if not self._index.of(item.key):
            self._no_volume(item)
            return True
        if self._begun(item.key) or not self._cluster_view.knows_nodes_of(placement):
            self.requeue_unbatchable(item)
            return False
        await self._tried(item, self._decide(item, definition, placement))
        return True

    def requeue_unbatchable(self, item: WorkItem[ResourceName]) -> None:
        """Requeue an item for a single reconcile that no bulk read may replace."""
        self._queue.add(item.key, since=item.since, source=item.source, unbatchable=True)

    async def _decide(
        self,
        item: WorkItem[ResourceName],
        definition: Definition | None,
        placement: Placement | None,
    ) -> None:
        await self._cluster_view.ensure_nodes(placement)
        if definition is not None and definition.saved and self._leadership.leading:
            known = frozenset(self._replacer.unfinished.of(item.key))
            await self._saved_volumes.take_over(definition)
            # Only for what was taken over just now: an older entry that can't be finished must not
            # keep the volumes of the resource waiting, nor have it reconciled without a pause.
            if not known.issuperset(self._replacer.unfinished.of(item.key)):
                self._queue.add(item.key, priority=Priority.URGENT, since=item.since)
                return
        log.debug(
            "reconciling",
            extra=facts(
                resource=item.key,
                trigger=item.source or NO_TRIGGER,
                waited_ms=round((asyncio.get_running_loop().time() - item.since) * 1000, 1),
                data_on=",".join(sorted(placement.serving_nodes)) if placement else "unknown",
            ),
        )
        in_sync, failed = True, None
        for volume in tuple(self._index.of(item.key)):
            case = self._cluster_view.case(volume, definition, placement)
            decision = decide(case)
            self._reporter.duplicates(volume, case.duplicates)
            try:
                in_sync &= await self._act(item, volume, decision, definition, placement)
            except (Again, Refused) as error:
                # A failure of one volume must not block the others of the resource.
                failed = error
        if failed is not None:
            raise failed
        self._rechecks.plan(item, placement, in_sync=in_sync)

    def _no_volume(self, item: WorkItem[ResourceName]) -> None:
        """Keep a trigger until the watch reports the volume that we have just created."""
        self._rechecks.forget(item.key)
        age = asyncio.get_running_loop().time() - self._changed_at.get(item.key, float("-inf"))
        if item.trigger and age < WATCH_DELAY_MOST:
            after = WATCH_DELAY_FIRST if age < WATCH_DELAY_SHORT else RECHECK_AFTER
            self._queue.add(item.key, after=after, since=item.since, source=item.source)

    def _begun(self, resource: ResourceName) -> list[PvName]:
        """The volumes of the resource with an unfinished replacement, whoever began it."""
        marked = [volume.name for volume in self._index.of(resource) if volume.marked]
        return list(dict.fromkeys([*marked, *self._replacer.unfinished.of(resource)]))

    async def _finish(self, item: WorkItem[ResourceName]) -> tuple[bool, Again | Refused | None]:
        """Finish the unfinished replacements of the resource, without asking LINSTOR.

        Returns whether to continue, and an error to raise at the end: a journal entry that can't
        be followed must not block the other volumes of the resource.
        """
        names, unfinished = self._begun(item.key), self._replacer.unfinished
        due = unfinished.due(names, pause=self._unfinished_most(item.key))
        if not due or not self._leadership.leading:
            return True, None
        urgent = not unfinished.all_left_alone(due)
        if not self._queue.may_change(item, urgent=urgent):
            priority = Priority.URGENT if urgent else Priority.CHANGE
            self._queue.add(item.key, priority=priority, since=item.since, source=item.source)
            return False, None
        failed: Again | Refused | None = None
        for name in due[:RESUMED_AT_ONCE]:
            unfinished.trying(name)
            key, absent = unfinished.pending.get(name), self._index.get(name) is None
            if key is not None and absent and not unfinished.can_tell_owner(name, key):
                failed = Unreachable("not all journal entries have been listed yet")
                continue
            try:
                await self._finish_one(item, name)
            except (Again, Refused) as error:
                failed = error
        if any(unfinished.waits(name) for name in due[RESUMED_AT_ONCE:]):
            self._queue.add(item.key, priority=Priority.CHANGE, since=item.since)
        if failed is not None and not any(v.name not in names for v in self._index.of(item.key)):
            raise failed
        return True, failed

    async def _finish_one(self, item: WorkItem[ResourceName], name: PvName) -> None:
        begun = asyncio.get_running_loop().time()
        volume = self._index.get(name)
        ended = await self._replacer.resume(name)
        if isinstance(ended, LeaveAlone):
            self._replacer.unfinished.left_alone(name, ended.why)
            return
        if isinstance(ended, Refusal):
            if volume is not None:
                self._reporter.report(volume, ended)
            else:
                log.error(
                    "journal entry is not valid and is ignored until it is "
                    "corrected or deleted; find out who wrote it",
                    extra=facts(pv=name, resource=item.key, message=ended.why),
                )
            return
        took = asyncio.get_running_loop().time() - begun
        self._telemetry.changed("resume", str(ended), took, took, item.source or NO_TRIGGER)
        if ended in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN, Outcome.ROLLED_BACK}:
            self._cluster_view.backoff.changed(name)
        log.info(
            "unfinished replacement ended",
            extra=facts(pv=name, resource=item.key, outcome=ended, message=OUTCOMES[ended]),
        )
        # The entry may be outdated by now, and so is the index for a moment.
        self._queue.add(item.key, after=RECHECK_RESUMED_AFTER, since=item.since)

    async def _act(
        self,
        item: WorkItem[ResourceName],
        volume: Volume,
        decision: Decision,
        definition: Definition | None,
        placement: Placement | None,
    ) -> bool:
        """Act on a decision. Returns whether nothing had to be changed."""
        self._reporter.report(volume, decision)
        match decision:
            case InSync() | Skipped() | Refusal():
                self._retry_delays.pop(volume.name, None)
                return True
            case Deferred():
                self._defer(item, volume, decision)
                return True
            case Resume():
                # It was just finished, or another instance finishes it; the index follows.
                if self._leadership.leading:
                    self._wait(item, volume, RECHECK_RESUMED_AFTER)
                return False
            case Change():
                pass
        if not self._leadership.leading or self._queue.closed:
            return False
        if not self._queue.may_change(item, urgent=decision.urgent):
            priority = Priority.URGENT if decision.urgent else Priority.CHANGE
            self._queue.add(item.key, priority=priority, since=item.since, source=item.source)
            return False
        await self._change(item, volume, definition, placement)
        return False

    async def _change(
        self,
        item: WorkItem[ResourceName],
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
        decision = decide(self._cluster_view.case(volume, definition, placement))
        if not isinstance(decision, Change) or volume.key != cached.key:
            self._not_changed(item, volume, decision)
            return
        how, ended = await self._write(pv, claim, volume, decision)
        if isinstance(ended, Deferred | Refusal):
            self._not_changed(item, volume, ended)
            return
        now = asyncio.get_running_loop().time()
        trigger = item.source or NO_TRIGGER
        self._telemetry.changed(how, str(ended.outcome), now - begun, now - item.since, trigger)
        if ended.outcome in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN}:
            if not ended.held_up:
                self._queue.concurrency_limit.observe((how, claim is not None), now - begun)
            self._retry_delays.pop(volume.name, None)
            self._changed_at[item.key] = now
            self._changed(volume, ended, decision, how=how, took=now - item.since)
        else:
            # Whoever undoes our replacement markers each time would cause an endless loop.
            self._cluster_view.backoff.changed(volume.name)
            log.info(
                "volume was changed by another client during its replacement; it is retried",
                extra=facts(
                    pv=volume.name,
                    resource=volume.key,
                    outcome=ended.outcome,
                    message=OUTCOMES[ended.outcome],
                ),
            )
            self._wait(item, volume, RECHECK_AFTER)

    def _changed(
        self, volume: Volume, ended: Ended, change: Change, *, how: str, took: float
    ) -> None:
        """Report a change that was made, and its result."""
        backoff, now_there = self._cluster_view.backoff, ended.volume or volume
        if AFFINITY_FIELD not in ended.different:
            backoff.changed(volume.name)
            self._reporter.changed(volume, now_there, change, how=how, took=took)
            self._reporter.created_different(now_there, ended.different)
            return
        backoff.changed(volume.name, different=_not_as_wanted(now_there, change))
        against = backoff.against(volume.name)
        if against is not None:
            self._reporter.report(now_there, against)

    async def _read(self, volume: Volume) -> tuple[Manifest | None, Manifest | None]:
        if volume.claim is None:
            return await self._volumes.read(volume.name), None
        return await together(
            self._volumes.read(volume.name), self._volumes.read_claim(volume.claim)
        )

    def _not_changed(
        self, item: WorkItem[ResourceName], volume: Volume, decision: Decision
    ) -> None:
        self._reporter.report(volume, decision)
        if isinstance(decision, Deferred):
            self._defer(item, volume, decision)
        elif not isinstance(decision, Refusal | InSync):
            self._queue.add(item.key, after=RECHECK_AFTER, since=item.since)

    def _defer(self, item: WorkItem[ResourceName], volume: Volume, decision: Deferred) -> None:
        """Requeue at the known time, else with growing delays: a claim that stays Lost must not be
        read frequently forever.
        """
        if decision.after is None:
            return
        if decision.reason is Reason.YOUNG:
            self._queue.add(item.key, after=decision.after, since=item.since)
        else:
            self._wait(item, volume, decision.after)

    def _wait(self, item: WorkItem[ResourceName], volume: Volume, least: float) -> None:
        if volume.name not in self._retry_delays:
            self._retry_delays[volume.name] = Backoff(
                first=least, most=RETRY_MOST, chance=self._chance
            )
        after = max(least, self._retry_delays[volume.name].next())
        self._queue.add(item.key, after=after, since=item.since)

    async def _write(
        self, pv: Manifest, claim: Manifest | None, volume: Volume, change: Change
    ) -> tuple[str, Ended | Deferred | Refusal]:
        if change.in_place:
            try:
                made = await self._volumes.patch(volume.name, affinity_patch(pv, change.wanted))
            except Invalid as error:
                if not any("nodeAffinity" in field for field in error.fields):
                    return "patch", Refusal(Reason.NOT_ALLOWED, str(error))
                self._cluster_view.cluster_refused_change()
            except Refused as error:
                return "patch", Refusal(Reason.NOT_ALLOWED, str(error))
            else:
                as_wanted = read_affinity(made["spec"]) == change.wanted
                different = () if as_wanted else (AFFINITY_FIELD,)
                return "patch", Ended(Outcome.DONE, self._volumes.describe(made), different)
        if volume.key is None:
            raise AssertionError("a volume without a key is never changed")
        return "replace", await self._replacer.replace(
            pv, claim, volume.key, change.wanted, urgent=change.urgent
        )


def _not_as_wanted(now_there: Volume, change: Change) -> str:
    return (
        f"its node affinity was set to {change.wanted} but is "
        f"{now_there.affinity} now: an admission policy or another program "
        "changed it. It is retried after growing delays of up to an hour. Exempt "
        "the field manager linstor-affinity-events from that policy, or correct "
        "the policy"
    )
