"""A whole replacement without an event loop: interrupted at every step, and resumed."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from linstor_affinity_events.errors import (
    Again,
    Conflict,
    Forbidden,
    Invalid,
    Refused,
    Stalled,
    Unreachable,
)
from linstor_affinity_events.model.advance import MAX_CONFLICTS, MAX_FAILURES, advance, following
from linstor_affinity_events.model.affinity import read_affinity
from linstor_affinity_events.model.claim_ref import tombstone_patch
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.keys import MARKER_ANNOTATION, OURSELVES
from linstor_affinity_events.model.manifest import (
    annotations_of,
    claim_of,
    is_terminating,
    phase_of,
    uid_of,
)
from linstor_affinity_events.model.markers import has_any_marker, mark_patch
from linstor_affinity_events.model.names import Uid
from linstor_affinity_events.model.observation import Observation
from linstor_affinity_events.model.progress import (
    Failed,
    Finished,
    Progress,
    begin,
    having_come_back,
)
from linstor_affinity_events.model.recreation import released
from linstor_affinity_events.model.replacement import next_step
from linstor_affinity_events.model.results import (
    BinderAwaited,
    ClaimRead,
    Done,
    Dropped,
    Failure,
    MarkedAndSaved,
    Observed,
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
from tests.model.manifests import (
    applied,
    begun,
    claim,
    in_phase,
    managed,
    on_node,
    terminating,
    volume,
    with_metadata,
)

Json = dict[str, Any]

ORIGINAL = volume()
US, ANOTHER = "pod-1", "pod-2"


@dataclass
class Cluster:
    """One volume, its claim and its journal entry, with the API server's guards."""

    pv: Json | None = field(default_factory=volume)
    entry: JournalEntry | None = None
    made: int = 0

    def take(self, step: Step, progress: Progress) -> Result:
        """What taking this step does here, and returns. Raises Conflict as the API server does."""
        match step:
            case Observe():
                return Observed(self.pv, self.entry)
            case Mark(patch) | DetachClaimRef(patch) | Unmark(patch):
                self.pv = self._guarded(patch)
                return Written(self.pv)
            case Save(changed):
                return Saved(self.stored(replace(changed, holder=progress.run.holder)))
            case MarkAndSave():
                return self._marked_and_saved(step, progress)
            case Delete():
                self.pv = terminating(self._observed_by(progress))
                return Written(self.pv)
            case AwaitBinder():
                self.pv = in_phase(self._observed_by(progress), "Released")
                return BinderAwaited(pv=self.pv, in_time=True, claim=claim(), fresh=True)
            case ReadClaim():
                return ClaimRead(claim())
            case Remove():
                body = released(self._observed_by(progress))
                assert not body["metadata"]["finalizers"]
                self.pv = None
                then = next_step(
                    progress.entry, replace(progress.observation, pv=None), progress.run
                )
                assert isinstance(then, Create)
                return self._created(then.body)
            case Create(body):
                return self._created(body)
            case Drop():
                self.stored(None)
                return Dropped()
            case UnmarkWithoutEntry() | LeaveAlone():
                return Done(step if isinstance(step, LeaveAlone) else Outcome.ROLLED_BACK)

    def _marked_and_saved(self, step: MarkAndSave, progress: Progress) -> MarkedAndSaved:
        entry = self.stored(replace(step.entry, holder=progress.run.holder))
        try:
            self.pv = self._guarded(step.patch)
        except Conflict as error:
            return MarkedAndSaved(pv=None, entry=entry, error=error)
        return MarkedAndSaved(pv=self.pv, entry=entry, error=None)

    def _observed_by(self, progress: Progress) -> Json:
        observed = progress.observation.pv
        if self.pv is None or observed is None or version(observed) != version(self.pv):
            raise Conflict("the volume was changed")
        return self.pv

    def _guarded(self, patch: Any) -> Json:
        if self.pv is None or version(patch) != version(self.pv):
            raise Conflict("the volume was changed")
        changed = applied(self.pv, patch)
        return managed(changed) if has_any_marker(changed) else changed

    def stored(self, changed: JournalEntry | None) -> JournalEntry:
        self.made += 1
        if changed is not None:
            changed = replace(changed, version=str(self.made))
        self.entry = changed
        return changed or begun(ORIGINAL)

    def _created(self, body: Any) -> Recreated:
        if self.pv is not None:
            raise Conflict("there is one already")
        self.made += 1
        metadata = {
            "uid": f"made-{self.made}",
            "resourceVersion": "5000",
            "managedFields": [{"manager": OURSELVES}],
        }
        self.pv = in_phase(with_metadata(dict(body), **metadata), "Bound")
        return Recreated(pv=self.pv, asked_for=body)


