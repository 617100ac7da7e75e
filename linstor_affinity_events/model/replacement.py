"""The order of a replacement: chooses the next step from the observed state.

After a crash, or beside another instance, the same observation leads to the same steps, so there
is no separate code for resuming. docs/architecture.md has the complete order.
"""

from linstor_affinity_events.model.changes import changes_decision, taken_over, within_space
from linstor_affinity_events.model.claim_ref import (
    detached,
    disowned,
    rebound,
    tombstone_patch,
    with_claim_of,
)
from linstor_affinity_events.model.deletion import DeletedBy, absent_by_others, deleted_by
from linstor_affinity_events.model.demands import Original, demands_of, unconfirmed
from linstor_affinity_events.model.journal_entry import JournalEntry, Space, State
from linstor_affinity_events.model.keys import ORIGINAL_POLICY_ANNOTATION
from linstor_affinity_events.model.manifest import (
    RETAIN,
    Manifest,
    annotations_of,
    claim_of,
    finalizers_of,
    is_terminating,
    phase_of,
    reclaim_policy_of,
    skip_reclaim_of,
    tombstone_for,
    uid_of,
    volume_mode_of,
)
from linstor_affinity_events.model.markers import (
    Before,
    confirmed_values_of,
    has_any_marker,
    holder_of,
    is_marked,
    is_safe_to_release,
    mark_patch,
    may_have_set_retain,
    recorded_values_of,
    unmarking,
)
from linstor_affinity_events.model.names import PvName, few
from linstor_affinity_events.model.observation import Observation, RunFacts
from linstor_affinity_events.model.obstacles import unknown_finalizers
from linstor_affinity_events.model.ownership import (
    claim_is_leaving,
    is_entitled,
    made_by_us,
    takes_name_of_another,
    was_its_own,
    was_seen_as_its_own,
)
from linstor_affinity_events.model.recreation import (
    protected_as,
    with_policy,
    with_retain,
    without_finalizers,
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
    Outcome,
    ReadClaim,
    Remove,
    Save,
    Step,
    Unmark,
)


def next_step(entry: JournalEntry, observation: Observation, run: RunFacts) -> Step:
    """Choose the next step. Uid and version guard every write, so a step chosen from an outdated
    observation ends in a conflict and a new observation, never in damage.
    """
    step = _next_step(entry, observation, run)
    if isinstance(step, Create) and not run.uninterrupted:
        # No volume with another finalizer is replaced, so another client wrote it into the entry.
        unknown = unknown_finalizers(finalizers_of(step.body), run.allowed_finalizers)
        return Create(without_finalizers(step.body, unknown))
    return step


def _next_step(entry: JournalEntry, observation: Observation, run: RunFacts) -> Step:
    pv, original = observation.pv, observation.original
    if original is not None and (why := _contradiction(entry, original, absent=pv is None)):
        return LeaveAlone(f"{why}: somebody else wrote the entry")
    if pv is None:
        step = _absent(_as_observed(entry, observation, run), observation, run)
        takes_name = takes_name_of_another(entry, observation.claim, original)
        if isinstance(step, Create) and takes_name and not run.uninterrupted:
            return LeaveAlone(
                f"csi-provisioner names the volume of a claim {entry.pv}, and nothing but the "
                "journal entry says that this volume was for that claim"
            )
        return step
    if uid_of(pv) != entry.uid:
        return Drop(_how_it_came_back(entry, pv, run))
    if is_terminating(pv):
        return _terminating(entry, pv, observation, run)
    return _alive(entry, pv, observation, run)


def _contradiction(entry: JournalEntry, original: Original, *, absent: bool) -> str | None:
    """How the entry contradicts what was observed of the volume. One for another incarnation than
    the last that was seen does so only while the volume is absent.
    """
    if original.uid != entry.uid:
        return (
            f"the journal entry is for uid {entry.uid or 'none'} of PersistentVolume {entry.pv}, "
            f"which had uid {original.uid}"
            if absent
            else None
        )
    if original.key != entry.key:
        return (
            f"the journal entry is for LINSTOR volume {entry.key}, but PersistentVolume "
            f"{entry.pv} was for {original.key or 'none'}"
        )
    return None


def _how_it_came_back(entry: JournalEntry, pv: Manifest, run: RunFacts) -> Outcome:
    """The outcome if another incarnation of the volume exists."""
    if is_terminating(pv) or not (uid_of(pv) == run.created or made_by_us(pv)):
        return Outcome.SUPERSEDED
    named = claim_of(pv)
    apart = named is not None and named.name == tombstone_for(entry.uid)
    # The volume may have the annotation since it once kept Retain, and was repaired.
    had = entry.policy == RETAIN and ORIGINAL_POLICY_ANNOTATION in annotations_of(entry.wanted)
    has = ORIGINAL_POLICY_ANNOTATION in annotations_of(pv) and not had
    retained = (has or run.retained_in_doubt) and reclaim_policy_of(pv) == RETAIN
    return Outcome.RECREATED_WITH_RETAIN if apart or retained else Outcome.DONE


