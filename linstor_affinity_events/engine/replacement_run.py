"""One replacement run: takes the steps of model/replacement.py and classifies failures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NoReturn, assert_never

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.late_write import carry_over_late_write
from linstor_affinity_events.engine.ports import Index, Journal, Volumes, VolumeWatch
from linstor_affinity_events.engine.together import together
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import Again, Conflict, Refused, Stalled, Unreachable
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.changes import as_rehearsed
from linstor_affinity_events.model.decision import Reason, Refusal
from linstor_affinity_events.model.demands import Demands, demands_of
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    VolumeKey,
    provisioned_for,
)
from linstor_affinity_events.model.manifest import (
    Manifest,
    claim_of,
    finalizers_of,
    is_terminating,
    name_of,
    phase_of,
    skip_reclaim_of,
    uid_of,
)
from linstor_affinity_events.model.markers import (
    Before,
    has_any_marker,
    is_marked,
    marker_of,
    unmarking,
)
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.readiness import is_being_resized
from linstor_affinity_events.model.recreation import created_different
from linstor_affinity_events.model.replacement import (
    AwaitBinder,
    Create,
    Delete,
    DetachClaimRef,
    Drop,
    LeaveAlone,
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
    was_seen_as_its_own,
)

log = logging.getLogger(__name__)

MAX_STEPS = 60
"""A replacement takes about twelve. Something that undoes our writes (an admission webhook that
strips finalizers, for example) must not cause an endless loop.
"""

RELIED_ON_AFTER = 60.0
"""After this time somebody may rely on policy Retain of a marked volume."""

CLAIM_FRESH_FOR = 0.1
AFFINITY_FIELD = "spec.nodeAffinity"
CREATE_ATTEMPTS = 10
"""How often to try to create the volume while the old one is being removed."""

RESIZE_AT_MOST, RESIZE_CHECKED_EVERY = 1.0, 0.05
"""How long the removal of a volume waits for a resize of its claim. LINSTOR does not grow a volume
while a replica is not UpToDate, which may need this very replacement, so it can't be long.
"""

MAX_CONFLICTS = 5
MAX_FAILURES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What all replacement runs of this instance share."""

    volumes: Volumes
    index: Index
    journal: Journal
    guard: ClaimGuard
    unfinished: Unfinished
    delays: Callable[[], Backoff]
    allowed_finalizers: tuple[str, ...]
    holder: str
    """The name that this instance writes into journal entries."""