def version(manifest: Any) -> str:
    return str(manifest["metadata"]["resourceVersion"])


@dataclass(frozen=True)
class Interruption:
    """What goes wrong at the step of this number."""

    at: int
    how: str

    def __str__(self) -> str:
        return f"{self.how}-{self.at}"


HOW = ("crash before", "crash after", "answer lost", "request lost", "changed by others")


def replaced(cluster: Cluster, *interruptions: Interruption) -> tuple[list[Step], Finished]:
    """Replace the volume. Each interruption hits the run that continues by then."""
    steps = list[Step]()
    progress = started(cluster)
    left, number = list(interruptions), 0
    while True:
        wrong = left.pop(0).how if left and left[0].at == number else ""
        step = following(progress)
        steps.append(step)
        number += 1
        after = (
            progress
            if wrong == "crash before"
            else advance(progress, step, result_of(cluster, step, progress, wrong))
        )
        if wrong.startswith("crash"):
            if cluster.entry is None:
                return steps, Finished(progress, Outcome.DONE)
            after = resumed(cluster)
        if isinstance(after, Finished):
            return steps, after
        if isinstance(after, Failed):
            # A later reconcile continues, if there is anything left.
            if cluster.entry is None:
                return steps, Finished(progress, Outcome.ROLLED_BACK)
            after = resumed(cluster, holder=US)
        progress = after


def result_of(cluster: Cluster, step: Step, progress: Progress, wrong: str) -> Result:
    if wrong == "request lost":
        return Failure(Unreachable("no answer"))
    if wrong == "changed by others" and cluster.pv is not None:
        cluster.pv = applied(cluster.pv, {"metadata": {"labels": {"seen": "yes"}}})
    try:
        result = cluster.take(step, progress)
    except Conflict as error:
        return Failure(error)
    return Failure(Unreachable("no answer")) if wrong == "answer lost" else result


def resumed(cluster: Cluster, holder: str = ANOTHER) -> Progress:
    """The progress of an instance that finds the entry."""
    assert cluster.entry is not None
    taken = cluster.entry.holder == holder
    return begin(cluster.entry, Observation(pv=cluster.pv, taken=taken), holder=holder)


def whole(cluster: Cluster, *, moved: bool | None = None) -> None:
    """Nothing is missing, nothing is left, and only the node affinity may be new."""
    pv = cluster.pv
    assert pv is not None
    assert cluster.entry is None
    assert not is_terminating(pv)
    assert not has_any_marker(pv)
    assert claim_of(pv) == claim_of(ORIGINAL)
    assert phase_of(pv) == "Bound"
    for key in ORIGINAL["spec"].keys() - {"nodeAffinity"}:
        assert pv["spec"][key] == ORIGINAL["spec"][key], key
    assert ORIGINAL["metadata"]["labels"].items() <= pv["metadata"]["labels"].items()
    assert pv["metadata"]["annotations"] == ORIGINAL["metadata"]["annotations"]
    assert set(pv["metadata"]["finalizers"]) == set(ORIGINAL["metadata"]["finalizers"])
    there = read_affinity(pv["spec"])
    assert there in {on_node("node-b"), on_node("node-a")}
    assert moved is None or (there == on_node("node-b")) is moved


def test_a_replacement_without_interruption_succeeds() -> None:
    cluster = Cluster()

    steps, end = replaced(cluster)

    assert [type(step) for step in steps] == [
        *(MarkAndSave, Delete, DetachClaimRef, AwaitBinder, Remove, Drop),
    ]
    assert end.outcome is Outcome.DONE
    whole(cluster, moved=True)


COUNT = 6


SINGLE = [Interruption(at, how) for at in range(COUNT) for how in HOW]


