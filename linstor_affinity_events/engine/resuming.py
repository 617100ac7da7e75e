"""Resumes the unfinished replacements of a resource, whoever began them."""

import asyncio
import logging

from linstor_affinity_events.engine.components import Components
from linstor_affinity_events.engine.keyed_queue import Priority, WorkItem
from linstor_affinity_events.engine.ports import NO_TRIGGER
from linstor_affinity_events.errors import Again, Refused, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.decision import Refusal
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.steps import OUTCOMES, LeaveAlone, Outcome

log = logging.getLogger(__name__)

RECHECK_RESUMED_AFTER = 1.0
RESUMED_AT_ONCE = 20
"""The most unfinished replacements that one work item resumes; there is hardly ever more than one
for a resource, unless others write the entries.
"""


class Resuming:
    """Finishes what is begun before anything else is decided for a resource."""

    def __init__(self, components: Components) -> None:
        self._queue, self._cluster_view = components.queue, components.cluster_view
        self._replacer, self._unfinished = components.replacer, components.replacer.unfinished
        self._retries, self._reporter = components.retries, components.reporter
        self._index, self._leadership = components.ports.index, components.ports.leadership
        self._telemetry = components.ports.telemetry

    def begun(self, resource: ResourceName) -> list[PvName]:
        """The volumes of the resource with an unfinished replacement."""
        marked = [volume.name for volume in self._index.of(resource) if volume.marked]
        return list(dict.fromkeys([*marked, *self._unfinished.of(resource)]))

    async def finish(self, item: WorkItem[ResourceName]) -> tuple[bool, Again | Refused | None]:
        """Finish the unfinished replacements of the resource, without asking LINSTOR.

        Returns whether to continue, and an error to raise at the end: a journal entry that can't
        be followed must not block the other volumes of the resource.
        """
        names, unfinished = self.begun(item.key), self._unfinished
        pause = self._retries.unfinished_most(item.key)
        due = unfinished.attempts.due(names, pause=pause, most=RESUMED_AT_ONCE + 1)
        if not due or not self._leads():
            return True, None
        urgent = unfinished.is_urgent(due)
        if not self._queue.may_change(item, urgent=urgent):
            priority = Priority.URGENT if urgent else Priority.CHANGE
            self._queue.add(item.key, priority=priority, since=item.since, source=item.source)
            return False, None
        failed: Again | Refused | None = None
        for name in due[:RESUMED_AT_ONCE]:
            if not self._leads():
                break
            unfinished.attempts.trying(name)
            key, absent = unfinished.pending.get(name), self._index.get(name) is None
            if key is not None and absent and not unfinished.knows_owner(name, key):
                failed = Unreachable("not all journal entries have been listed yet")
                continue
            try:
                await self._finish_one(item, name)
            except (Again, Refused) as error:
                failed = error
        if any(unfinished.attempts.waits(name) for name in due[RESUMED_AT_ONCE:]):
            self._queue.add(item.key, priority=Priority.CHANGE, since=item.since)
        known = frozenset(names)
        if failed is not None and known.issuperset(v.name for v in self._index.of(item.key)):
            raise failed
        return True, failed

    def _leads(self) -> bool:
        return self._leadership.leading

    async def _finish_one(self, item: WorkItem[ResourceName], name: PvName) -> None:
        begun = asyncio.get_running_loop().time()
        volume = self._index.get(name)
        ended = await self._replacer.resume(name)
        if isinstance(ended, LeaveAlone):
            self._unfinished.leave_alone(name, ended.why)
            return
        if isinstance(ended, Refusal):
            if volume is not None:
                self._reporter.report(volume, ended)
            else:
                log.error(
                    "journal entry is not valid and is ignored until it is corrected or "
                    "deleted. Its PersistentVolume is missing: check whether it should "
                    "exist, and who wrote the entry; see docs/reliability.md",
                    extra=facts(pv=name, resource=item.key, message=ended.why),
                )
            return
        took = asyncio.get_running_loop().time() - begun
        self._telemetry.changed("resume", str(ended), took, took, item.source or NO_TRIGGER)
        if ended in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN, Outcome.ROLLED_BACK}:
            self._cluster_view.backoff.changed(name)
        log.info(
            "nothing was to be done for an interrupted replacement: its journal entry was outdated"
            if ended is Outcome.SUPERSEDED
            else "resumed a replacement that was interrupted, and it has ended",
            extra=facts(pv=name, resource=item.key, outcome=ended, message=OUTCOMES[ended]),
        )
        # The entry may be outdated by now, and so is the index for a moment.
        self._queue.add(item.key, after=RECHECK_RESUMED_AFTER, since=item.since)
