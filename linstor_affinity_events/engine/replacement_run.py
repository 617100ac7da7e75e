"""One replacement on its way: takes the steps of model/replacement.py, sorts their failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import assert_never

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.late_write import carry_over_late_write
from linstor_affinity_events.engine.ports import Index, Journal, Volumes, VolumeWatch
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import Again, Conflict, Refused, Stalled, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.decision import Reason, Refusal
from linstor_affinity_events.model.demands import Demands, demands_of
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.keys import FINALIZER, MARKER_ANNOTATION
from linstor_affinity_events.model.manifest import (
    Before,
    Manifest,
    claim_of,
    created_different,
    has_any_marker,
    is_marked,
    is_terminating,
    marker_of,
    name_of,
    phase_of,
    skip_reclaim_of,
    uid_of,
    unmarking,
)
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.replacement import (
    AwaitBinder,
    Create,
    Delete,
    DetachClaimRef,
    Drop,
    Mark,
    Observation,
    Outcome,
    ReadClaim,
    Remove,
    Save,
    Step,
    Unmark,
    next_step,
    rolled_back,
)

log = logging.getLogger(__name__)

MAX_STEPS = 60
"""A replacement takes about twelve. Something that undoes what we do (an admission webhook that
strips finalizers, say) must not keep us at it for ever.
"""

RELIED_ON_AFTER = 60.0
"""How long the marks may stand before somebody may have taken policy Retain for their own."""

CLAIM_FRESH_FOR = 0.1
AFFINITY_FIELD = "spec.nodeAffinity"
CREATE_ATTEMPTS = 10
"""How often a volume's like is asked for while the old one goes."""

