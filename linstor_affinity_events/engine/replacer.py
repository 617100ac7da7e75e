"""Swaps a volume for its like with another affinity; may be stopped and resumed anywhere.

The order of the steps is in model/replacement.py; walk.py takes them.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.ports import Ports
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.engine.walk import Means, Walk, confirmed, see, unmark_alone
from linstor_affinity_events.errors import BadNote, Conflict, Refused
from linstor_affinity_events.model.affinity import NodeAffinity
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import (
    Manifest,
    decides_otherwise,
    is_marked,
    mark_patch,
    taken_over,
)
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.note import Note, State
from linstor_affinity_events.model.readiness import obstacle
from linstor_affinity_events.model.replacement import Outcome, Sight, is_entitled, was_its_own
from linstor_affinity_events.model.verdict import Later, Reason, Refusal
from linstor_affinity_events.model.volume import Volume

BLOCKED_AGAIN = 5.0
NOT_MINE = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A replacement that came to an end, and the volume that stands there now, if it is ours."""

    outcome: Outcome
    volume: Volume | None
    different: tuple[str, ...] = ()
    """The parts of it that came out otherwise than was asked for."""

    held_up: bool = False
    """Whether it took long for a reason that has nothing to do with how busy everybody is."""


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """An absent volume that is not created, since claims use others for the same LINSTOR volume."""

    others: tuple[PvName, ...]


class Replacer:
    """Every step may be cut off before or after it took effect; `resume` picks up the rest."""

    def __init__(
        self,
        ports: Ports,
        *,
        delays: Callable[[], Backoff],
        holder: str,
        may_begin: Callable[[], bool],
        guard_timeout: float = 2.0,
        allowed_finalizers: Iterable[str] = (),
    ) -> None:
        volumes, telemetry = ports.volumes, ports.telemetry
        self._volumes, self._journal = volumes, ports.journal
        self._may_begin, self._allowed_finalizers = may_begin, tuple(allowed_finalizers)
        self.unfinished = Unfinished(ports.notices, telemetry, volumes.describe)
        self._means = Means(
            volumes=volumes,
            index=ports.index,
            journal=ports.journal,
            guard=ClaimGuard(volumes, telemetry, delays, timeout=guard_timeout),
            unfinished=self.unfinished,
            delays=delays,
            holder=holder,
        )

    async def load(self) -> Collection[VolumeKey]:
        """Learn anew which replacements are unfinished; answers the LINSTOR volumes they are of."""
        before = tuple(self.unfinished.pending)
        listed = await self._journal.all()
        # Of those that were known, a part of the list says nothing.
        self.unfinished.know(listed.volumes, before=before if listed.whole else ())
        return frozenset(self.unfinished.pending.values())

    async def replace(
        self,
        pv: Manifest,
        claim: Manifest | None,
        key: VolumeKey,
        affinity: NodeAffinity,
        *,
        urgent: bool = False,
    ) -> Ended | Later | Refusal:
        """Replace a volume that was just read, or say what stands against it.

        Raises Conflict when somebody else is at it; Unreachable when it was cut off, with a note
        left to resume from if anything was begun.
        """
        if self.unfinished.blocking:
            others = ", ".join(sorted(self.unfinished.blocking))
            why = f"{others} can't be created again; no replacement begins until that is mended"
            return Later(Reason.BLOCKED, why, BLOCKED_AGAIN)
        against = obstacle(pv, claim, allowed_finalizers=self._allowed_finalizers, urgent=urgent)
        if against is not None:
            return against
        note = Note.begin(pv, key, affinity, holder=self._means.holder)
        try:
            marked = await self._volumes.rehearse(pv, mark_patch(pv), note.wanted)
        except Refused as error:
            return Refusal(Reason.NOT_ALLOWED, f"Kubernetes would not let it be replaced: {error}")
        if changed := admission_stands_against(note, marked):
            return Refusal(Reason.NOT_ALLOWED, changed)
        note = note.wanting(taken_over(note.wanted, marked))
        if not self._may_begin():
            return Later(Reason.NOT_LEADING, "this instance leads no more, or stops", NOT_MINE)
        with self._volumes.follow(note.pv) as sighting:
            try:
                note = await self._create_note(note)
            except BadNote as error:
                return Refusal(Reason.BAD_NOTE, f"a note of it can't be trusted: {error}")
            walk = Walk(self._means, note, Sight(pv=pv, begun_here=True), sighting, own=True)
            try:
                outcome = await walk.to_the_end()
            except Refused as error:
                if note.pv in self.unfinished.pending:
                    raise
                # All was taken back.
                return Refusal(
                    Reason.NOT_ALLOWED, f"Kubernetes does not let it be replaced: {error}"
                )
        made = walk.sight.pv
        now_there = None if made is None else self._volumes.describe(made)
        return Ended(outcome, now_there, walk.different, held_up=walk.held_up)

    async def _create_note(self, note: Note) -> Note:
        """Raises Conflict where there is one already, and BadNote where that is none."""
        try:
            note = await self._journal.create(note)
        except Conflict:
            await self._journal.read(note.pv)
            raise
        self.unfinished.noted(note)
        return note

    async def resume(self, name: PvName) -> Outcome | Refusal | LeftAlone:
        """Bring to its end what was begun with this volume, by whomever; nothing noted is fine."""
        with self._volumes.follow(name) as sighting:
            try:
                pv, note = await see(self._means, name)
            except BadNote as error:
                self.unfinished.ended(name)
                return Refusal(Reason.BAD_NOTE, str(error))
            if note is None:
                self.unfinished.ended(name)
                return await unmark_alone(self._means, pv)
            self.unfinished.noted(note)
            if pv is None and note.state is State.DELETING:
                others = self.used_by_others(note.key, but=name)
                if others and not await self._may_come_back(note):
                    return LeftAlone(others)
            sight = Sight(pv=pv, taken=note.holder == self._means.holder)
            return await Walk(self._means, note, sight, sighting).to_the_end()

    async def adopt(self, note: Note) -> Note:
        """Make a note of the reference controller's our own."""
        return await self._create_note(note)

    def used_by_others(self, key: VolumeKey, *, but: PvName) -> tuple[PvName, ...]:
        """The volumes that claims use and that stand for this LINSTOR volume, all but one: those
        that are being deleted, or are just being replaced, among them.
        """
        there = {
            other.name
            for other in self._means.index.of(key.resource)
            if other.key == key and other.name != but and other.in_use
        }
        return tuple(sorted(there.union(self.unfinished.seen_with(key, but=but))))

    async def _may_come_back(self, note: Note) -> bool:
        """Whether the claim of an absent volume may have it, whatever else stands for the same
        LINSTOR volume: only if it was the claim's before, which the entry does not tell.
        """
        if note.user is None or not was_its_own(note, self.unfinished.original(note)):
            return False
        sight = confirmed(self._means, note, Sight(pv=None))
        return is_entitled(
            note,
            await self._volumes.read_claim(note.user),
            original=sight.original,
            storage_class=sight.storage_class,
        )


def admission_stands_against(note: Note, marked: Manifest) -> str | None:
    """What an admission policy made of the dry run of our marks that can't be lived with. Labels
    and annotations that it adds are simply part of the volume from then on.
    """
    if not is_marked(marked):
        return (
            "an admission policy takes off the finalizer, the reclaim policy or the annotation "
            "that would protect its data while it is replaced"
        )
    changed = decides_otherwise(note.wanted, taken_over(note.wanted, marked))
    return changed and f"an admission policy changes its {changed} whenever it is updated"