@pytest.mark.parametrize("interruption", SINGLE, ids=str)
def test_one_interruption_loses_nothing(interruption: Interruption) -> None:
    cluster = Cluster()

    steps, _ = replaced(cluster, interruption)

    whole(cluster)
    if interruption.how == "changed by others" and not isinstance(steps[interruption.at], Drop):
        assert cluster.pv is not None
        assert cluster.pv["metadata"]["labels"]["seen"] == "yes"


PARTS = ("marked", "saved")


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "no answers"])
@pytest.mark.parametrize("part", PARTS)
def test_half_of_the_first_step_loses_nothing(part: str, crash: bool) -> None:
    """Only one of the two concurrent requests took effect."""
    cluster = Cluster()
    progress = started(cluster)
    step = following(progress)
    assert isinstance(step, MarkAndSave)
    pv, entry = cluster.pv, cluster.entry
    done = cluster.take(step, progress)
    assert isinstance(done, MarkedAndSaved)
    if part == "marked":
        cluster.entry = entry
    else:
        cluster.pv = pv

    lost = MarkedAndSaved(pv=None, entry=None, error=Unreachable("no answer"))
    after = resumed(cluster) if crash else advance(progress, step, lost)
    if isinstance(after, Failed):
        after = resumed(cluster, holder=US)
    to_the_end(cluster, after)

    whole(cluster)


@pytest.mark.parametrize("entry_saved", [True, False])
def test_a_run_ends_if_the_volume_may_be_marked_later(entry_saved: bool) -> None:
    """The patch had no response. A later reconcile begins at once, so that it finds a newer version
    of the volume if it is still on its way.
    """
    cluster = Cluster()
    progress = started(cluster)
    step = following(progress)
    entry = cluster.stored(begun(ORIGINAL, holder=US).deleting()) if entry_saved else None

    end = advance(
        progress, step, MarkedAndSaved(pv=None, entry=entry, error=Unreachable("no response"))
    )

    assert isinstance(end, Failed)


def test_a_deletion_between_the_two_first_writes_is_not_undone() -> None:
    """The entry says that this run deletes the volume, but somebody else did."""
    for there in (None, terminating(applied(ORIGINAL, {}))):
        cluster = Cluster()
        progress = started(cluster)
        step = following(progress)
        assert isinstance(step, MarkAndSave)
        cluster.pv = there
        after = advance(progress, step, cluster.take(step, progress))
        end = to_the_end(cluster, after)

        assert end.outcome is Outcome.DELETED_BY_USER
        assert cluster.pv == there
        assert cluster.entry is None


def to_the_end(cluster: Cluster, after: Progress | Finished | Failed) -> Finished:
    while isinstance(after, Progress):
        step = following(after)
        after = advance(after, step, result_of(cluster, step, after, ""))
    assert isinstance(after, Finished)
    return after


def test_two_interruptions_lose_nothing() -> None:
    for first in SINGLE:
        for second in (Interruption(first.at + 1 + n, how) for n in range(COUNT) for how in HOW):
            cluster = Cluster()
            replaced(cluster, first, second)
            whole(cluster)


