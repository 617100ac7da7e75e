"""One replacement run: takes the steps that the model chooses, and reports their results to it."""

import asyncio
import logging
from dataclasses import replace
from typing import assert_never

from linstor_affinity_events.engine.after_recreation import verified
from linstor_affinity_events.engine.claim_at_rest import ClaimAtRest, is_at_rest
from linstor_affinity_events.engine.observing import knows_original, observed_again, with_knowledge
from linstor_affinity_events.engine.overlapping_writes import marked_and_saved, removed_and_created
from linstor_affinity_events.engine.ports import VolumeWatch
from linstor_affinity_events.engine.run_dependencies import RunDependencies
from linstor_affinity_events.engine.stray_markers import unmark_in_run
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import Again, Conflict, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.advance import advance, after_removal, following
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import (
    Manifest,
    is_later,
    is_terminating,
    uid_of,
    version_of,
)
from linstor_affinity_events.model.progress import Failed, Finished, Progress, having_come_back
from linstor_affinity_events.model.results import (
    BinderAwaited,
    ClaimRead,
    Done,
    Dropped,
    Failure,
    Postponed,
    Recreated,
    Result,
    Saved,
    Written,
)
from linstor_affinity_events.model.steps import (
    AwaitBinder,
    Create,
    Delete,
    DetachClaimRef,
    Drop,
    LeaveAlone,
    Mark,
    MarkAndSave,
    Observe,
    Outcome,
    ReadClaim,
    Remove,
    Save,
    Step,
    Unmark,
    UnmarkWithoutEntry,
)

log = logging.getLogger(__name__)

RELIED_ON_AFTER = 60.0
"""After this time a user may rely on policy Retain of a marked volume."""

CLAIM_FRESH_FOR = 0.1


class ReplacementRun:
    """Takes one replacement from the observed state to its end."""

    def __init__(
        self,
        dependencies: RunDependencies,
        progress: Progress,
        volume_watch: VolumeWatch,
        *,
        began: float | None = None,
    ) -> None:
        """`began` is that of a run in the same term of leadership that this one continues."""
        self.term = dependencies.unfinished.term
        self._dependencies, self.progress = dependencies, progress
        self.volume_watch = volume_watch
        self._clock = asyncio.get_running_loop().time
        self.began = self._clock() if began is None else began
        self._at_rest = ClaimAtRest(dependencies.volumes)

    async def run(self) -> Outcome | LeaveAlone:
        """Take all steps. Raises an error from which a later reconcile starts again."""
        delays = self._dependencies.delays()
        while True:
            step, result = await self._next()
            after = advance(self.progress, step, result)
            self.progress = after if isinstance(after, Progress) else after.progress
            match after:
                case Finished():
                    return _finished(self._dependencies.unfinished, after)
                case Failed():
                    raise _failed(self._dependencies.unfinished, after)
            if isinstance(result, Failure):
                _log(step, after, result.error)
                if isinstance(result.error, Again) and not isinstance(result.error, Conflict):
                    await asyncio.sleep(max(delays.next(), result.error.after or 0.0))

    async def _next(self) -> tuple[Step, Result]:
        """Choose a step, take it, and return both it and its result."""
        step: Step = Observe()
        self.progress = informed(self.progress, self.volume_watch)
        try:
            if not self.progress.outdated:
                await self._add_knowledge()
            step, pv = following(self.progress), self.progress.entry.pv
            # Nothing may delay an absent volume, and the claim was just read for Remove.
            present = self.progress.observation.pv is not None and not self.progress.outdated
            if present and not isinstance(step, Remove):
                await self._dependencies.preemption.give_way(pv)
            log.debug("replacement step", extra=facts(pv=pv, step=type(step).__name__))
            return step, await self._take(step)
        except (Again, Refused) as error:
            return step, Failure(error)

    async def _add_knowledge(self) -> None:
        """Add to the observation what this instance knows besides."""
        progress = self.progress
        own = progress.own and progress.observation.taken
        alone = await knows_original(self._dependencies, progress)
        run = replace(
            progress.run,
            uninterrupted=own and self._is_recent and alone,
            led_throughout=progress.run.begun and self._same_term and alone,
            allowed_finalizers=self._dependencies.allowed_finalizers,
        )
        observation = progress.observation
        if progress.rejected is None:
            known = run.begun and self._is_alone
            observation = with_knowledge(
                self._dependencies,
                progress.entry,
                observation,
                owner_known=known,
                begun=run.begun,
            )
        self.progress = replace(progress, run=run, observation=observation)

    @property
    def _is_recent(self) -> bool:
        return self._clock() - self.began < RELIED_ON_AFTER

    @property
    def _same_term(self) -> bool:
        return self.term == self._dependencies.unfinished.term

    @property
    def _is_alone(self) -> bool:
        """Whether no other instance may have led since this run began, or only for a moment."""
        return self._same_term or self._is_recent

    @property
    def _pv(self) -> Manifest:
        if self.progress.observation.pv is None:
            raise AssertionError("this step is only chosen for a volume that is there")
        return self.progress.observation.pv

    async def _take(self, step: Step) -> Result:
        match step:
            case Observe():
                return await observed_again(
                    self._dependencies,
                    self.progress,
                    first_hand=self._is_alone,
                    same_term=self._same_term,
                )
            case Mark() | DetachClaimRef() | Unmark() | Delete() | Create():
                return await self._write(step)
            case Save(changed):
                return await self._save(changed)
            case MarkAndSave(patch, changed):
                entry = self.progress.taking(changed)
                return await marked_and_saved(self._dependencies, patch, entry)
            case AwaitBinder():
                return await self._await_binder()
            case ReadClaim():
                return await self._read_claim_at_rest()
            case Remove():
                return await self._remove()
            case Drop():
                return await self._drop(step)
            case UnmarkWithoutEntry():
                return await unmark_in_run(self._dependencies, self.progress, alone=self._is_alone)
            case LeaveAlone():
                return Done(step)
            case _:
                assert_never(step)

    async def _write(
        self, step: Mark | DetachClaimRef | Unmark | Delete | Create
    ) -> Written | Recreated:
        name, volumes = self.progress.entry.pv, self._dependencies.volumes
        match step:
            case Delete():
                return Written(await volumes.delete(self._pv))
            case Create(body):
                self._dependencies.unfinished.absent.gone(name)
                made = await volumes.create(body)
                self._dependencies.unfinished.absent.present(name)
                return Recreated(pv=made, asked_for=body)
            case Mark(patch) | DetachClaimRef(patch) | Unmark(patch):
                return Written(await volumes.patch(name, patch))

    async def _save(self, entry: JournalEntry) -> Saved:
        """Save an entry, or create it if it was taken away. An entry never asks for what Kubernetes
        refuses: who resumes it has nothing else.
        """
        journal, volumes = self._dependencies.journal, self._dependencies.volumes
        pv, ours = self.progress.observation.pv, self.progress.taking(entry)
        if entry.wanted != self.progress.entry.wanted and pv is not None and is_terminating(pv):
            await volumes.dry_run_creation(entry.wanted)
        return Saved(await (journal.save(ours) if entry.version else journal.create(ours)))

    async def _drop(self, step: Drop) -> Dropped:
        await verified(self._dependencies, self.progress, step, self.volume_watch)
        if step.outcome is Outcome.RECREATED_WITH_RETAIN:
            self._dependencies.unfinished.absent.report_retained(self.progress.entry.wanted)
        await self._dependencies.journal.drop(self.progress.entry)
        return Dropped()

    async def _await_binder(self) -> BinderAwaited:
        """Wait for the binder and read the claim meanwhile, which is outdated after a long wait."""
        entry, guard = self.progress.entry, self._dependencies.guard
        began = self._clock()
        (pv, in_time), claim = await together(
            guard.until_released(entry, self._pv, self.volume_watch), self._read_claim()
        )
        quick = self._clock() - began < CLAIM_FRESH_FOR
        fresh = quick and is_at_rest(claim, self.progress.claim_before)
        return BinderAwaited(pv=pv, in_time=in_time, claim=claim, fresh=fresh)

    async def _read_claim(self) -> Manifest | None:
        claim = self.progress.entry.claim
        return None if claim is None else await self._dependencies.volumes.read_claim(claim)

    async def _read_claim_at_rest(self) -> ClaimRead:
        claim, before = self.progress.entry.claim, self.progress.claim_before
        return ClaimRead(None if claim is None else await self._at_rest.read(claim, before))

    async def _remove(self) -> Postponed | Recreated:
        """Remove and create the volume, unless the binder was about to check all claims."""
        entry, avoid = self.progress.entry, self._dependencies.guard.avoid_resync
        if entry.user and (postponed := await avoid(self._pv, entry, self.volume_watch)):
            return postponed
        then = after_removal(self.progress)
        if not isinstance(then, Create):
            raise TypeError("the claim is read before the volume is removed")
        self._dependencies.unfinished.originals.removing(entry.pv)
        made = await removed_and_created(self._dependencies.volumes, self._pv, then.body)
        absent = self._dependencies.unfinished.absent
        (absent.gone if made is None else absent.present)(entry.pv)
        return Recreated(pv=made, asked_for=then.body)


