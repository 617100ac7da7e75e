"""Swaps a volume for its like with another affinity; may be stopped and resumed anywhere.

The order of the steps is in model/replacement.py; here they are done and their failures sorted.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import assert_never

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.ports import Journal, Notices, Sighting, Telemetry, Volumes
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import Again, BadNote, Conflict, Refused, Stalled
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.keys import FINALIZER, MARK_ANNOTATION, VolumeKey
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    is_marked,
    is_terminating,
    mark_on,
    mark_patch,
    name_of,
    phase_of,
    uid_of,
    unmark_and_retain_patch,
    unmark_patch,
    wears_marks,
)
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.note import Note, State
from linstor_affinity_events.model.readiness import obstacle
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
)
from linstor_affinity_events.model.verdict import Later, Reason, Refusal
from linstor_affinity_events.model.volume import Volume

log = logging.getLogger(__name__)

MAX_STEPS = 60
"""A replacement takes about twelve. Something that undoes what we do (an admission webhook that
strips finalizers, say) must not keep us at it for ever.
"""

CLAIM_KEEPS = 0.1
EAGER = 10
"""How often a volume's like is asked for while the old one goes."""

MAX_CONFLICTS = 5
MAX_FAILURES = 8
BLOCKED_AGAIN = 5.0
NOT_MINE = 5.0
GUARD_AT_MOST = 60.0
NEWS_AT_MOST = 0.5
PROTECTION = "kubernetes.io/pv-protection"
PROTECTION_AT_MOST = 0.05
BOUND_WITHIN = 5.0