def test_a_deletion_by_others_is_not_reverted() -> None:
    """A user deletes the volume after it was marked, and all our requests were conflicts."""
    cluster = Cluster(pv=managed(applied(ORIGINAL, mark_patch(ORIGINAL, US))))
    entry = cluster.stored(begun(ORIGINAL, holder=US))
    progress = begin(entry, Observation(pv=cluster.pv), holder=US, own=True)
    progress = at(progress, cluster, Save)
    assert isinstance(following(progress), Delete)
    assert cluster.pv is not None
    cluster.pv = terminating(applied(cluster.pv, {}))
    steps = list[type[Step]]()
    while True:
        step = following(progress)
        steps.append(type(step))
        after = advance(progress, step, result_of(cluster, step, progress, ""))
        if not isinstance(after, Progress):
            break
        progress = after

    assert steps == [Delete, Observe, Save, Unmark, Drop]
    assert isinstance(after, Finished)
    assert after.outcome is Outcome.DELETED_BY_USER
    assert cluster.pv["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


def at(progress: Progress, cluster: Cluster, last: type[Step]) -> Progress:
    """The progress after the first step of this kind."""
    while True:
        step = following(progress)
        after = advance(progress, step, result_of(cluster, step, progress, ""))
        assert isinstance(after, Progress)
        progress = after
        if isinstance(step, last):
            return progress


def started(cluster: Cluster) -> Progress:
    entry = cluster.stored(begun(ORIGINAL, holder=US))
    observed = Observation(pv=cluster.pv, entry_is_new=True)
    return begin(entry, observed, holder=US, own=True)


@pytest.mark.parametrize("rejected", ["mark", "entry", "deletion"])
def test_a_rejection_before_the_deletion_is_rolled_back(rejected: str) -> None:
    cluster, error = Cluster(), Invalid("no")
    progress = started(cluster)
    pv, entry = cluster.pv, cluster.entry
    step = following(progress)
    done = cluster.take(step, progress)
    assert isinstance(done, MarkedAndSaved)
    if rejected == "deletion":
        after = advance(progress, step, done)
        assert isinstance(after, Progress)
        assert isinstance(following(after), Delete)
        after = advance(after, Delete(), Failure(error))
    elif rejected == "mark":
        cluster.pv = pv
        after = advance(progress, step, replace(done, pv=None, error=error))
    else:
        cluster.entry = entry
        after = advance(progress, step, replace(done, entry=None, error=error))
    while isinstance(after, Progress):
        step = following(after)
        after = advance(after, step, result_of(cluster, step, after, ""))

    assert isinstance(after, Failed)
    assert after.error is error
    assert after.rolled_back
    whole(cluster, moved=False)


def test_a_rollback_after_a_conflict_starts_from_the_current_state() -> None:
    """Another instance has continued the replacement meanwhile, and deleted the volume."""
    cluster = Cluster()
    progress = at(started(cluster), cluster, MarkAndSave)
    refused = advance(progress, following(progress), Failure(Invalid("no")))
    assert isinstance(refused, Progress)
    assert following(refused) == Save(progress.entry.prepared())
    stored = cluster.stored(replace(progress.entry, holder=ANOTHER))
    cluster.pv = None

    conflict = advance(refused, following(refused), Failure(Conflict("x")))
    assert isinstance(conflict, Progress)
    observed = advance(conflict, Observe(), Observed(None, stored))

    assert isinstance(observed, Progress)
    assert isinstance(following(observed), ReadClaim)


def test_a_removal_with_a_lost_response_may_have_succeeded() -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, AwaitBinder)
    assert isinstance(following(progress), Remove)

    lost = advance(progress, Remove(), Failure(Unreachable("no answer")))

    assert isinstance(lost, Progress)
    assert lost.removed
    assert not progress.removed


@pytest.mark.parametrize("label", ["blue", "red"])
def test_the_created_volume_is_compared_with_the_requested_one(label: str) -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, Remove)
    assert cluster.pv is not None
    made = with_metadata(cluster.pv, labels={"team": label})
    observed = replace(progress, observation=replace(progress.observation, pv=made))
    by_another = replace(observed, asked_for=None)

    end = advance(observed, following(observed), Dropped())
    found = advance(by_another, following(by_another), Dropped())

    assert isinstance(end, Finished)
    assert end.progress.different == (() if label == "blue" else ("metadata.labels[team]",))
    assert isinstance(found, Finished)
    assert found.progress.different == ()


def test_a_rejected_creation_blocks_others_only_if_this_run_caused_it() -> None:
    cluster, error = Cluster(), Forbidden("no")
    progress = at(started(cluster), cluster, AwaitBinder)
    gone = replace(
        progress,
        observation=replace(progress.observation, pv=None),
        run=replace(progress.run, uninterrupted=True),
    )
    step = following(gone)
    assert isinstance(step, Create)
    after_dry_run = replace(gone, dry_run_result=step.body)

    mine = advance(after_dry_run, step, Failure(error))
    found = advance(replace(after_dry_run, own=False), step, Failure(error))
    changed = replace(step, body=with_metadata(dict(step.body), labels={"of": "others"}))
    retreat = advance(
        replace(after_dry_run, entry=after_dry_run.entry.wanting(changed.body)),
        changed,
        Failure(error),
    )

    assert isinstance(mine, Failed)
    assert (mine.stuck, mine.blocking) == (True, True)
    assert isinstance(found, Failed)
    assert (found.stuck, found.blocking) == (True, False)
    assert isinstance(retreat, Progress)
    assert following(retreat) == Save(after_dry_run.entry)


