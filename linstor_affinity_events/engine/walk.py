"""One replacement on its way: takes the steps of model/replacement.py, sorts their failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import assert_never

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.last_word import heed_last_word
from linstor_affinity_events.engine.ports import Index, Journal, Sighting, Volumes
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import Again, Conflict, Refused, Stalled, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.demands import Demands, demands_of
from linstor_affinity_events.model.keys import FINALIZER, MARK_ANNOTATION
from linstor_affinity_events.model.manifest import (
    Before,
    Manifest,
    came_out_different,
    claim_of,
    is_marked,
    is_terminating,
    mark_on,
    name_of,
    phase_of,
    skip_reclaim_of,
    uid_of,
    unmarking,
    wears_marks,
)
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.note import Note, State
from linstor_affinity_events.model.replacement import (
    AwaitBinder,
    Create,
    Delete,
    Drop,
    LookAtClaim,
    Mark,
    Outcome,
    PointAway,
    Remove,
    Save,
    Sight,
    Step,
    Unmark,
    next_step,
    taken_back,
)
from linstor_affinity_events.model.verdict import Reason, Refusal

log = logging.getLogger(__name__)

MAX_STEPS = 60
"""A replacement takes about twelve. Something that undoes what we do (an admission webhook that
strips finalizers, say) must not keep us at it for ever.
"""

RELIED_ON_AFTER = 60.0
"""How long the marks may stand before somebody may have taken policy Retain for their own."""

CLAIM_KEEPS = 0.1
AFFINITY_FIELD = "spec.nodeAffinity"
EAGER = 10
"""How often a volume's like is asked for while the old one goes."""