@dataclass(slots=True)
class _Walk:
    """One replacement on its way."""

    note: Note
    sight: Sight
    sighting: Sighting
    armed: str = ""
    """The version of the note with which this walk, which began it all, is about to delete."""

    asked: bool = False
    """Whether a deletion that we asked for may have taken effect."""

    steps: int = 0
    conflicts: int = 0
    failures: int = 0
    outcome: Outcome | None = None
    blind: bool = False
    """Whether what was seen last may be old."""

    over: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A replacement that came to an end, and the volume that stands there now, if it is ours."""

    outcome: Outcome
    volume: Volume | None


class Replacer:
    """Every step may be cut off before or after it took effect; `resume` picks up the rest."""

    def __init__(
        self,
        *,
        volumes: Volumes,
        journal: Journal,
        notices: Notices,
        telemetry: Telemetry,
        delays: Callable[[], Backoff],
        holder: str,
        may_begin: Callable[[], bool],
        guard_timeout: float = 2.0,
        allowed_finalizers: Iterable[str] = (),
    ) -> None:
        self._volumes, self._journal = volumes, journal
        self._delays, self._may_begin = delays, may_begin
        self._holder = holder
        self._allowed_finalizers = tuple(allowed_finalizers)
        self._guard = ClaimGuard(volumes, telemetry, delays, timeout=guard_timeout)
        self.unfinished = Unfinished(notices, telemetry, volumes.describe)

    async def load(self) -> Collection[ResourceName]:
        """Learn anew which replacements are unfinished; answers the resources they belong to."""
        before = tuple(self.unfinished.pending)
        self.unfinished.know(await self._journal.all(), before=before)
        return frozenset(key.resource for key in self.unfinished.pending.values())

    async def replace(
        self, pv: Manifest, claim: Manifest | None, key: VolumeKey, affinity: NodeAffinity
    ) -> Ended | Later | Refusal:
        """Replace a volume that was just read, or say what stands against it.

        Raises Conflict when somebody else is at it; Unreachable when it was cut off, with a note
        left to resume from if anything was begun.
        """
        if self.unfinished.stuck:
            others = ", ".join(sorted(self.unfinished.stuck))
            why = f"{others} can't be created again; no replacement begins until that is mended"
            return Later(Reason.BLOCKED, why, BLOCKED_AGAIN)
        against = obstacle(pv, claim, allowed_finalizers=self._allowed_finalizers)
        if against is not None:
            return against
        note = Note.begin(pv, key, affinity, holder=self._holder)
        try:
            await self._volumes.rehearse(pv, mark_patch(pv), note.wanted)
        except Refused as error:
            return Refusal(Reason.NOT_ALLOWED, f"Kubernetes would not let it be replaced: {error}")
        if not self._may_begin():
            return Later(Reason.NOT_LEADING, "this instance leads no more, or stops", NOT_MINE)
        with self._volumes.follow(note.pv) as sighting:
            try:
                note = await self._create_note(note)
            except BadNote as error:
                return Refusal(Reason.BAD_NOTE, f"a note of it can't be trusted: {error}")
            walk = _Walk(note, Sight(pv=pv, begun_here=True), sighting)
            outcome = await self._walk(walk)
        made = walk.sight.pv
        return Ended(outcome, None if made is None else self._volumes.describe(made))

    async def _create_note(self, note: Note) -> Note:
        """Raises Conflict where there is one already, and BadNote where that is none."""
        try:
            note = await self._journal.create(note)
        except Conflict:
            await self._journal.read(note.pv)
            raise
        self.unfinished.noted(note)
        return note

    async def resume(self, name: PvName) -> Outcome | Refusal:
        """Bring to its end what was begun with this volume, by whomever; nothing noted is fine."""
        with self._volumes.follow(name) as sighting:
            try:
                pv, note = await self._see(name)
            except BadNote as error:
                return Refusal(Reason.BAD_NOTE, str(error))
            if note is None:
                self.unfinished.ended(name)
                return await self._unmark_alone(pv)
            self.unfinished.noted(note)
            sight = Sight(pv=pv, taken=note.holder == self._holder)
            return await self._walk(_Walk(note, sight, sighting))

    async def adopt(self, note: Note) -> Note:
        """Make a note of the reference controller's our own."""
        return await self._create_note(note)

    async def _unmark_alone(self, pv: Manifest | None) -> Outcome | Refusal:
        """Take our marks off a live volume whose note is gone: they say what was there before."""
        if pv is None or not wears_marks(pv):
            return Outcome.STALE
        if is_terminating(pv):
            return Refusal(
                Reason.BAD_NOTE,
                f"it is being deleted, held by finalizer {FINALIZER}, and the note of its "
                "replacement is gone; see docs/reliability.md before you remove the finalizer",
            )
        before = mark_on(pv)
        if before is None:
            return Refusal(
                Reason.BAD_NOTE,
                f"it wears finalizer {FINALIZER}, and neither a note nor annotation "
                f"{MARK_ANNOTATION} tells what to restore; see docs/reliability.md",
            )
        if claim_of(pv) is None or phase_of(pv) == "Bound":
            await self._volumes.patch(name_of(pv), unmark_patch(pv, *before))
            return Outcome.UNWOUND
        # Its claim went while it said Retain, which somebody may have relied on.
        await self._volumes.patch(name_of(pv), unmark_and_retain_patch(pv, *before))
        self.unfinished.kept(pv)
        return Outcome.KEPT

    async def _walk(self, walk: _Walk) -> Outcome:
        delays = self._delays()
        while not walk.over:
            try:
                if walk.blind:
                    await self._look_again(walk)
                else:
                    await self._step(walk)
            except Conflict as error:
                walk.conflicts += 1
                if walk.conflicts > MAX_CONFLICTS:
                    raise
                walk.blind = True
                log.debug("replacement conflict", extra=facts(pv=walk.note.pv, why=error))
            except Stalled:
                raise
            except Again as error:
                # Once it may be deleted we don't let go easily; before, a later look begins anew.
                walk.failures += 1
                if walk.note.state is State.PREPARED or walk.failures > MAX_FAILURES:
                    raise
                walk.blind = True
                await asyncio.sleep(max(delays.next(), error.after or 0.0))
        self.unfinished.ended(walk.note.pv)
        return walk.outcome or Outcome.STALE

    async def _step(self, walk: _Walk) -> None:
        step = next_step(walk.note, walk.sight)
        walk.steps += 1
        if walk.steps > MAX_STEPS:
            name = type(step).__name__
            raise Stalled(f"replacing {walk.note.pv} gets nowhere: {name} has no effect")
        log.debug("replacement step", extra=facts(pv=walk.note.pv, step=type(step).__name__))
        try:
            await self._take(step, walk)
        except Refused as error:
            await self._refused(step, walk, error)

    async def _see(self, name: PvName) -> tuple[Manifest | None, Note | None]:
        """Read the volume and its note, neither older than what the other makes of it.

        A note read after the volume was gone is the last one written before it went; a volume
        read after its note said `deleting` shows what was done by then.
        """
        pv = await self._volumes.read(name)
        note = await self._journal.read(name)
        if pv is None or note is None or note.state is State.PREPARED:
            return pv, note
        pv = await self._volumes.read(name)
        return pv, note if pv is not None else await self._journal.read(name)

    async def _look_again(self, walk: _Walk) -> None:
        """See afresh, and go on from there."""
        pv, note = await self._see(walk.note.pv)
        if note is None:
            # Another instance brought it to an end, or took for stale what we had just begun.
            if pv is not None and uid_of(pv) == walk.note.uid:
                await self._unmark_alone(pv)
                walk.outcome = Outcome.UNWOUND
            walk.over = True
            return
        if self._deleted_by_another(walk, pv, note):
            note = await self._journal.save(note.prepared())
        walk.note, walk.blind = note, False
        # What was begun on an older sight of the volume is not gone on with, but begun afresh.
        walk.sight = Sight(pv=pv, taken=note.holder == self._holder)

    def _deleted_by_another(self, walk: _Walk, pv: Manifest | None, note: Note) -> bool:
        """Whether a deletion that is seen can't be ours: all that we asked for were conflicts, and
        since we wrote the note nobody else has, as they do before they delete.
        """
        return (
            pv is not None
            and uid_of(pv) == note.uid
            and is_terminating(pv)
            and note.state is State.DELETING
            and not walk.asked
            and walk.armed == note.version
        )

    async def _take(self, step: Step, walk: _Walk) -> None:
        note, sight = walk.note, walk.sight
        match step:
            case Mark(patch) | PointAway(patch):
                walk.sight = replace(sight, pv=await self._volumes.patch(note.pv, patch))
            case Save(changed):
                await self._save(changed, walk)
            case Delete():
                await self._delete(walk)
            case AwaitBinder():
                await self._await_binder(walk)
            case LookAtClaim():
                claim = await self._read_claim(note)
                walk.sight = replace(sight, claim=claim, claim_known=True)
            case Remove():
                await self._guard.quiet_moment()
                await self._swap(walk)
            case Create(body):
                self.unfinished.gone(note.pv)
                walk.sight = replace(sight, pv=await self._volumes.create(body))
                self.unfinished.present(note.pv)
            case Unmark(patch, outcome):
                walk.sight = replace(sight, pv=await self._volumes.patch(note.pv, patch))
                await self._end(walk, outcome)
            case Drop(outcome):
                if outcome is Outcome.DONE:
                    await self._guard.see_bound(note)
                await self._end(walk, outcome)
            case _:
                assert_never(step)

    async def _await_binder(self, walk: _Walk) -> None:
        """Wait for the binder, and look at the claim meanwhile; after a long wait that is old."""
        note, sight = walk.note, walk.sight
        clock = asyncio.get_running_loop().time
        began = clock()
        (pv, in_time), claim = await asyncio.gather(
            self._guard.until_let_go(note, _seen(sight), walk.sighting), self._read_claim(note)
        )
        walk.sight = replace(
            sight,
            pv=pv if in_time else sight.pv,
            guard_over=not in_time,
            claim=claim,
            claim_known=clock() - began < CLAIM_KEEPS,
        )

    async def _read_claim(self, note: Note) -> Manifest | None:
        return None if note.claim is None else await self._volumes.read_claim(note.claim)

    async def _swap(self, walk: _Walk) -> None:
        """Remove the volume, and ask for its like at the same time.

        While the old one is there the answer is a harmless conflict. So the new one comes within a
        fraction of a round trip, and the binder, which looks at every claim each 15 s, hardly ever
        sees a claim without its volume. Whatever goes wrong here is left to the steps that follow.
        """
        then = next_step(walk.note, replace(walk.sight, pv=None))
        answered = False

        async def remove() -> None:
            nonlocal answered
            try:
                await self._volumes.remove(_seen(walk.sight))
            finally:
                answered = True

        async def create(body: Manifest) -> Manifest | None:
            for _ in range(EAGER):
                try:
                    return await self._volumes.create(body)
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
            self.unfinished.gone(walk.note.pv)
            made = None
        walk.sight = replace(walk.sight, pv=made)

    async def _save(self, changed: Note, walk: _Walk) -> None:
        """Write the note, and our name on it: others then see that it is us who goes on."""
        walk.note = await self._journal.save(replace(changed, holder=self._holder))
        if walk.sight.begun_here and not walk.asked:
            walk.armed = walk.note.version
        walk.sight = replace(walk.sight, taken=True)

    async def _delete(self, walk: _Walk) -> None:
        asked, walk.asked = walk.asked, True
        try:
            pv = await self._volumes.delete(_seen(walk.sight))
        except Conflict:
            # Of all failures the one that says that nothing happened.
            walk.asked = asked
            raise
        walk.sight = replace(walk.sight, pv=pv)

    async def _end(self, walk: _Walk, outcome: Outcome) -> None:
        if outcome is Outcome.KEPT:
            self.unfinished.kept(walk.note.wanted)
        walk.outcome = outcome
        await self._journal.drop(walk.note)
        walk.over = True

    async def _refused(self, step: Step, walk: _Walk, error: Refused) -> None:
        """Sort a final no: before the deletion everything is taken back, after it we go on."""
        match step:
            case PointAway():
                log.warning("claimRef can't be changed", extra=facts(pv=walk.note.pv, why=error))
                walk.sight = replace(walk.sight, unpointable=True)
            case Delete():
                await self._unwind(walk)
                raise error
            case Mark() | Save() if walk.note.state is State.PREPARED:
                await self._unwind(walk)
                raise error
            case Create() | Remove() | Mark() | Save():
                self.unfinished.stick(walk.note, error)
                raise error
            case _:
                raise error

    async def _unwind(self, walk: _Walk) -> None:
        pv = walk.sight.pv
        if pv is not None and is_marked(pv):
            patch = unmark_patch(pv, walk.note.policy, walk.note.skip_reclaim)
            await self._volumes.patch(walk.note.pv, patch)
        await self._end(walk, Outcome.UNWOUND)
        self.unfinished.ended(walk.note.pv)


def _seen(sight: Sight) -> Manifest:
    if sight.pv is None:
        raise AssertionError("this step is only chosen for a volume that is there")
    return sight.pv