def test_transient_errors_are_counted() -> None:
    cluster = Cluster()
    before = started(cluster)
    later = at(before, cluster, MarkAndSave)
    step = following(later)

    assert isinstance(advance(before, following(before), Failure(Unreachable("x"))), Failed)
    assert isinstance(advance(later, step, Failure(Unreachable("x"))), Progress)
    often = replace(later, failures=MAX_FAILURES)
    assert isinstance(advance(often, step, Failure(Unreachable("x"))), Failed)
    assert isinstance(advance(later, step, Failure(Stalled("x"))), Failed)
    assert isinstance(advance(later, step, Failure(Conflict("x"))), Progress)
    often = replace(later, conflicts=MAX_CONFLICTS)
    assert isinstance(advance(often, step, Failure(Conflict("x"))), Failed)


def test_writes_without_effect_end_the_run() -> None:
    """An admission webhook strips our finalizer each time."""
    cluster = Cluster()
    progress: Progress | Finished | Failed = started(cluster)
    while isinstance(progress, Progress):
        progress = advance(progress, following(progress), Written(ORIGINAL))

    assert isinstance(progress, Failed)
    assert isinstance(progress.error, Stalled)
    assert "step MarkAndSave has no effect" in str(progress.error)


@pytest.mark.parametrize(
    ("marked", "uid", "policy"),
    [(True, "claim-uid-1", "Delete"), (False, f"gone-{uid_of(ORIGINAL)}", "Retain")],
)
def test_an_entry_without_claim_creates_a_volume_for_the_claim_in_the_markers_or_for_none(
    uid: str, policy: str, *, marked: bool
) -> None:
    """Somebody rewrote it after the claimRef was detached."""
    cluster = Cluster()
    progress = at(started(cluster), cluster, AwaitBinder)
    assert cluster.entry is not None
    spec = {k: v for k, v in cluster.entry.wanted["spec"].items() if k != "claimRef"}
    forged = cluster.entry.wanting({**cluster.entry.wanted, "spec": spec})
    cluster.stored(forged)
    assert forged.claim is None
    if not marked and cluster.pv is not None:
        markers = json.loads(annotations_of(cluster.pv)[MARKER_ANNOTATION])
        without = json.dumps({k: v for k, v in markers.items() if k != "claim"})
        cluster.pv = applied(
            cluster.pv, {"metadata": {"annotations": {MARKER_ANNOTATION: without}}}
        )
    progress = resumed(cluster)
    while isinstance(progress, Progress):
        step = following(progress)
        end = advance(progress, step, result_of(cluster, step, progress, ""))
        if isinstance(end, Finished):
            break
        assert isinstance(end, Progress)
        progress = end

    assert cluster.pv is not None
    named = claim_of(cluster.pv)
    assert named is not None
    assert named.uid == uid
    assert cluster.pv["spec"]["persistentVolumeReclaimPolicy"] == policy


def test_a_run_whose_entry_was_deleted_removes_its_markers() -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, MarkAndSave)
    lost = advance(progress, following(progress), Failure(Conflict("x")))
    assert isinstance(lost, Progress)

    preserved = advance(lost, Observe(), Observed(cluster.pv, None))
    other = advance(lost, Observe(), Observed(with_metadata(ORIGINAL, uid="another"), None))

    assert isinstance(preserved, Progress)
    assert following(preserved) == UnmarkWithoutEntry()
    assert advance(preserved, UnmarkWithoutEntry(), Done(Outcome.ROLLED_BACK)) == Finished(
        replace(preserved, then=None), Outcome.ROLLED_BACK
    )
    assert isinstance(other, Finished)
    assert other.outcome is None


def test_what_this_run_created_is_known_after_another_observation() -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, Remove)
    made = progress.observation.pv
    assert made is not None
    unrecorded = {**made, "metadata": {**made["metadata"], "managedFields": []}}

    seen = advance(
        replace(progress, outdated=True), Observe(), Observed(unrecorded, progress.entry)
    )

    assert isinstance(seen, Progress)
    assert following(seen) == Drop(Outcome.DONE)