async def observe(
    dependencies: Dependencies, name: PvName
) -> tuple[Manifest | None, JournalEntry | None]:
    """Read the volume and its journal entry in an order that keeps them consistent.

    An entry read after the volume was gone is the last one written before that. A volume read
    after its entry said `deleting` shows everything done until then.
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
    """The same observation, with what this instance knows beside it: what confirms demands of the
    volume beyond holding data, and who else uses its data.

    Raises Unreachable if that is not known yet.
    """
    if observation.pv is not None and uid_of(observation.pv) == entry.uid:
        dependencies.unfinished.observed(observation.pv)
    demands, original = demands_of(entry.wanted), dependencies.unfinished.original(entry)
    if observation.pv is None:
        unlisted = original is None and not dependencies.unfinished.complete
        if unlisted and provisioned_for(entry.key.resource) is None:
            # The label of an entry, or its name, may be anybody's: what it says itself counts.
            raise Stalled(f"not all journal entries are listed yet, so {entry.pv} has to wait")
        unused = not was_seen_as_its_own(entry, original)
        others = used_by_others(dependencies, entry.key, but=entry.pv, unused=unused)
        observation = replace(observation, others=others)
    if demands in {Demands(), original and original.demands}:
        return replace(observation, original=original)
    if not dependencies.index.classes_known:
        raise Unreachable(f"the StorageClass of {entry.pv} has not been listed yet")
    name = str(entry.wanted["spec"].get("storageClassName") or "")
    return replace(
        observation, original=original, storage_class=dependencies.index.storage_class(name)
    )


def used_by_others(
    dependencies: Dependencies, key: VolumeKey, *, but: PvName, unused: bool
) -> tuple[PvName, ...]:
    """All other volumes for this LINSTOR volume that claims use, or may use: those that are being
    deleted or replaced, and absent ones with a journal entry. `unused` ones too, whose data policy
    Retain may keep.
    """
    there = {
        other.name
        for other in dependencies.index.of(key.resource)
        if other.key == key and other.name != but and (unused or other.in_use)
    }
    absent = {
        name
        for name in dependencies.unfinished.pending_with(key, but=but)
        if dependencies.index.get(name) is None
    }
    replaced = dependencies.unfinished.observed_with(key, but=but)
    return tuple(sorted(there.union(absent, replaced)))


async def unmark_without_entry(
    dependencies: Dependencies, pv: Manifest | None, *, own: Before | None = None
) -> Outcome | Refusal:
    """Remove our replacement markers from a live volume without a journal entry.

    The markers say what was there before, but anybody who may write annotations can set them.
    Unless this run has set them (`own`), policy Retain stays, and an annotation holds the original.
    """
    if pv is None or not has_any_marker(pv):
        return Outcome.SUPERSEDED
    if is_terminating(pv) and FINALIZER not in finalizers_of(pv):
        # It goes by itself, or with a saved PV of the reference controller that is read next.
        return Outcome.SUPERSEDED
    if is_terminating(pv):
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            f"it is being deleted and has finalizer {FINALIZER}, but the journal "
            "entry of its replacement is gone; read docs/reliability.md before "
            "you remove the finalizer",
        )
    if is_marked(pv) and marker_of(pv) is None:
        return Refusal(
            Reason.BAD_JOURNAL_ENTRY,
            f"it has finalizer {FINALIZER}, but neither a journal entry nor "
            f"annotation {MARKER_ANNOTATION} says what to restore; see "
            "docs/reliability.md",
        )
    # If its claim went while it said Retain, somebody may have relied on that.
    unmarked = unmarking(pv, keep=own is None or not await _in_use(dependencies, pv), own=own)
    await dependencies.volumes.patch(name_of(pv), unmarked.patch)
    if not unmarked.retained:
        return Outcome.ROLLED_BACK
    dependencies.unfinished.retained(pv)
    return Outcome.RECREATED_WITH_RETAIN


async def _in_use(dependencies: Dependencies, pv: Manifest) -> bool:
    """Whether the claim of a live volume exists and stays; True if it names none."""
    named = claim_of(pv)
    if named is None or not named.uid:
        return True
    claim = await dependencies.volumes.read_claim(named)
    there = claim is not None and uid_of(claim) == named.uid and not is_terminating(claim)
    return there and phase_of(pv) == "Bound"


class ReplacementRun:
    """Takes one replacement from the observed state to its end."""

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
        """The version of the entry with which this run, before any other, is about to delete."""
        self.asked = False
        """Whether a deletion that we requested may have taken effect."""
        self.removed = False
        """Whether a release of the finalizers that we requested may have taken effect."""
        self.steps = self.conflicts = self.failures = 0
        self.outcome: Outcome | LeaveAlone | None = None
        self.must_observe = False
        """Whether the last observation may be outdated."""
        self.finished = False
        self.own = own
        """Whether everything so far was done in this run."""
        self._wrote = self._tried = replace(entry, version="")
        self._rehearsed = entry.wanted
        """What a dry run has shown that Kubernetes would create, if this run began it."""
        self.different: tuple[str, ...] = ()
        """The parts of the volume that differ from what was requested."""
        self._asked_for: Manifest | None = None
        self._before: Manifest | None = None
        """The claim as last read before the volume was removed."""
        self._begun = asyncio.get_running_loop().time()
        self._waited = False
        self._resized_by: float | None = None
        """Until when to wait for csi-resizer, once it was seen to be at work."""

    @property
    def held_up(self) -> bool:
        """Whether it waited for something that does not depend on the number of changes."""
        return self._waited or self.observation.guard_over or self.failures > 0

    async def run(self) -> Outcome | LeaveAlone:
        """Take all steps. Raises an error from which a later reconcile starts again."""
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
                log.debug("replacement conflict", extra=facts(pv=self.entry.pv, error=error))
            except Stalled:
                raise
            except Again as error:
                # Keep trying once it may be deleted; before that, a later reconcile starts again.
                self.failures += 1
                if self.entry.state is State.PREPARED or self.failures > MAX_FAILURES:
                    raise
                self.must_observe = True
                await asyncio.sleep(max(delays.next(), error.after or 0.0))
        if self.outcome is None:
            self._dependencies.unfinished.without_entry(self.entry.pv)
        elif not isinstance(self.outcome, LeaveAlone):
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
            replace(
                self.observation,
                uninterrupted=self._uninterrupted,
                allowed_finalizers=self._dependencies.allowed_finalizers,
            ),
        )
        step = next_step(self.entry, self.observation)
        self.steps += 1
        if self.steps > MAX_STEPS:
            name = type(step).__name__
            raise Stalled(
                f"the replacement of {self.entry.pv} makes no progress: step {name} has no effect"
            )
        log.debug("replacement step", extra=facts(pv=self.entry.pv, step=type(step).__name__))
        try:
            await self._take(step)
        except Refused as error:
            await self._refused(step, error)

    async def _observe_again(self) -> None:
        """Observe again, and continue from there."""
        pv, entry = await observe(self._dependencies, self.entry.pv)
        if entry is None:
            # Another instance finished it, or dropped our new entry as superseded.
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
        # An entry that differs from what we wrote is somebody else's.
        self.own &= replace(entry, version="") in (self._wrote, self._tried)
        self.entry, self.must_observe = entry, False
        # Nothing from an older observation of the volume is kept.
        taken = entry.holder == self._dependencies.holder
        created = self._asked_for is not None
        self.observation = Observation(pv=pv, taken=taken, created=created)

    def _deleted_by_another(self, pv: Manifest | None, entry: JournalEntry) -> bool:
        """Whether an observed deletion can't be ours: all our requests were conflicts, and nobody
        has written the entry since, as other instances do before they delete.
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
                claim = await self._read_claim_at_rest(entry)
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
            case LeaveAlone():
                self.outcome, self.finished = step, True
            case _:
                assert_never(step)

    async def _verify(self, outcome: Outcome) -> None:
        """Verify that nothing was lost: neither the claim nor writes of others."""
        made, checks = self.observation.pv, list[Awaitable[bool | None]]()
        if made is not None and outcome in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN}:
            # A volume that another run created may have been changed since.
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
        # Run both to their end: the last event of the old volume arrives only once.
        found = await asyncio.gather(*checks, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        self._waited |= False in found

    async def _await_binder(self) -> None:
        """Wait for the binder and read the claim meanwhile, which is outdated after a long wait."""
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
            claim_known=clock() - began < CLAIM_FRESH_FOR
            and not (claim is not None and is_being_resized(claim)),
        )

    async def _read_claim(self, entry: JournalEntry) -> Manifest | None:
        if entry.claim is None:
            return None
        claim = await self._dependencies.volumes.read_claim(entry.claim)
        if not self.removed:
            self._before = claim
        return claim

    async def _read_claim_at_rest(self, entry: JournalEntry) -> Manifest | None:
        """Read the claim once csi-resizer is done with it, or has taken too long. The volume binder
        calls a claim Lost if somebody writes to it in the milliseconds without its volume.
        """
        clock = asyncio.get_running_loop().time
        if self._resized_by is None:
            self._resized_by = clock() + RESIZE_AT_MOST
        while True:
            claim = await self._read_claim(entry)
            if claim is None or not is_being_resized(claim) or clock() >= self._resized_by:
                return claim
            self._waited = True
            await asyncio.sleep(RESIZE_CHECKED_EVERY)

    async def _remove(self) -> None:
        """Release the volume; after a wait for the binder's resync, read the claim again first."""
        if await self._dependencies.guard.avoid_resync():
            self._waited = True
            self.observation = replace(self.observation, claim_known=False)
            if self.entry.user is not None:
                return
        self.removed = True
        await self._recreate()

    def _made(self, pv: Manifest, body: Manifest) -> None:
        self._asked_for = body
        self.observation = replace(self.observation, pv=pv, created=True)
        self._dependencies.unfinished.present(self.entry.pv)

    async def _recreate(self) -> None:
        """Release the old volume and create the new one concurrently.

        While the old volume exists, the creation ends in a harmless conflict. So the new volume
        exists within a fraction of a round trip, and the binder, which resyncs all claims every
        15 s, hardly ever sees a claim without its volume. The next steps deal with any failure.
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
            raise TypeError("the claim is read before the volume is removed")
        removed, made = await asyncio.gather(remove(), create(then.body), return_exceptions=True)
        if isinstance(removed, BaseException):
            raise removed
        if isinstance(made, BaseException) or made is None:
            self._dependencies.unfinished.gone(self.entry.pv)
            self.observation = replace(self.observation, pv=None)
        else:
            self._made(made, then.body)

    async def _save(self, changed: JournalEntry) -> None:
        """Save the entry with our name as holder, so that others see who continues."""
        before = self.entry
        self._wrote = replace(before, version="")
        self._tried = replace(changed, holder=self._dependencies.holder, version="")
        self.entry = await self._dependencies.journal.save(
            replace(self._tried, version=changed.version)
        )
        # While the entry said `prepared`, nobody can have deleted it.
        first = before.state is State.PREPARED or self.deleting_version == before.version
        if first and not self.asked:
            self.deleting_version = self.entry.version
        self.observation = replace(self.observation, taken=True)

    async def _delete(self) -> None:
        asked, self.asked = self.asked, True
        try:
            pv = await self._dependencies.volumes.delete(_present(self.observation))
        except Conflict:
            # The only failure that proves that nothing happened.
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
        """Classify a rejection: roll back before the deletion, continue after it."""
        match step:
            case DetachClaimRef():
                log.warning(
                    "the API server rejects changes of the claimRef; replacing the "
                    "volume without detaching it, its claim may be Lost for a moment",
                    extra=facts(pv=self.entry.pv, error=error),
                )
                self.observation = replace(self.observation, claim_ref_immutable=True)
            case Delete():
                await self._roll_back()
                raise error
            case Mark() | Save() if self.entry.state is State.PREPARED:
                await self._roll_back()
                raise error
            case Create(body) if self.own and body != self._rehearsed:
                # What others changed since the dry run may be why. The volume exists first; what is
                # left out is added to it as a late write, which Kubernetes may refuse on its own.
                rehearsed = as_rehearsed(self.entry.wanted, self._rehearsed)
                if rehearsed != self.entry.wanted:
                    log.warning(
                        "Kubernetes rejects the volume with the changes that "
                        "others made during its replacement; recreating it "
                        "without them and applying them afterwards",
                        extra=facts(pv=self.entry.pv, error=error),
                    )
                    await self._save(self.entry.wanting(rehearsed))
                    return
                self._stuck(error)
            case Create() if self.own:
                # Only a volume that this run removed, and that Kubernetes refuses as it would have
                # accepted it before, blocks other replacements. Anything else may be caused by
                # somebody who writes journal entries or annotations.
                self._stuck(error, blocking=True)
            case Create() | Remove() | Mark() | Save() | ReadClaim() | AwaitBinder():
                self._stuck(error)
            case _:
                raise error

    def _stuck(self, error: Refused, *, blocking: bool = False) -> NoReturn:
        self._dependencies.unfinished.mark_stuck(self.entry, error, blocking=blocking)
        raise error

    async def _roll_back(self) -> None:
        """Roll back, the entry first: a deletion from now on is not ours, even if the response to a
        later write is lost.
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