def _as_observed(entry: JournalEntry, observation: Observation, run: RunFacts) -> JournalEntry:
    """The entry with what kept the data of the original, if another client may have written it."""
    seen = observation.original
    if run.original_known or seen is None or seen.before is None:
        return entry
    return entry.wanting(protected_as(entry.wanted, seen.before))


def _absent(entry: JournalEntry, observation: Observation, run: RunFacts) -> Step:
    if absent_by_others(entry, observation, run):
        return Drop(Outcome.DELETED_BY_USER)
    if run.uninterrupted:
        # The volume existed a moment ago and is recreated as it was. If its claim was deleted
        # meanwhile, that has its usual consequences.
        return Create(entry.wanted)
    beside = observation.others
    if beside and not was_its_own(entry, observation.original):
        return _left_beside(beside)
    if entry.user is None:
        unclaimed = _was_seen_unclaimed(entry, observation.original)
        return Create(entry.wanted if unclaimed else detached(entry.wanted, entry.uid))
    if not observation.claim_known:
        return ReadClaim()
    entitled = is_entitled(
        entry,
        observation.claim,
        original=observation.original,
        storage_class=observation.storage_class,
    )
    if beside and not entitled:
        return _left_beside(beside)
    return Create(_to_recreate(entry, observation, entitled=entitled))


def _to_recreate(entry: JournalEntry, observation: Observation, *, entitled: bool) -> Manifest:
    """The volume as it is recreated: for its claim, or else with Retain, for nobody if its claim
    may not have it.
    """
    wanted, claim = entry.wanted, observation.claim
    if entitled:
        # A claim that is being deleted was deleted after the markers, which set Retain.
        return with_retain(wanted) if claim_is_leaving(entry, claim) else wanted
    if claim is not None and entry.user is not None and uid_of(claim) == entry.user.uid:
        # It exists, but does not refer to this volume any more, or is not entitled to it.
        return detached(wanted, entry.uid)
    if was_seen_as_its_own(entry, observation.original):
        # A claim that says that it is bound is bound by uid, whatever name the entry has for it.
        as_observed = _demands_as_observed(entry, observation)
        return with_retain(wanted) if as_observed else detached(wanted, entry.uid)
    return disowned(wanted, entry.uid)


def _was_seen_unclaimed(entry: JournalEntry, seen: Original | None) -> bool:
    """Whether any claim could have the volume, as it is wanted, before it was deleted."""
    if seen is None or seen.claim or seen.namespace or claim_of(entry.wanted) is not None:
        return False
    if seen.mode != volume_mode_of(entry.wanted):
        return False
    return not unconfirmed(demands_of(entry.wanted), original=seen.demands, storage_class=None)


def _demands_as_observed(entry: JournalEntry, observation: Observation) -> bool:
    """Whether it demands nothing that its original did not, for a claim of the same namespace."""
    seen = observation.original
    if seen is None or entry.user is None or seen.namespace != entry.user.namespace:
        return False
    return not unconfirmed(
        demands_of(entry.wanted),
        original=seen.demands,
        storage_class=observation.storage_class,
    )


def _left_beside(others: tuple[PvName, ...]) -> LeaveAlone:
    return LeaveAlone(
        f"the volume is missing, but PersistentVolume {few(others)} refers to the "
        "same LINSTOR volume, and nothing but the journal entry says that its claim may "
        "have the data"
    )


def _alive(entry: JournalEntry, pv: Manifest, observation: Observation, run: RunFacts) -> Step:
    whole = is_marked(pv)
    own = _original_in(entry)
    known = run.original_known or confirmed_values_of(pv) == own
    # Entry and markers of another run may be anybody's: a live volume is decided on again.
    if run.begun and whole and known and not _has_to_be_decided_again(entry, pv):
        wanted = entry.wanting(taken_over(entry.wanted, pv))
        if entry.state is State.PREPARED:
            return Save(wanted.deleting())
        # Write our name before deleting, so that others can distinguish our deletion from a user's.
        if not observation.taken or wanted != entry:
            return Save(wanted)
        if holder_of(pv) == run.holder:
            return Delete()
        return Mark(mark_patch(pv, run.holder, before=own))
    if whole or has_any_marker(pv):
        # Another client changed it, or removed a part of what makes the deletion harmless. The
        # entry first: a deletion from now on is not ours. If another run marked it, the markers
        # first: its deletion may be on its way, and needs the entry until that fails.
        if run.begun and entry.state is State.DELETING:
            return Save(entry.prepared())
        return _unmark(entry, pv, observation, run, Outcome.ROLLED_BACK)
    if entry.state is State.PREPARED and observation.entry_is_new:
        return MarkAndSave(mark_patch(pv, run.holder), entry.deleting())
    return Drop(Outcome.SUPERSEDED)