def test_the_entry_of_a_later_replacement_is_continued_from_what_it_says_alone() -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, Remove)
    assert progress.asked_for is not None
    later = replace(progress.entry, uid=Uid("pv-uid-2"), version="99")

    before = replace(progress, outdated=True, conflicts=2, failures=3)
    again = with_metadata(ORIGINAL, uid=later.uid)

    seen = advance(before, Observe(), Observed(again, later))

    assert isinstance(seen, Progress)
    assert seen.entry == later
    assert seen.observation == Observation(pv=again, taken=later.holder == US)
    # It must not go on forever.
    assert (seen.steps, seen.conflicts, seen.failures) == (before.steps, 2, 3)
    assert not any((seen.run.begun, seen.own, seen.removed))
    assert (seen.run.created, seen.asked_for) == (None, None)


def test_an_entry_that_was_not_saved_is_still_our_own() -> None:
    cluster = Cluster()
    before = at(started(cluster), cluster, Delete)
    step = Save(before.entry.prepared())
    failed = advance(before, step, Failure(Unreachable("no answer")))
    assert isinstance(failed, Progress)

    seen = advance(failed, Observe(), Observed(cluster.pv, cluster.entry))

    assert isinstance(seen, Progress)
    assert seen.own


def test_an_entry_for_another_uid_is_not_followed_while_the_volume_was_there_a_moment_ago() -> None:
    cluster = Cluster()
    progress = replace(at(started(cluster), cluster, Delete), outdated=True)
    forged = replace(progress.entry, uid=Uid("nobody"), version="99")

    for seen in (Observed(cluster.pv, forged), Observed(None, forged, first_hand=True)):
        known = advance(progress, Observe(), seen)
        assert isinstance(known, Progress)
        assert known.entry == replace(progress.entry, version="99")


def test_an_entry_overwritten_by_another_instance_is_no_longer_our_own() -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, MarkAndSave)
    lost = replace(progress, outdated=True)
    assert cluster.entry is not None

    same = advance(lost, Observe(), Observed(cluster.pv, cluster.entry))
    foreign = replace(cluster.entry, holder=ANOTHER, version="99")
    taken = advance(lost, Observe(), Observed(cluster.pv, foreign))

    assert isinstance(same, Progress)
    assert isinstance(taken, Progress)
    assert (same.own, taken.own) == (True, False)
    assert not taken.observation.taken
    assert taken.entry.state is State.DELETING


@pytest.mark.parametrize(
    ("begun_by_us", "requested", "holder", "followed"),
    [
        pytest.param(True, False, US, True, id="we know that we deleted nothing"),
        pytest.param(True, True, US, False, id="we deleted it"),
        pytest.param(True, False, ANOTHER, False, id="another instance is about to delete it"),
        pytest.param(False, False, US, False, id="after a restart"),
    ],
)
def test_who_believes_markers_that_say_that_the_volume_was_deleted(
    begun_by_us: bool, requested: bool, holder: str, followed: bool
) -> None:
    """Against an entry that says that it was not."""
    held = managed(applied(ORIGINAL, mark_patch(ORIGINAL, holder)))
    pv = terminating(applied(held, tombstone_patch(held, deleted=True)))
    entry = begun(ORIGINAL, holder=US)
    progress = begin(entry, Observation(pv=pv), holder=US, own=begun_by_us)
    progress = replace(progress, run=replace(progress.run, deletion_requested=requested))

    step = following(progress)

    assert isinstance(step, LeaveAlone) is not followed


@pytest.mark.parametrize(
    ("error", "unanswered"),
    [(Unreachable("reset"), True), (Conflict("conflict"), False), (Forbidden("no"), False)],
)
def test_only_a_mark_without_a_response_may_still_arrive(
    error: Again | Refused, *, unanswered: bool
) -> None:
    progress = started(Cluster())
    step = following(progress)
    assert isinstance(step, MarkAndSave)

    after = advance(progress, step, Failure(error))

    after = after if isinstance(after, Progress) else after.progress
    assert after.mark_unanswered is unanswered


