"""Swaps a volume for its like with another affinity; may be stopped and resumed anywhere.

The order of the steps is in model/replacement.py; here they are done and their failures sorted.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.ports import Journal, Notices, Sighting, Telemetry, Volumes
from linstor_affinity_events.errors import Again, BadNote, Conflict, Refused, Stalled
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.keys import FINALIZER, MARK_ANNOTATION, VolumeKey
from linstor_affinity_events.model.manifest import (
    Manifest,
    finalizers_of,
    is_marked,
    is_terminating,
    mark_on,
    mark_patch,
    name_of,
    phase_of,
    tombstone_name,
    uid_of,
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

MAX_CONFLICTS = 5
MAX_FAILURES = 8
BLOCKED_AGAIN = 5.0
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
        guard_timeout: float = 2.0,
        allowed_finalizers: Iterable[str] = (),
    ) -> None:
        self._volumes, self._journal = volumes, journal
        self._notices, self._telemetry = notices, telemetry
        self._delays = delays
        self._holder, self._guard_timeout = holder, guard_timeout
        self._allowed_finalizers = tuple(allowed_finalizers)
        self._absent: set[PvName] = set()
        self.pending: dict[PvName, VolumeKey] = {}
        """The volumes with a note, and the LINSTOR volume that each stands for."""
        self.stuck: dict[PvName, str] = {}
        """The volumes that can't be created again, and what the API server says to it."""

    async def load(self) -> Collection[ResourceName]:
        """Learn anew which replacements are unfinished; answers the resources they belong to."""
        notes = await self._journal.all()
        self.pending = {note.pv: note.key for note in notes}
        for name in self.stuck.keys() - self.pending.keys():
            self._unstick(name)
        return frozenset(key.resource for key in self.pending.values())

    def pending_of(self, resource: ResourceName) -> list[PvName]:
        return [name for name, key in self.pending.items() if key.resource == resource]

    async def replace(
        self, pv: Manifest, claim: Manifest | None, key: VolumeKey, affinity: NodeAffinity
    ) -> Ended | Later | Refusal:
        """Replace a volume that was just read, or say what stands against it.

        Raises Conflict when somebody else is at it; Unreachable when it was cut off, with a note
        left to resume from if anything was begun.
        """
        if self.stuck:
            others = ", ".join(sorted(self.stuck))
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
        with self._volumes.follow(note.pv) as sighting:
            note = await self._journal.create(note)
            self.pending[note.pv] = key
            walk = _Walk(note, Sight(pv=pv, begun_here=True), sighting)
            outcome = await self._walk(walk)
        made = walk.sight.pv
        return Ended(outcome, None if made is None else self._volumes.describe(made))

    async def resume(self, name: PvName) -> Outcome | Refusal:
        """Bring to its end what was begun with this volume, by whomever; nothing noted is fine."""
        with self._volumes.follow(name) as sighting:
            pv = await self._volumes.read(name)
            try:
                note = await self._journal.read(name)
            except BadNote as error:
                return Refusal(Reason.BAD_NOTE, str(error))
            if note is None:
                self._forget(name)
                return await self._unmark_alone(pv)
            self.pending[name] = note.key
            return await self._walk(_Walk(note, Sight(pv=pv), sighting))

    async def adopt(self, note: Note) -> Note:
        """Make a note of the reference controller's our own."""
        adopted = await self._journal.create(note)
        self.pending[note.pv] = note.key
        return adopted

    async def _unmark_alone(self, pv: Manifest | None) -> Outcome | Refusal:
        """Take our marks off a live volume whose note is gone: they say what was there before."""
        if pv is None or not wears_marks(pv) or is_terminating(pv):
            return Outcome.STALE
        before = mark_on(pv)
        if before is None:
            return Refusal(
                Reason.BAD_NOTE,
                f"it wears finalizer {FINALIZER}, and neither a note nor annotation "
                f"{MARK_ANNOTATION} tells what to restore; see docs/reliability.md",
            )
        await self._volumes.patch(name_of(pv), unmark_patch(pv, *before))
        return Outcome.UNWOUND

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
        self._forget(walk.note.pv)
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

    async def _look_again(self, walk: _Walk) -> None:
        """See afresh. The volume first, then the note: a note seen after the volume was gone is
        the last one that was written before it went.
        """
        pv = await self._volumes.read(walk.note.pv)
        note = await self._journal.read(walk.note.pv)
        if note is None:
            # Another instance brought it to an end, or took for stale what we had just begun.
            if pv is not None and uid_of(pv) == walk.note.uid:
                await self._unmark_alone(pv)
                walk.outcome = Outcome.UNWOUND
            walk.over = True
            return
        walk.note, walk.blind = note, False
        # What was begun on an older sight of the volume is not gone on with, but begun afresh.
        walk.sight = Sight(pv=pv)

    async def _take(self, step: Step, walk: _Walk) -> None:
        note, sight = walk.note, walk.sight
        match step:
            case Mark(patch) | PointAway(patch):
                walk.sight = replace(sight, pv=await self._volumes.patch(note.pv, patch))
            case Save(changed):
                walk.note = await self._journal.save(changed)
            case Delete():
                pv = await self._volumes.delete(_seen(sight))
                walk.sight = replace(sight, pv=pv)
            case AwaitBinder():
                walk.sight = await self._await_binder(walk)
            case LookAtClaim():
                claim = None if note.claim is None else await self._volumes.read_claim(note.claim)
                walk.sight = replace(sight, claim=claim, claim_known=True)
            case Remove():
                await self._volumes.remove(_seen(sight))
                self._set_absent(note.pv, absent=True)
                walk.sight = replace(sight, pv=None)
            case Create(body, outcome):
                self._set_absent(note.pv, absent=True)
                walk.sight = replace(sight, pv=await self._volumes.create(body))
                walk.outcome = outcome
                self._created(note, outcome)
            case Unmark(patch, outcome):
                walk.sight = replace(sight, pv=await self._volumes.patch(note.pv, patch))
                walk.outcome = outcome
                await self._end(walk)
            case Drop(outcome):
                walk.outcome = walk.outcome or outcome
                if walk.outcome is Outcome.DONE:
                    await self._see_bound(note)
                await self._end(walk)
            case _:
                assert_never(step)

    async def _end(self, walk: _Walk) -> None:
        await self._journal.drop(walk.note)
        walk.over = True

    async def _await_binder(self, walk: _Walk) -> Sight:
        """Wait for the binder's write, for the guard's time after its last sign of life."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        while True:
            silent_since = max(begun, self._volumes.last_phase_change())
            deadline = min(silent_since + self._guard_timeout, begun + GUARD_AT_MOST)
            if clock() >= deadline:
                log.warning("the binder did not answer in time", extra=facts(pv=walk.note.pv))
                return replace(walk.sight, guard_over=True)
            seen = walk.sighting.latest
            if seen is not None and self._told_apart(walk, seen):
                if PROTECTION in finalizers_of(seen) and uid_of(seen) == walk.note.uid:
                    seen = await self._unprotected(walk, seen)
                return replace(walk.sight, pv=seen)
            try:
                async with asyncio.timeout(min(NEWS_AT_MOST, deadline - clock())):
                    await walk.sighting.news()
            except TimeoutError:
                pv = await self._volumes.read(walk.note.pv)
                if pv is None or self._told_apart(walk, pv):
                    return replace(walk.sight, pv=pv)

    @staticmethod
    async def _unprotected(walk: _Walk, seen: Manifest) -> Manifest:
        """Give the protection controller a moment: it drops its finalizer right after the binder's
        write, and a removal sent in between would only end in a conflict.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(PROTECTION_AT_MOST):
                while walk.sighting.latest is seen:
                    await walk.sighting.news()
        return walk.sighting.latest or seen

    @staticmethod
    def _told_apart(walk: _Walk, pv: Manifest) -> bool:
        """Whether the binder has let go of the claim, or somebody changed the volume instead."""
        if uid_of(pv) != walk.note.uid:
            return True
        named = (pv["spec"].get("claimRef") or {}).get("name")
        return named == tombstone_name(pv) and phase_of(pv) != "Bound"

    async def _see_bound(self, note: Note) -> None:
        """See that the claim kept its volume; it is told if it ever got lost on the way."""
        if note.claim is None:
            return
        delays, lost = self._delays(), False
        deadline = asyncio.get_running_loop().time() + BOUND_WITHIN
        while True:
            claim = await self._volumes.read_claim(note.claim)
            if claim is None or uid_of(claim) != note.claim.uid or phase_of(claim) == "Bound":
                return
            if phase_of(claim) == "Lost" and not lost:
                lost = True
                self._telemetry.claim_lost()
                log.warning("claim seen Lost", extra=facts(pv=note.pv, claim=note.claim))
            if asyncio.get_running_loop().time() > deadline:
                log.error(
                    "claim is not bound again",
                    extra=facts(pv=note.pv, claim=note.claim, phase=phase_of(claim)),
                )
                return
            await asyncio.sleep(delays.next())

    async def _refused(self, step: Step, walk: _Walk, error: Refused) -> None:
        """Sort a final no: before the deletion everything is taken back, after it we go on."""
        match step:
            case PointAway():
                log.warning("claimRef can't be changed", extra=facts(pv=walk.note.pv, why=error))
                walk.sight = replace(walk.sight, unpointable=True)
            case Delete() | Mark() if walk.note.state is State.PREPARED or isinstance(step, Delete):
                await self._unwind(walk)
                raise error
            case Create() | Remove():
                self._stick(walk.note, error)
                raise error
            case _:
                raise error

    async def _unwind(self, walk: _Walk) -> None:
        pv = walk.sight.pv
        if pv is not None and is_marked(pv):
            patch = unmark_patch(pv, walk.note.policy, walk.note.skip_reclaim)
            await self._volumes.patch(walk.note.pv, patch)
        await self._end(walk)
        self._forget(walk.note.pv)

    def _created(self, note: Note, outcome: Outcome) -> None:
        self._set_absent(note.pv, absent=False)
        self._unstick(note.pv)
        if outcome is Outcome.KEPT:
            log.error(
                "volume created again with policy Retain, since its claim had gone or moved on",
                extra=facts(pv=note.pv, rd=note.key, claim=note.claim),
            )
            self._tell(
                note,
                "VolumeRetained",
                f"The claim {note.claim} had gone or was bound elsewhere while this volume was "
                "replaced, so it came back with reclaim policy Retain; its own policy stands in "
                "an annotation.",
            )

    def _stick(self, note: Note, error: Refused) -> None:
        if self.stuck.get(note.pv) != str(error):
            log.error(
                "volume is deleted and can't be created again",
                extra=facts(pv=note.pv, rd=note.key, claim=note.claim, why=error),
            )
            self._tell(
                note,
                "VolumeRecreationFailing",
                f"PersistentVolume {note.pv} was deleted to change its node affinity and can't be "
                f"created again: {error}. It is tried again until it succeeds.",
            )
        self.stuck[note.pv] = str(error)
        self._telemetry.stuck(len(self.stuck))

    def _tell(self, note: Note, reason: str, why: str) -> None:
        volume = self._volumes.describe(note.wanted)
        if volume is not None:
            self._notices.warn(volume, reason, why)

    def _unstick(self, name: PvName) -> None:
        if self.stuck.pop(name, None) is not None:
            log.info("volume could be created again", extra=facts(pv=name))
            self._telemetry.stuck(len(self.stuck))

    def _forget(self, name: PvName) -> None:
        self.pending.pop(name, None)
        self._set_absent(name, absent=False)
        self._unstick(name)

    def _set_absent(self, name: PvName, *, absent: bool) -> None:
        (self._absent.add if absent else self._absent.discard)(name)
        self._telemetry.absent(len(self._absent))


def _seen(sight: Sight) -> Manifest:
    if sight.pv is None:
        raise AssertionError("this step is only chosen for a volume that is there")
    return sight.pv