MAX_CONFLICTS = 5
MAX_FAILURES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every replacement of this instance goes by."""

    volumes: Volumes
    index: Index
    journal: Journal
    guard: ClaimGuard
    unfinished: Unfinished
    delays: Callable[[], Backoff]
    holder: str
    """The name that this instance writes on notes."""


async def see(means: Means, name: PvName) -> tuple[Manifest | None, Note | None]:
    """Read the volume and its note, neither older than what the other makes of it.

    A note read after the volume was gone is the last one written before it went; a volume
    read after its note said `deleting` shows what was done by then.
    """
    pv = await means.volumes.read(name)
    note = await means.journal.read(name)
    if pv is None or note is None or note.state is State.PREPARED:
        return pv, note
    pv = await means.volumes.read(name)
    return pv, note if pv is not None else await means.journal.read(name)


def confirmed(means: Means, note: Note, sight: Sight) -> Sight:
    """The same sight, with what tells whether the volume may ask for more than to hold data.
    Raises Unreachable where that is not known yet.
    """
    if sight.pv is not None and uid_of(sight.pv) == note.uid:
        means.unfinished.saw(sight.pv)
    demands, original = demands_of(note.wanted), means.unfinished.original(note)
    if demands in {Demands(), original and original.demands}:
        return replace(sight, original=original)
    if not means.index.classes_known:
        raise Unreachable(f"the StorageClass of {note.pv} is not known yet")
    name = str(note.wanted["spec"].get("storageClassName") or "")
    return replace(sight, original=original, storage_class=means.index.storage_class(name))


async def unmark_alone(
    means: Means, pv: Manifest | None, *, own: Before | None = None
) -> Outcome | Refusal:
    """Take our marks off a live volume whose note is gone. They say what was there before, but so
    can anybody who may write annotations: unless this very run has set them (`own`), policy Retain
    stays, with what they say in an annotation.
    """
    if pv is None or not wears_marks(pv):
        return Outcome.STALE
    if is_terminating(pv):
        return Refusal(
            Reason.BAD_NOTE,
            f"it is being deleted, held by finalizer {FINALIZER}, and the note of its "
            "replacement is gone; see docs/reliability.md before you remove the finalizer",
        )
    if is_marked(pv) and mark_on(pv) is None:
        return Refusal(
            Reason.BAD_NOTE,
            f"it wears finalizer {FINALIZER}, and neither a note nor annotation "
            f"{MARK_ANNOTATION} tells what to restore; see docs/reliability.md",
        )
    # Its claim went while it said Retain, which somebody may have relied on.
    unmarked = unmarking(pv, keep=own is None or not await _in_use(means, pv), own=own)
    await means.volumes.patch(name_of(pv), unmarked.patch)
    if not unmarked.kept:
        return Outcome.UNWOUND
    means.unfinished.kept(pv)
    return Outcome.KEPT


async def _in_use(means: Means, pv: Manifest) -> bool:
    """Whether the claim of a live volume is there and stays; without one it is used as ever."""
    named = claim_of(pv)
    if named is None or not named.uid:
        return True
    claim = await means.volumes.read_claim(named)
    there = claim is not None and uid_of(claim) == named.uid and not is_terminating(claim)
    return there and phase_of(pv) == "Bound"


class Walk:
    """One replacement on its way from whatever is there to its end."""

    def __init__(
        self, means: Means, note: Note, sight: Sight, sighting: Sighting, *, own: bool = False
    ) -> None:
        self._means = means
        self.note, self.sight, self.sighting = note, sight, sighting
        self.armed = ""
        """The version of the note with which this walk, as the first of all, is about to delete."""
        self.asked = False
        """Whether a deletion that we asked for may have taken effect."""
        self.removed = False
        """Whether a removal that we asked for may have taken effect."""
        self.steps = self.conflicts = self.failures = 0
        self.outcome: Outcome | None = None
        self.blind = False
        """Whether what was seen last may be old."""
        self.over = False
        self.own = own
        """Whether all that was done so far was done in this run."""
        self._wrote = self._tried = replace(note, version="")
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
        return self._waited or self.sight.guard_over or self.failures > 0

    async def to_the_end(self) -> Outcome:
        """Take step after step; raises what a later look has to begin from anew."""
        delays = self._means.delays()
        while not self.over:
            try:
                if self.blind:
                    await self._look_again()
                else:
                    await self._step()
            except Conflict as error:
                self.conflicts += 1
                if self.conflicts > MAX_CONFLICTS:
                    raise
                self.blind = True
                log.debug("replacement conflict", extra=facts(pv=self.note.pv, why=error))
            except Stalled:
                raise
            except Again as error:
                # Once it may be deleted we don't let go easily; before, a later look begins anew.
                self.failures += 1
                if self.note.state is State.PREPARED or self.failures > MAX_FAILURES:
                    raise
                self.blind = True
                await asyncio.sleep(max(delays.next(), error.after or 0.0))
        self._means.unfinished.ended(self.note.pv)
        return self.outcome or Outcome.STALE

    @property
    def _uninterrupted(self) -> bool:
        age = asyncio.get_running_loop().time() - self._begun
        return self.own and self.sight.taken and age < RELIED_ON_AFTER

    async def _step(self) -> None:
        self.sight = confirmed(
            self._means, self.note, replace(self.sight, uninterrupted=self._uninterrupted)
        )
        step = next_step(self.note, self.sight)
        self.steps += 1
        if self.steps > MAX_STEPS:
            name = type(step).__name__
            raise Stalled(f"replacing {self.note.pv} gets nowhere: {name} has no effect")
        log.debug("replacement step", extra=facts(pv=self.note.pv, step=type(step).__name__))
        try:
            await self._take(step)
        except Refused as error:
            await self._refused(step, error)

    async def _look_again(self) -> None:
        """See afresh, and go on from there."""
        pv, note = await see(self._means, self.note.pv)
        if note is None:
            # Another instance brought it to an end, or took for stale what we had just begun.
            if pv is not None and uid_of(pv) == self.note.uid:
                own = (self.note.policy, skip_reclaim_of(self.note.wanted))
                await unmark_alone(self._means, pv, own=own if self._uninterrupted else None)
                self.outcome = Outcome.UNWOUND
            self.over = True
            return
        if self._deleted_by_another(pv, note):
            note = await self._means.journal.save(note.prepared())
        # An entry that says otherwise than we wrote is somebody else's word.
        self.own &= replace(note, version="") in (self._wrote, self._tried)
        self.note, self.blind = note, False
        # What was begun on an older sight of the volume is not gone on with, but begun afresh.
        taken, created = note.holder == self._means.holder, self._asked_for is not None
        self.sight = Sight(pv=pv, taken=taken, created=created)

    def _deleted_by_another(self, pv: Manifest | None, note: Note) -> bool:
        """Whether a deletion that is seen can't be ours: all that we asked for were conflicts, and
        since we wrote the note nobody else has, as they do before they delete.
        """
        return (
            pv is not None
            and uid_of(pv) == note.uid
            and is_terminating(pv)
            and note.state is State.DELETING
            and not self.asked
            and self.armed == note.version
        )

    async def _take(self, step: Step) -> None:
        note, sight = self.note, self.sight
        match step:
            case Mark(patch) | PointAway(patch):
                self.sight = replace(sight, pv=await self._means.volumes.patch(note.pv, patch))
            case Save(changed):
                await self._save(changed)
            case Delete():
                await self._delete()
            case AwaitBinder():
                await self._await_binder()
            case LookAtClaim():
                claim = await self._read_claim(note)
                self.sight = replace(sight, claim=claim, claim_known=True)
            case Remove():
                await self._remove()
            case Create(body):
                self._means.unfinished.gone(note.pv)
                self._made(await self._means.volumes.create(body), body)
            case Unmark(patch, outcome):
                self.sight = replace(sight, pv=await self._means.volumes.patch(note.pv, patch))
                await self._end(outcome)
            case Drop(outcome):
                await self._see_off(outcome)
                await self._end(outcome)
            case _:
                assert_never(step)

    async def _see_off(self, outcome: Outcome) -> None:
        """See that nothing got lost on the way: neither the claim nor what others wrote."""
        made, seen = self.sight.pv, list[Awaitable[bool | None]]()
        if made is not None and outcome in {Outcome.DONE, Outcome.KEPT}:
            # What was found in place may have been changed by anybody since.
            asked = self._asked_for
            parts = came_out_different(self.note.wanted if asked is None else asked, made)
            self.different = parts if asked else tuple(p for p in parts if p == AFFINITY_FIELD)
        if outcome is Outcome.DONE and made is not None:
            guard = self._means.guard
            seen.append(guard.see_bound(self.note, self._before, made, self.sighting))
        if self.removed and made is not None and outcome in {Outcome.DONE, Outcome.KEPT}:
            seen.append(heed_last_word(self._means.volumes, self.note, made, self.sighting))
        # Each to its end, whatever becomes of the other: what was heard last is heard only once.
        found = await asyncio.gather(*seen, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        self._waited |= False in found

    async def _await_binder(self) -> None:
        """Wait for the binder, and look at the claim meanwhile; after a long wait that is old."""
        note, sight = self.note, self.sight
        clock = asyncio.get_running_loop().time
        began = clock()
        (pv, in_time), claim = await together(
            self._means.guard.until_let_go(note, _seen(sight), self.sighting),
            self._read_claim(note),
        )
        self.sight = replace(
            sight,
            pv=pv if in_time else sight.pv,
            guard_over=not in_time,
            claim=claim,
            claim_known=clock() - began < CLAIM_KEEPS,
        )

    async def _read_claim(self, note: Note) -> Manifest | None:
        if note.claim is None:
            return None
        claim = await self._means.volumes.read_claim(note.claim)
        if not self.removed:
            self._before = claim
        return claim

    async def _remove(self) -> None:
        """Let the volume go, unless that had to wait: then the claim is looked at once more."""
        if await self._means.guard.quiet_moment():
            self._waited = True
            self.sight = replace(self.sight, claim_known=False)
            if self.note.user is not None:
                return
        self.removed = True
        await self._swap()

    def _made(self, pv: Manifest, body: Manifest) -> None:
        self._asked_for = body
        self.sight = replace(self.sight, pv=pv, created=True)
        self._means.unfinished.present(self.note.pv)

    async def _swap(self) -> None:
        """Remove the volume, and ask for its like at the same time.

        While the old one is there the answer is a harmless conflict. So the new one comes within a
        fraction of a round trip, and the binder, which looks at every claim each 15 s, hardly ever
        sees a claim without its volume. Whatever goes wrong here is left to the steps that follow.
        """
        then = next_step(self.note, replace(self.sight, pv=None))
        answered = False

        async def remove() -> None:
            nonlocal answered
            try:
                await self._means.volumes.remove(_seen(self.sight))
            finally:
                answered = True

        async def create(body: Manifest) -> Manifest | None:
            for _ in range(EAGER):
                try:
                    return await self._means.volumes.create(body)
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
            self._means.unfinished.gone(self.note.pv)
            self.sight = replace(self.sight, pv=None)
        else:
            self._made(made, then.body)

    async def _save(self, changed: Note) -> None:
        """Write the note, and our name on it: others then see that it is us who goes on."""
        before = self.note
        self._wrote = replace(before, version="")
        self._tried = replace(changed, holder=self._means.holder, version="")
        self.note = await self._means.journal.save(replace(self._tried, version=changed.version))
        # Under a note that said `prepared` nobody can have deleted it.
        first = before.state is State.PREPARED or self.armed == before.version
        if first and not self.asked:
            self.armed = self.note.version
        self.sight = replace(self.sight, taken=True)

    async def _delete(self) -> None:
        asked, self.asked = self.asked, True
        try:
            pv = await self._means.volumes.delete(_seen(self.sight))
        except Conflict:
            # Of all failures the one that says that nothing happened.
            self.asked = asked
            raise
        self.sight = replace(self.sight, pv=pv)

    async def _end(self, outcome: Outcome) -> None:
        if outcome is Outcome.KEPT:
            self._means.unfinished.kept(self.note.wanted)
        self.outcome = outcome
        await self._means.journal.drop(self.note)
        self.over = True

    async def _refused(self, step: Step, error: Refused) -> None:
        """Sort a final no: before the deletion everything is taken back, after it we go on."""
        match step:
            case PointAway():
                log.warning("claimRef can't be changed", extra=facts(pv=self.note.pv, why=error))
                self.sight = replace(self.sight, unpointable=True)
            case Delete():
                await self._unwind()
                raise error
            case Mark() | Save() if self.note.state is State.PREPARED:
                await self._unwind()
                raise error
            case Create() | Remove() | Mark() | Save() | LookAtClaim() | AwaitBinder():
                # Only a volume that this very run removed is so bad that nothing else may begin.
                # Anything else may be the work of somebody who writes entries or annotations.
                absent = isinstance(step, Create) and self.own
                self._means.unfinished.stick(self.note, error, blocking=absent)
                raise error
            case _:
                raise error

    async def _unwind(self) -> None:
        """Take back everything, the note's word first: whoever deletes the volume from now on is
        not us, also should the answer to what follows be lost.
        """
        if self.note.state is State.DELETING:
            await self._save(self.note.prepared())
        pv, outcome = self.sight.pv, Outcome.UNWOUND
        if pv is not None and is_marked(pv):
            claim = await self._read_claim(self.note)
            sight = replace(self.sight, claim=claim, uninterrupted=self._uninterrupted)
            unmark = taken_back(self.note, pv, sight, outcome)
            await self._means.volumes.patch(self.note.pv, unmark.patch)
            outcome = unmark.outcome
        await self._end(outcome)
        self._means.unfinished.ended(self.note.pv)


def _seen(sight: Sight) -> Manifest:
    if sight.pv is None:
        raise AssertionError("this step is only chosen for a volume that is there")
    return sight.pv