@pytest.mark.parametrize("leads", [True, False])
def test_only_a_leader_decides_that_a_deletion_is_a_users(*, leads: bool) -> None:
    """Another one may have deleted the volume, whatever is written there by now."""
    cluster = Cluster()
    progress = replace(at(started(cluster), cluster, MarkAndSave), outdated=True)
    assert cluster.pv is not None
    deleted = terminating(cluster.pv)

    after = advance(progress, Observe(), Observed(deleted, cluster.entry, leads=leads))

    if leads:
        assert isinstance(after, Progress)
        assert isinstance(following(after), Save)
    else:
        assert isinstance(after, Failed)
        assert isinstance(after.error, Conflict)


@pytest.mark.parametrize("leads", [True, False])
def test_only_a_leader_finishes_what_the_entry_says_of_an_owners_deletion(*, leads: bool) -> None:
    cluster = Cluster()
    progress = replace(started(cluster), outdated=True)
    assert progress.entry.state is State.PREPARED
    deleted = terminating(ORIGINAL)

    after = advance(progress, Observe(), Observed(deleted, progress.entry, leads=leads))

    if leads:
        assert isinstance(after, Progress)
        assert following(after) == Drop(Outcome.DELETED_BY_USER)
    else:
        assert isinstance(after, Failed)
        assert isinstance(after.error, Conflict)


def test_a_volume_that_another_instance_removed_is_not_removed_by_this_run() -> None:
    """That one also dropped the entry, for its own reasons."""
    cluster = Cluster()
    progress = replace(started(cluster), outdated=True, removed=True)

    end = advance(progress, Observe(), Observed(None, None, first_hand=True))

    assert isinstance(end, Finished)
    assert end.outcome is None


@pytest.mark.parametrize("holder", [US, ANOTHER])
def test_what_another_instance_took_over_and_deleted_is_not_given_up(holder: str) -> None:
    """Nothing but the holder in the entry is left to say who did."""
    cluster = Cluster()
    progress = replace(at(started(cluster), cluster, MarkAndSave), outdated=True)
    assert cluster.entry is not None
    later = replace(cluster.entry, holder=holder, version="later")

    after = advance(progress, Observe(), Observed(None, later))

    assert isinstance(after, Progress)
    given_up = isinstance(step := following(after), Save) and step.entry.state is State.PREPARED
    assert given_up is (holder == US)


def test_an_entry_whose_save_had_no_response_is_still_our_own() -> None:
    cluster = Cluster()
    before = at(started(cluster), cluster, Delete)
    step = Save(before.entry.wanting(with_metadata(dict(before.entry.wanted), labels={"a": "b"})))
    lost = advance(before, step, result_of(cluster, step, before, "answer lost"))
    assert isinstance(lost, Progress)
    assert cluster.entry is not None

    seen = advance(lost, Observe(), Observed(cluster.pv, cluster.entry))

    assert isinstance(seen, Progress)
    assert seen.own
    assert seen.entry == cluster.entry


@pytest.mark.parametrize("holder", [US, ANOTHER])
def test_a_mark_whose_name_an_admission_policy_changes_is_rolled_back(holder: str) -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, MarkAndSave)
    progress = replace(progress, run=replace(progress.run, marked=False))
    assert cluster.pv is not None
    changed = managed(applied(cluster.pv, mark_patch(cluster.pv, holder)))

    after = advance(progress, Mark(mark_patch(cluster.pv, US)), Written(changed))

    assert isinstance(after, Progress)
    assert after.run.marked
    assert (after.rejected is None) is (holder == US)
    assert isinstance(following(after), Delete if holder == US else Save)


@pytest.mark.parametrize("removed", [False, True])
def test_the_claim_of_before_the_removal_is_the_last_that_was_read(*, removed: bool) -> None:
    first, last = claim(metadata={"resourceVersion": "1"}), claim(metadata={"resourceVersion": "2"})
    progress = replace(started(Cluster()), claim_before=first, removed=removed)

    after = advance(progress, ReadClaim(), ClaimRead(last))

    assert isinstance(after, Progress)
    assert after.claim_before == (first if removed else last)
    assert after.observation.claim == last