MAX_CONFLICTS = 5
MAX_FAILURES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What every replacement of this instance goes by."""

    volumes: Volumes
    index: Index
    journal: Journal
    guard: ClaimGuard
    unfinished: Unfinished
    delays: Callable[[], Backoff]
    holder: str
    """The name that this instance writes on notes."""


async def observe(
    dependencies: Dependencies, name: PvName
) -> tuple[Manifest | None, JournalEntry | None]:
    """Read the volume and its note, neither older than what the other makes of it.

    A note read after the volume was gone is the last one written before it went; a volume
    read after its note said `deleting` shows what was done by then.
    """
    pv = await dependencies.volumes.read(name)
    entry = await dependencies.journal.read(name)
    if pv is None or entry is None or entry.state is State.PREPARED:
        return pv, entry
    pv = await dependencies.volumes.read(name)
    return pv, entry if pv is not None else await dependencies.journal.read(name)


def confirmed(
    dependencies: Dependencies, entry: JournalEntry, observation: Observation
) -> Observation:
    """The same sight, with what tells whether the volume may ask for more than to hold data.
    Raises Unreachable where that is not known yet.
    """
    if observation.pv is not None and uid_of(observation.pv) == entry.uid:
        dependencies.unfinished.observed(observation.pv)
    demands, original = demands_of(entry.wanted), dependencies.unfinished.original(entry)
    if demands in {Demands(), original and original.demands}:
        return replace(observation, original=original)
    if not dependencies.index.classes_known:
        raise Unreachable(f"the StorageClass of {entry.pv} is not known yet")
    name = str(entry.wanted["spec"].get("storageClassName") or "")
    return replace(
        observation, original=original, storage_class=dependencies.index.storage_class(name)
    )


async def unmark_without_entry(
    dependencies: Dependencies, pv: Manifest | None, *, own: Before | None = None
) -> Outcome | Refusal:
    """Take our marks off a live volume whose note is gone. They say what was there before, but so
    can anybody who may write annotations: unless this very run has set them (`own`), policy Retain
    stays, with what they say in an annotation.
    """
    if pv is None or not has_any_marker(pv):
        return Outcome.SUPERSEDED
    if is_terminating(pv):
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            f"it is being deleted, held by finalizer {FINALIZER}, and the note of its "
            "replacement is gone; see docs/reliability.md before you remove the finalizer",
        )
    if is_marked(pv) and marker_of(pv) is None:
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            f"it wears finalizer {FINALIZER}, and neither a note nor annotation "
            f"{MARKER_ANNOTATION} tells what to restore; see docs/reliability.md",
        )
    # Its claim went while it said Retain, which somebody may have relied on.
    unmarked = unmarking(pv, keep=own is None or not await _in_use(dependencies, pv), own=own)
    await dependencies.volumes.patch(name_of(pv), unmarked.patch)
    if not unmarked.retained:
        return Outcome.ROLLED_BACK
    dependencies.unfinished.retained(pv)
    return Outcome.RECREATED_WITH_RETAIN


async def _in_use(dependencies: Dependencies, pv: Manifest) -> bool:
    """Whether the claim of a live volume is there and stays; without one it is used as ever."""
    named = claim_of(pv)
    if named is None or not named.uid:
        return True
    claim = await dependencies.volumes.read_claim(named)
    there = claim is not None and uid_of(claim) == named.uid and not is_terminating(claim)
    return there and phase_of(pv) == "Bound"


class ReplacementRun:
    """One replacement on its way from whatever is there to its end."""

    def __init__(
        self,
        dependencies: Dependencies,
        entry: JournalEntry,
        observation: Observation,
        volume_watch: VolumeWatch,
        *,
        own: bool = False,
    ) -> None:
        self._dependencies = dependencies
        self.entry, self.observation, self.volume_watch = entry, observation, volume_watch
        self.deleting_version = ""
        """The version of the note with which this walk, as the first of all, is about to delete."""
        self.asked = False
        """Whether a deletion that we asked for may have taken effect."""
        self.removed = False
        """Whether a removal that we asked for may have taken effect."""
        self.steps = self.conflicts = self.failures = 0
        self.outcome: Outcome | None = None
        self.must_observe = False
        """Whether what was seen last may be old."""
        self.finished = False
        self.own = own
        """Whether all that was done so far was done in this run."""
        self._wrote = self._tried = replace(entry, version="")
        self.different: tuple[str, ...] = ()
        """The parts of the volume that came out otherwise than was asked for."""
        self._asked_for: Manifest | None = None
        self._before: Manifest | None = None
        """The claim as it was seen last before the volume went."""
        self._begun = asyncio.get_running_loop().time()
        self._waited = False

    @property
    def held_up(self) -> bool:
        """Whether it waited for something that more at a time would not have waited longer for."""
        return self._waited or self.observation.guard_over or self.failures > 0

    async def run(self) -> Outcome:
        """Take step after step; raises what a later look has to begin from anew."""
        delays = self._dependencies.delays()
        while not self.finished:
            try:
                if self.must_observe:
                    await self._observe_again()
                else:
                    await self._step()
            except Conflict as error:
                self.conflicts += 1
                if self.conflicts > MAX_CONFLICTS:
                    raise
                self.must_observe = True
                log.debug("replacement conflict", extra=facts(pv=self.entry.pv, why=error))
            except Stalled:
                raise
            except Again as error:
                # Once it may be deleted we don't let go easily; before, a later look begins anew.
                self.failures += 1
                if self.entry.state is State.PREPARED or self.failures > MAX_FAILURES:
                    raise
                self.must_observe = True
                await asyncio.sleep(max(delays.next(), error.after or 0.0))
        self._dependencies.unfinished.ended(self.entry.pv)
        return self.outcome or Outcome.SUPERSEDED

    @property
    def _uninterrupted(self) -> bool:
        age = asyncio.get_running_loop().time() - self._begun
        return self.own and self.observation.taken and age < RELIED_ON_AFTER

    async def _step(self) -> None:
        self.observation = confirmed(
            self._dependencies,
            self.entry,
            replace(self.observation, uninterrupted=self._uninterrupted),
        )
        step = next_step(self.entry, self.observation)
        self.steps += 1
        if self.steps > MAX_STEPS:
            name = type(step).__name__
            raise Stalled(f"replacing {self.entry.pv} gets nowhere: {name} has no effect")
        log.debug("replacement step", extra=facts(pv=self.entry.pv, step=type(step).__name__))
        try:
            await self._take(step)
        except Refused as error:
            await self._refused(step, error)

    async def _observe_again(self) -> None:
        """See afresh, and go on from there."""
        pv, entry = await observe(self._dependencies, self.entry.pv)
        if entry is None:
            # Another instance brought it to an end, or took for stale what we had just begun.
            if pv is not None and uid_of(pv) == self.entry.uid:
                own = (self.entry.policy, skip_reclaim_of(self.entry.wanted))
                await unmark_without_entry(
                    self._dependencies, pv, own=own if self._uninterrupted else None
                )
                self.outcome = Outcome.ROLLED_BACK
            self.finished = True
            return
        if self._deleted_by_another(pv, entry):
            entry = await self._dependencies.journal.save(entry.prepared())
        # An entry that says otherwise than we wrote is somebody else's word.
        self.own &= replace(entry, version="") in (self._wrote, self._tried)
        self.entry, self.must_observe = entry, False
        # What was begun on an older sight of the volume is not gone on with, but begun afresh.
        self.observation = Observation(pv=pv, taken=entry.holder == self._dependencies.holder)

    def _deleted_by_another(self, pv: Manifest | None, entry: JournalEntry) -> bool:
        """Whether a deletion that is seen can't be ours: all that we asked for were conflicts, and
        since we wrote the note nobody else has, as they do before they delete.
        """
        return (
            pv is not None
            and uid_of(pv) == entry.uid
            and is_terminating(pv)
            and entry.state is State.DELETING
            and not self.asked
            and self.deleting_version == entry.version
        )

    async def _take(self, step: Step) -> None:
        entry, observation = self.entry, self.observation
        match step:
            case Mark(patch) | DetachClaimRef(patch):
                self.observation = replace(
                    observation, pv=await self._dependencies.volumes.patch(entry.pv, patch)
                )
            case Save(changed):
                await self._save(changed)
            case Delete():
                await self._delete()
            case AwaitBinder():
                await self._await_binder()
            case ReadClaim():
                claim = await self._read_claim(entry)
                self.observation = replace(observation, claim=claim, claim_known=True)
            case Remove():
                await self._remove()
            case Create(body):
                self._dependencies.unfinished.gone(entry.pv)
                self._made(await self._dependencies.volumes.create(body), body)
            case Unmark(patch, outcome):
                self.observation = replace(
                    observation, pv=await self._dependencies.volumes.patch(entry.pv, patch)
                )
                await self._end(outcome)
            case Drop(outcome):
                await self._verify(outcome)
                await self._end(outcome)
            case _:
                assert_never(step)

    async def _verify(self, outcome: Outcome) -> None:
        """See that nothing got lost on the way: neither the claim nor what others wrote."""
        made, checks = self.observation.pv, list[Awaitable[bool | None]]()
        if made is not None and outcome in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN}:
            # What was found in place may have been changed by anybody since.
            asked = self._asked_for
            parts = created_different(self.entry.wanted if asked is None else asked, made)
            self.different = parts if asked else tuple(p for p in parts if p == AFFINITY_FIELD)
        if outcome is Outcome.DONE and made is not None:
            guard = self._dependencies.guard
            checks.append(guard.verify_bound(self.entry, self._before, made, self.volume_watch))
        if (
            self.removed
            and made is not None
            and outcome in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN}
        ):
            checks.append(
                carry_over_late_write(
                    self._dependencies.volumes, self.entry, made, self.volume_watch
                )
            )
        # Each to its end, whatever becomes of the other: what was heard last is heard only once.
        found = await asyncio.gather(*checks, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        self._waited |= False in found

    async def _await_binder(self) -> None:
        """Wait for the binder, and look at the claim meanwhile; after a long wait that is old."""
        entry, observation = self.entry, self.observation
        clock = asyncio.get_running_loop().time
        began = clock()
        (pv, in_time), claim = await together(
            self._dependencies.guard.until_released(
                entry, _present(observation), self.volume_watch
            ),
            self._read_claim(entry),
        )
        self.observation = replace(
            observation,
            pv=pv if in_time else observation.pv,
            guard_over=not in_time,
            claim=claim,
            claim_known=clock() - began < CLAIM_FRESH_FOR,
        )

    async def _read_claim(self, entry: JournalEntry) -> Manifest | None:
        if entry.claim is None:
            return None
        claim = await self._dependencies.volumes.read_claim(entry.claim)
        if not self.removed:
            self._before = claim
        return claim

    async def _remove(self) -> None:
        """Let the volume go, unless that had to wait: then the claim is looked at once more."""
        if await self._dependencies.guard.avoid_resync():
            self._waited = True
            self.observation = replace(self.observation, claim_known=False)
            if self.entry.user is not None:
                return
        self.removed = True
        await self._recreate()

    def _made(self, pv: Manifest, body: Manifest) -> None:
        self._asked_for = body
        self.observation = replace(self.observation, pv=pv)
        self._dependencies.unfinished.present(self.entry.pv)

    async def _recreate(self) -> None:
        """Remove the volume, and ask for its like at the same time.

        While the old one is there the answer is a harmless conflict. So the new one comes within a
        fraction of a round trip, and the binder, which looks at every claim each 15 s, hardly ever
        sees a claim without its volume. Whatever goes wrong here is left to the steps that follow.
        """
        then = next_step(self.entry, replace(self.observation, pv=None))
        answered = False

        async def remove() -> None:
            nonlocal answered
            try:
                await self._dependencies.volumes.remove(_present(self.observation))
            finally:
                answered = True

        async def create(body: Manifest) -> Manifest | None:
            for _ in range(CREATE_ATTEMPTS):
                try:
                    return await self._dependencies.volumes.create(body)
                except Conflict:
                    if answered:
                        return None
            return None

        if not isinstance(then, Create):
            raise TypeError("the claim is looked at before the volume goes")
        removed, made = await asyncio.gather(remove(), create(then.body), return_exceptions=True)
        if isinstance(removed, BaseException):
            raise removed
        if isinstance(made, BaseException) or made is None:
            self._dependencies.unfinished.gone(self.entry.pv)
            self.observation = replace(self.observation, pv=None)
        else:
            self._made(made, then.body)

    async def _save(self, changed: JournalEntry) -> None:
        """Write the note, and our name on it: others then see that it is us who goes on."""
        before = self.entry
        self._wrote = replace(before, version="")
        self._tried = replace(changed, holder=self._dependencies.holder, version="")
        self.entry = await self._dependencies.journal.save(
            replace(self._tried, version=changed.version)
        )
        # Under a note that said `prepared` nobody can have deleted it.
        first = before.state is State.PREPARED or self.deleting_version == before.version
        if first and not self.asked:
            self.deleting_version = self.entry.version
        self.observation = replace(self.observation, taken=True)

    async def _delete(self) -> None:
        asked, self.asked = self.asked, True
        try:
            pv = await self._dependencies.volumes.delete(_present(self.observation))
        except Conflict:
            # Of all failures the one that says that nothing happened.
            self.asked = asked
            raise
        self.observation = replace(self.observation, pv=pv)

    async def _end(self, outcome: Outcome) -> None:
        if outcome is Outcome.RECREATED_WITH_RETAIN:
            self._dependencies.unfinished.retained(self.entry.wanted)
        self.outcome = outcome
        await self._dependencies.journal.drop(self.entry)
        self.finished = True

    async def _refused(self, step: Step, error: Refused) -> None:
        """Sort a final no: before the deletion everything is taken back, after it we go on."""
        match step:
            case DetachClaimRef():
                log.warning("claimRef can't be changed", extra=facts(pv=self.entry.pv, why=error))
                self.observation = replace(self.observation, claim_ref_immutable=True)
            case Delete():
                await self._roll_back()
                raise error
            case Mark() | Save() if self.entry.state is State.PREPARED:
                await self._roll_back()
                raise error
            case Create() | Remove() | Mark() | Save() | ReadClaim() | AwaitBinder():
                # Only a volume that this very run removed is so bad that nothing else may begin.
                # Anything else may be the work of somebody who writes entries or annotations.
                absent = isinstance(step, Create) and self.own
                self._dependencies.unfinished.mark_stuck(self.entry, error, blocking=absent)
                raise error
            case _:
                raise error

    async def _roll_back(self) -> None:
        """Take back everything, the note's word first: whoever deletes the volume from now on is
        not us, also should the answer to what follows be lost.
        """
        if self.entry.state is State.DELETING:
            await self._save(self.entry.prepared())
        pv, outcome = self.observation.pv, Outcome.ROLLED_BACK
        if pv is not None and is_marked(pv):
            claim = await self._read_claim(self.entry)
            observation = replace(self.observation, claim=claim, uninterrupted=self._uninterrupted)
            unmark = rolled_back(self.entry, pv, observation, outcome)
            await self._dependencies.volumes.patch(self.entry.pv, unmark.patch)
            outcome = unmark.outcome
        await self._end(outcome)
        self._dependencies.unfinished.ended(self.entry.pv)


def _present(observation: Observation) -> Manifest:
    if observation.pv is None:
        raise AssertionError("this step is only chosen for a volume that is there")
    return observation.pv
