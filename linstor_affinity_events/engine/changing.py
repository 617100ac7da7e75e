"""Changes the node affinity of one volume, in place or by a replacement."""

import asyncio
import logging

from linstor_affinity_events.engine.coalescing_reader import Reading
from linstor_affinity_events.engine.components import Components
from linstor_affinity_events.engine.keyed_queue import WorkItem
from linstor_affinity_events.engine.ports import NO_TRIGGER
from linstor_affinity_events.engine.rechecks import RECHECK_AFTER
from linstor_affinity_events.engine.replacer import Ended
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.errors import Invalid, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.affinity import read_affinity
from linstor_affinity_events.model.decision import Change, Deferred, Reason, Refusal, decide
from linstor_affinity_events.model.manifest import Manifest, affinity_patch
from linstor_affinity_events.model.names import ResourceName
from linstor_affinity_events.model.recreation import AFFINITY_FIELD
from linstor_affinity_events.model.steps import OUTCOMES, Outcome
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)


class Changer:
    """Reads a volume uncached, decides again, and only then writes."""

    def __init__(self, components: Components) -> None:
        self._limit, self._cluster_view = components.changes, components.cluster_view
        self._replacer, self._retries, self._reporter = (
            components.replacer,
            components.retries,
            components.reporter,
        )
        self._volumes, self._may_begin = components.ports.volumes, components.may_begin
        self._telemetry = components.ports.telemetry
        self._preemption = components.preemption
        self._changed_at: dict[ResourceName, float] = {}

    def changed_at(self, resource: ResourceName) -> float:
        """When a volume of it was changed last, by the loop's clock."""
        return self._changed_at.get(resource, float("-inf"))

    def forget_before(self, moment: float) -> None:
        """Drop what is kept of older changes."""
        for resource in [name for name, at in self._changed_at.items() if at < moment]:
            del self._changed_at[resource]

    async def change(
        self,
        item: WorkItem[ResourceName],
        cached: Volume,
        reading: Reading,
        *,
        ahead: bool,
    ) -> None:
        """Read the volume uncached, decide again, and only then write. With `ahead`, others
        give way to it.
        """
        if ahead:
            with self._preemption.ahead(cached.name):
                await self._change(item, cached, reading)
        else:
            await self._preemption.give_way(cached.name)
            await self._change(item, cached, reading)

    async def _change(
        self,
        item: WorkItem[ResourceName],
        cached: Volume,
        reading: Reading,
    ) -> None:
        begun = asyncio.get_running_loop().time()
        pv, claim = await self._read(cached)
        if not self._may_begin():
            return
        volume = None if pv is None else self._volumes.describe(pv)
        if pv is None or volume is None:
            return
        decision = decide(self._cluster_view.case(volume, reading.definition, reading.placement))
        if not isinstance(decision, Change) or volume.key != cached.key:
            self._retries.not_changed(item, volume, decision)
            return
        how, ended = await self._write(pv, claim, volume, decision)
        if isinstance(ended, Deferred | Refusal):
            self._retries.not_changed(item, volume, ended)
            return
        now = asyncio.get_running_loop().time()
        trigger = item.source or NO_TRIGGER
        self._telemetry.changed(how, str(ended.outcome), now - begun, now - item.since, trigger)
        if ended.outcome in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN}:
            if how == "patch" or claim is None:
                self._limit.observe(0.0)
            self._retries.volume_in_sync(volume.name)
            self._changed_at[item.key] = now
            self._changed(item, volume, ended, decision, how=how, took=now - item.since)
        else:
            # Whoever undoes our replacement markers each time would cause an endless loop.
            self._cluster_view.backoff.changed(volume.name)
            log.info(
                "another client deleted the volume before or during its replacement: it is "
                "not recreated"
                if ended.outcome is Outcome.DELETED_BY_USER
                else (
                    "replacement ended without a change, because another client or "
                    "instance changed the volume. Its node affinity is checked again, and "
                    "changed if it is still wrong"
                ),
                extra=facts(
                    pv=volume.name,
                    resource=volume.key,
                    outcome=ended.outcome,
                    message=OUTCOMES[ended.outcome],
                ),
            )
            self._retries.wait(item, volume, RECHECK_AFTER)

    def _changed(
        self,
        item: WorkItem[ResourceName],
        volume: Volume,
        ended: Ended,
        change: Change,
        *,
        how: str,
        took: float,
    ) -> None:
        """Report a change that was made, and its result."""
        backoff, now_there = self._cluster_view.backoff, ended.volume or volume
        if AFFINITY_FIELD not in ended.different:
            backoff.changed(volume.name)
            trigger = item.source or NO_TRIGGER
            self._reporter.changed(volume, now_there, change, how=how, took=took, trigger=trigger)
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
        f"its node affinity was set to {change.wanted}, but is {now_there.affinity} now: an "
        "admission policy or another program changed it. The volume exists. The change is "
        "retried after delays that grow to an hour. Exempt the field manager "
        "linstor-affinity-events from that policy, or correct the policy"
    )