def test_the_entry_with_which_a_run_deletes_before_any_other_is_its_last_one() -> None:
    cluster = Cluster()
    progress = at(started(cluster), cluster, MarkAndSave)
    assert progress.deleting_version == progress.entry.version != ""

    again = advance(progress, step := Save(progress.entry), result_of(cluster, step, progress, ""))
    assert isinstance(again, Progress)
    assert again.deleting_version == again.entry.version != progress.entry.version

    # Another instance may have had it deleted in between.
    later = replace(again, entry=cluster.stored(replace(again.entry, holder=ANOTHER)))
    taken = advance(later, step := Save(later.entry), result_of(cluster, step, later, ""))
    assert isinstance(taken, Progress)
    assert taken.deleting_version == again.deleting_version


@pytest.mark.parametrize("part", ["deletion", "removal", "creation", "none"])
def test_a_recreation_in_which_a_run_took_no_part_is_not_its_own(part: str) -> None:
    progress = started(Cluster())
    run = replace(
        progress.run,
        deletion_requested=part == "deletion",
        created=Uid("made") if part == "creation" else None,
    )
    progress = replace(progress, run=run, removed=part == "removal")

    end = advance(progress, Drop(Outcome.DONE), Dropped())

    assert isinstance(end, Finished)
    assert end.outcome is (Outcome.SUPERSEDED if part == "none" else Outcome.DONE)


@pytest.mark.parametrize("verified", [True, False])
def test_the_new_volume_is_compared_with_what_it_was_created_from(*, verified: bool) -> None:
    """The entry may ask for more by now, which is a late write; a verified one was compared."""
    progress = started(Cluster())
    asked_for = with_metadata(dict(progress.entry.wanted), labels={"team": "red"})
    made = with_metadata(asked_for, labels={"team": "blue"})
    compared = replace(
        progress,
        asked_for=asked_for,
        run=replace(progress.run, created=Uid("made")),
        observation=replace(progress.observation, pv=made),
    )
    gone = replace(compared, observation=replace(progress.observation, pv=None))
    step = Drop(Outcome.DONE, verified=verified)

    end, nothing = advance(compared, step, Dropped()), advance(gone, step, Dropped())

    assert isinstance(end, Finished)
    assert isinstance(nothing, Finished)
    assert end.progress.different == (() if verified else ("metadata.labels[team]",))
    assert nothing.progress.different == ()


@pytest.mark.parametrize("came_back", [True, False])
def test_an_entry_is_not_written_again_for_a_volume_that_came_back(*, came_back: bool) -> None:
    """The later incarnation is gone by now, and somebody has deleted the entry."""
    cluster = Cluster()
    progress = replace(at(started(cluster), cluster, Delete), outdated=True)
    if came_back:
        again = with_metadata(ORIGINAL, uid="pv-uid-2")
        observed = advance(progress, Observe(), Observed(again, cluster.entry))
        assert isinstance(observed, Progress)
        progress = replace(observed, outdated=True)

    after = advance(progress, Observe(), Observed(None, None, first_hand=True))

    if came_back:
        assert isinstance(after, Finished)
        assert after.outcome is None
    else:
        assert isinstance(after, Progress)
        assert isinstance(after.then, Save)


@pytest.mark.parametrize("came_back", [True, False])
def test_the_entry_of_a_later_incarnation_is_not_taken_for_a_rewritten_one(
    *, came_back: bool
) -> None:
    cluster = Cluster()
    progress = replace(at(started(cluster), cluster, Delete), outdated=True)
    progress = replace(progress, run=replace(progress.run, came_back=came_back))
    later = replace(progress.entry, uid=Uid("pv-uid-2"), version="99", holder=ANOTHER)

    after = advance(progress, Observe(), Observed(None, later, first_hand=True))

    assert isinstance(after, Progress)
    assert (after.entry.uid == later.uid) is came_back
    assert after.run.begun is not came_back


def test_a_volume_that_is_there_has_not_come_back() -> None:
    """The watch was behind, and showed an earlier incarnation."""
    cluster = Cluster()
    progress = having_come_back(at(started(cluster), cluster, Delete))
    assert isinstance(following(progress), Observe)

    after = advance(progress, Observe(), Observed(cluster.pv, cluster.entry))

    assert isinstance(after, Progress)
    assert not after.run.came_back
    assert isinstance(following(after), DetachClaimRef)