def _original_in(entry: JournalEntry) -> Before:
    """Policy and skip-reclaim of the entry. On a live volume, and before `_protected`, they count
    only for who knows the original.
    """
    return entry.policy, skip_reclaim_of(entry.wanted)


def _has_to_be_decided_again(entry: JournalEntry, pv: Manifest) -> bool:
    merged = taken_over(entry.wanted, pv)
    if claim_of(pv) != entry.claim or changes_decision(entry.wanted, merged) is not None:
        return True
    return merged != entry.wanted and not Space.left_by(merged).suffices


def _unmark(
    entry: JournalEntry, pv: Manifest, observation: Observation, run: RunFacts, outcome: Outcome
) -> Step:
    known = run.uninterrupted or observation.claim_known or outcome is Outcome.DELETED_BY_USER
    if entry.user is not None and not known:
        return ReadClaim()
    return rolled_back(entry, pv, observation, run, outcome)


def rolled_back(
    entry: JournalEntry, pv: Manifest, observation: Observation, run: RunFacts, outcome: Outcome
) -> Unmark:
    """Remove our markers. If the claim went while they set Retain, and another run was involved,
    a user may have relied on that: Retain stays. The claim is known unless it is all one run.
    """
    gone = entry.user is not None and (
        phase_of(pv) != "Bound" or claim_is_leaving(entry, observation.claim)
    )
    ours = may_have_set_retain(pv, marked=run.marked)
    unmarked = unmarking(
        pv,
        keep=gone and not run.uninterrupted and outcome is not Outcome.DELETED_BY_USER,
        own=_original_in(entry) if ours and run.original_known else None,
        recorded=entry.policy,
    )
    return Unmark(unmarked.patch, Outcome.RECREATED_WITH_RETAIN if unmarked.retained else outcome)


def _terminating(
    entry: JournalEntry, pv: Manifest, observation: Observation, run: RunFacts
) -> Step:
    match deleted_by(entry, pv, observation, run):
        case DeletedBy.US:
            return _release(entry, pv, observation, run)
        case DeletedBy.OWNER:
            return _let_go(entry, pv, observation, run)
        case DeletedBy.REFERENCE:
            # Another client wrote the entry: the saved PV has the rest.
            return Drop(Outcome.SUPERSEDED)
        case LeaveAlone() as step:
            return step


def _release(entry: JournalEntry, pv: Manifest, observation: Observation, run: RunFacts) -> Step:
    """Up to the removal of a volume that this service has deleted."""
    protected = entry.wanted if run.original_known else _protected(entry, pv)
    if protected != entry.wanted:
        return Save(entry.wanting(protected))
    if not is_safe_to_release(pv):
        # Who continues must not take our Retain for the original, where others removed the markers.
        mark = Mark(mark_patch(pv, run.holder, before=_original_in(entry)))
        return _saving_changes(entry, pv, observation) or mark
    if rebound(pv, entry.claim):
        return Save(entry.wanting(with_claim_of(entry.wanted, pv)))
    if entry.user is not None and not observation.claim_ref_immutable:
        if claim_of(pv) == entry.claim:
            # Another instance may be about to find that its owner deleted it.
            here = run.uninterrupted or run.deletion_requested
            ours = here and holder_of(pv) == run.holder
            return DetachClaimRef(tombstone_patch(pv, deleted=ours))
        if phase_of(pv) == "Bound" and not observation.guard_over:
            return AwaitBinder()
    if (saving := _saving_changes(entry, pv, observation)) is not None:
        return saving
    if entry.user is not None and not observation.claim_known:
        return ReadClaim()
    return Remove()


def _protected(entry: JournalEntry, pv: Manifest) -> Manifest:
    """The volume as the entry wants it, with what keeps the data, which is left out only if entry
    and volume agree. If it may have had another policy than Retain, an annotation holds that.
    """
    before, wanted = confirmed_values_of(pv), entry.wanted
    if before is None:
        # Others removed the markers, or have written them: anybody may have written the entry.
        nobody_knows = is_safe_to_release(pv) or recorded_values_of(pv) is None
        in_doubt = nobody_knows and reclaim_policy_of(pv) == RETAIN
        return with_retain(wanted) if in_doubt else wanted
    if entry.policy == RETAIN != before[0]:
        wanted = with_retain(with_policy(wanted, before[0]))
    return protected_as(wanted, before)


def _let_go(entry: JournalEntry, pv: Manifest, observation: Observation, run: RunFacts) -> Step:
    """Its owner deleted the volume."""
    if has_any_marker(pv):
        return _unmark(entry, pv, observation, run, Outcome.DELETED_BY_USER)
    return Drop(Outcome.DELETED_BY_USER)


def _saving_changes(entry: JournalEntry, pv: Manifest, observation: Observation) -> Save | None:
    """Save what others changed on the volume; None if nothing, or if that was rejected before.
    Annotations for which there is no space are added to the new volume, as a late write.
    """
    merged = entry.wanting(within_space(entry.wanted, taken_over(entry.wanted, pv)))
    return None if merged == entry or observation.cannot_merge else Save(merged)