def _finished(unfinished: Unfinished, end: Finished) -> Outcome | LeaveAlone:
    pv = end.progress.entry.pv
    if end.outcome is None:
        unfinished.without_entry(pv)
        return Outcome.SUPERSEDED
    if not isinstance(end.outcome, LeaveAlone):
        unfinished.ended(pv)
    else:
        unfinished.absent.blocking.discard(pv)
    return end.outcome


def _failed(unfinished: Unfinished, end: Failed) -> Again | Refused:
    entry = end.progress.entry
    if end.rolled_back:
        unfinished.ended(entry.pv)
    elif end.stuck and isinstance(end.error, Refused):
        unfinished.absent.mark_stuck(entry, end.error, blocking=end.blocking)
    return end.error


def informed(progress: Progress, watch: VolumeWatch) -> Progress:
    """The progress of a run whose watch may have shown a later incarnation of the volume. One that
    is behind shows earlier ones.
    """
    came_back = any(
        pv is not None
        and uid_of(pv) != progress.entry.uid
        and is_later(version_of(pv), progress.seen_version)
        for pv in (watch.latest, watch.gone)
    )
    return having_come_back(progress) if came_back else progress


def _log(step: Step, after: Progress, error: Again | Refused) -> None:
    """Log an error after which the replacement continues in another way."""
    about = facts(pv=after.entry.pv, error=error)
    match step:
        case _ if not isinstance(error, Refused):
            log.debug("replacement step failed; observing again", extra=about)
        case DetachClaimRef():
            log.warning(
                "the API server rejects a change of the claimRef that protects the claim "
                "during the replacement: the volume is replaced all the same. Its claim "
                "may be Lost for a moment; no data is affected",
                extra=about,
            )
        case Create():
            log.warning(
                "Kubernetes rejects the volume with the changes that others made during "
                "its replacement: it is recreated now without these changes, and they are "
                "tried afterwards. No data is affected",
                extra=about,
            )
