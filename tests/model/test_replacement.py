"""The order of a replacement, step by step and from every place where it may have stopped."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.model.changes import taken_over
from linstor_affinity_events.model.claim_ref import detached, disowned, tombstone_patch
from linstor_affinity_events.model.demands import Original, original_of
from linstor_affinity_events.model.journal_entry import JournalEntry, State
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    OURSELVES,
    SKIP_RECLAIM_ANNOTATION,
    VolumeKey,
)
from linstor_affinity_events.model.manifest import annotations_of, claim_of, finalizers_of, uid_of
from linstor_affinity_events.model.markers import (
    holder_of,
    is_marked,
    is_safe_to_release,
    mark_patch,
    recorded_values_of,
    says_deletion,
    unmarking,
)
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.observation import Observation, RunFacts
from linstor_affinity_events.model.policy import StorageClass
from linstor_affinity_events.model.recreation import copy_for_create, with_retain
from linstor_affinity_events.model.replacement import next_step
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
from tests.model.manifests import (
    PROTECTION,
    PROVISIONER,
    applied,
    begun,
    claim,
    in_phase,
    managed,
    marked,
    terminating,
    volume,
    with_metadata,
    with_spec,
    with_tombstone,
)

Json = dict[str, Any]

PLAIN = volume()
MARKED = marked(PLAIN)
GOING = terminating(MARKED)
DETACHED = with_tombstone(GOING)
RELEASED = in_phase(DETACHED, "Released")
UNCLAIMED = with_spec(PLAIN, claimRef=None)

IN_ADVANCE = in_phase(
    with_spec(PLAIN, claimRef={**PLAIN["spec"]["claimRef"], "uid": ""}), "Available"
)

CONTINUING, BEGUN = RunFacts(), RunFacts(begun=True)

PREPARED = begun(PLAIN)
DELETING = PREPARED.deleting()
ANOTHER_CLAIM = {"kind": "PersistentVolumeClaim", "namespace": "other", "name": "x", "uid": "x-uid"}


def remade(pv: Json, *, by: str = OURSELVES) -> Json:
    return with_metadata(pv, uid="pv-uid-2", managedFields=[{"manager": by}])


def test_the_writer_of_the_entry_marks_the_volume() -> None:
    step = next_step(PREPARED, Observation(pv=PLAIN, entry_is_new=True), CONTINUING)

    assert step == MarkAndSave(mark_patch(PLAIN), DELETING)


def test_an_unused_entry_is_superseded_for_other_instances() -> None:
    assert next_step(PREPARED, Observation(pv=PLAIN), CONTINUING) == Drop(Outcome.SUPERSEDED)


@pytest.mark.parametrize("entry_is_new", [True, False])
def test_the_entry_is_set_to_deleting_before_the_deletion(entry_is_new: bool) -> None:
    step = next_step(PREPARED, Observation(pv=MARKED, entry_is_new=entry_is_new), BEGUN)

    assert step == Save(DELETING)


@pytest.mark.parametrize("entry_is_new", [True, False])
def test_a_marked_volume_with_a_deleting_entry_is_deleted(entry_is_new: bool) -> None:
    observation = Observation(pv=MARKED, entry_is_new=entry_is_new)

    assert next_step(DELETING, observation, BEGUN) == Delete()


def test_a_live_volume_that_another_run_marked_is_not_deleted_but_decided_on_again() -> None:
    """Whoever may write entries and update volumes could else have it recreated otherwise. A
    deletion of that run may be on its way, and needs the entry, until the volume is unmarked.
    """
    observation = Observation(pv=MARKED, claim=claim(), claim_known=True)

    for entry in (DELETING, PREPARED):
        assert next_step(entry, observation, CONTINUING) == Unmark(
            unmarking(MARKED).patch, Outcome.ROLLED_BACK
        )


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(with_spec(MARKED, capacity={"storage": "2Gi"}), id="capacity"),
        pytest.param(with_spec(MARKED, aFieldFromTheFuture=1), id="a field from the future"),
        pytest.param(
            with_metadata(
                MARKED,
                annotations={**annotations_of(MARKED), "piraeus.io/skip-affinity-controller": "1"},
            ),
            id="skip annotation",
        ),
        pytest.param(with_spec(MARKED, claimRef=None), id="claim gone"),
        pytest.param(
            with_spec(MARKED, claimRef={**PLAIN["spec"]["claimRef"], "uid": "other"}),
            id="another claim",
        ),
    ],
)
def test_a_volume_changed_before_its_deletion_loses_its_markers(observed: Json) -> None:
    observation = Observation(pv=observed, claim=claim(), claim_known=True)

    assert next_step(DELETING, observation, BEGUN) == Save(PREPARED)
    assert next_step(PREPARED, observation, BEGUN) == Unmark(
        unmarking(observed).patch, Outcome.ROLLED_BACK
    )


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(with_metadata(MARKED, labels={"team": "red"}), id="label"),
        pytest.param(
            with_metadata(MARKED, annotations={**annotations_of(MARKED), "seen": "1"}),
            id="annotation",
        ),
    ],
)
def test_labels_and_annotations_added_with_the_markers_are_wanted(
    observed: Json,
) -> None:
    """An admission policy may add some to every update."""
    wanted = DELETING.wanting(taken_over(DELETING.wanted, observed))

    observation = Observation(pv=observed)
    assert next_step(PREPARED, replace(observation, entry_is_new=True), BEGUN) == Save(wanted)
    assert next_step(DELETING, observation, BEGUN) == Save(wanted)
    assert next_step(wanted, observation, BEGUN) == Delete()


@pytest.mark.parametrize(
    ("observed", "outcome"),
    [
        pytest.param(
            with_spec(MARKED, persistentVolumeReclaimPolicy="Delete"),
            Outcome.ROLLED_BACK,
            id="policy",
        ),
        pytest.param(
            with_metadata(
                MARKED, annotations={MARKER_ANNOTATION: annotations_of(MARKED)[MARKER_ANNOTATION]}
            ),
            Outcome.RECREATED_WITH_RETAIN,
            id="skip-reclaim",
        ),
    ],
)
def test_if_a_marker_is_removed_the_others_are_removed_too(
    observed: Json, outcome: Outcome
) -> None:
    observation = Observation(pv=observed, claim=claim(), claim_known=True)

    assert next_step(DELETING, observation, BEGUN) == Save(PREPARED)
    assert next_step(PREPARED, observation, BEGUN) == Unmark(unmarking(observed).patch, outcome)


@pytest.mark.parametrize(
    ("phase", "its_claim"),
    [
        pytest.param("Released", None, id="gone"),
        pytest.param("Released", claim(), id="the phase tells"),
        pytest.param("Bound", None, id="gone, and the binder has not said so yet"),
        pytest.param("Bound", terminating(claim()), id="being deleted"),
        pytest.param("Bound", claim(metadata={"uid": "other"}), id="another of its name"),
    ],
)
def test_markers_present_while_the_claim_was_deleted_leave_retain(
    phase: str, its_claim: Json | None
) -> None:
    observed = in_phase(with_spec(MARKED, capacity={"storage": "2Gi"}), phase)

    assert next_step(PREPARED, Observation(pv=observed), CONTINUING) == ReadClaim()
    known = Observation(pv=observed, claim=its_claim, claim_known=True)
    assert next_step(PREPARED, known, CONTINUING) == Unmark(
        unmarking(observed, keep=True).patch, Outcome.RECREATED_WITH_RETAIN
    )
    assert next_step(PREPARED, Observation(pv=observed), RunFacts(uninterrupted=True)) == Unmark(
        unmarking(observed).patch, Outcome.ROLLED_BACK
    )


def test_a_volume_without_markers_is_unchanged() -> None:
    assert next_step(DELETING, Observation(pv=PLAIN), CONTINUING) == Drop(Outcome.SUPERSEDED)


@pytest.mark.parametrize("holder", ["", "pod-1"])
@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(with_spec(PLAIN, persistentVolumeReclaimPolicy="Retain"), id="Retain"),
        pytest.param(
            with_metadata(PLAIN, annotations={SKIP_RECLAIM_ANNOTATION: "true"}), id="skip-reclaim"
        ),
        pytest.param(
            with_metadata(
                with_spec(PLAIN, persistentVolumeReclaimPolicy="Retain"),
                annotations={SKIP_RECLAIM_ANNOTATION: "true"},
            ),
            id="both",
        ),
    ],
)
def test_an_entry_alone_changes_nothing_on_a_live_volume(observed: Json, holder: str) -> None:
    """Who can write entries could else have a policy Retain turned into Delete."""
    assert next_step(
        replace(DELETING, holder=holder), Observation(pv=observed), CONTINUING
    ) == Drop(Outcome.SUPERSEDED)


def test_a_deletion_before_ours_is_by_a_user() -> None:
    assert next_step(PREPARED, Observation(pv=terminating(PLAIN)), CONTINUING) == Drop(
        Outcome.DELETED_BY_USER
    )


def test_a_deletion_between_our_markers_and_our_deletion_is_by_a_user() -> None:
    step = next_step(PREPARED, Observation(pv=GOING, entry_is_new=True), CONTINUING)

    assert step == Unmark(unmarking(GOING).patch, Outcome.DELETED_BY_USER)


def test_a_volume_removed_before_our_deletion_was_deleted_by_a_user() -> None:
    assert next_step(PREPARED, Observation(pv=None), CONTINUING) == Drop(Outcome.DELETED_BY_USER)


def test_a_terminating_volume_with_a_finalizer_of_others_was_not_deleted_by_this_service() -> None:
    """None is replaced that has one, and none can be added afterwards."""
    held = with_metadata(GOING, finalizers=[*finalizers_of(GOING), "backup.example.com/hold"])
    observation = Observation(pv=held)

    step = next_step(DELETING, observation, CONTINUING)

    assert isinstance(step, LeaveAlone)
    assert "backup.example.com/hold" in step.why
    ours = DetachClaimRef(tombstone_patch(held))
    assert next_step(DELETING, observation, RunFacts(allowed_finalizers=("*/hold",))) == ours
    assert isinstance(
        next_step(DELETING, observation, RunFacts(deletion_requested=True)), DetachClaimRef
    )


@pytest.mark.parametrize("added", ["foregroundDeletion", "orphan"])
def test_the_finalizers_of_a_second_deletion_say_nothing(added: str) -> None:
    """`kubectl delete --cascade=foreground` adds one to a volume that is being deleted."""
    going = with_metadata(GOING, finalizers=[*finalizers_of(GOING), added])

    assert next_step(DELETING, Observation(pv=going), CONTINUING) == DetachClaimRef(
        tombstone_patch(going)
    )


@pytest.mark.parametrize("observed", [GOING, None], ids=["terminating", "absent"])
def test_what_this_instance_saw_others_delete_is_let_go(observed: Json | None) -> None:
    observation = Observation(pv=observed, claim=claim(), claim_known=True, deleted_by_others=True)

    step = next_step(DELETING, observation, CONTINUING)

    assert isinstance(step, Unmark if observed else Drop)
    assert step.outcome is Outcome.DELETED_BY_USER
    # Of an absent volume another incarnation may be meant.
    here = next_step(DELETING, observation, RunFacts(deletion_requested=True))
    assert isinstance(here, Unmark if observed else Create)


def test_a_reclaim_policy_restored_while_terminating_is_set_to_retain_again() -> None:
    observed = with_spec(GOING, persistentVolumeReclaimPolicy="Delete")

    assert next_step(DELETING, Observation(pv=observed), CONTINUING) == Mark(mark_patch(observed))


def test_a_skip_reclaim_removed_while_terminating_is_restored() -> None:
    """With the markers, which alone say that the volume did not have policy Retain before."""
    observed = with_metadata(GOING, annotations={})
    entry = replace(DELETING, wanted=taken_over(DELETING.wanted, observed))

    step = next_step(entry, Observation(pv=observed), CONTINUING)
    assert step == Save(entry.wanting(with_retain(entry.wanted)))

    step = next_step(step.entry, Observation(pv=observed), CONTINUING)
    assert step == Mark(mark_patch(observed))


def test_a_reclaim_policy_set_while_terminating_is_saved_before_retain_is_set() -> None:
    observed = with_spec(GOING, persistentVolumeReclaimPolicy="Recycle")

    step = next_step(DELETING, Observation(pv=observed), CONTINUING)

    assert isinstance(step, Save)
    assert step.entry.policy == "Recycle"
    assert next_step(step.entry, Observation(pv=observed), CONTINUING) == Mark(mark_patch(observed))


def test_a_reclaim_policy_set_while_terminating_is_on_the_new_volume() -> None:
    entry = replace(DELETING, wanted=taken_over(DELETING.wanted, GOING))
    observed = with_spec(GOING, persistentVolumeReclaimPolicy="Recycle")
    step = next_step(entry, Observation(pv=observed), CONTINUING)
    assert isinstance(step, Save)

    last = next_step(step.entry, Observation(pv=None, claim=claim(), claim_known=True), CONTINUING)

    assert isinstance(last, Create)
    assert last.body["spec"]["persistentVolumeReclaimPolicy"] == "Recycle"


def test_a_reclaim_policy_forged_in_the_entry_is_corrected_by_the_markers() -> None:
    retained = marked(with_spec(PLAIN, persistentVolumeReclaimPolicy="Retain"))
    forged = DELETING

    step = next_step(forged, Observation(pv=terminating(retained)), CONTINUING)

    assert isinstance(step, Save)
    assert step.entry.policy == "Retain"


def test_skip_reclaim_that_the_entry_lacks_is_restored_by_the_markers() -> None:
    protected = with_metadata(PLAIN, annotations={SKIP_RECLAIM_ANNOTATION: "true"})

    step = next_step(DELETING, Observation(pv=terminating(marked(protected))), CONTINUING)

    assert isinstance(step, Save)
    assert annotations_of(step.entry.wanted)[SKIP_RECLAIM_ANNOTATION] == "true"


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(with_spec(GOING, claimRef=ANOTHER_CLAIM), id="before the tombstone"),
        pytest.param(with_spec(DETACHED, claimRef=ANOTHER_CLAIM), id="over the tombstone"),
        pytest.param(with_spec(RELEASED, claimRef=ANOTHER_CLAIM), id="after the binder let go"),
        pytest.param(with_spec(RELEASED, claimRef=None), id="dropped"),
        pytest.param(
            with_spec(RELEASED, claimRef={**ANOTHER_CLAIM, "uid": ""}), id="a claim without uid"
        ),
    ],
)
def test_a_claim_ref_written_meanwhile_is_taken_over(observed: Json) -> None:
    step = next_step(DELETING, Observation(pv=observed), CONTINUING)

    assert isinstance(step, Save)
    assert step.entry.wanted["spec"].get("claimRef") == observed["spec"].get("claimRef")
    assert step.entry.claim == claim_of(observed)
    following = next_step(step.entry, Observation(pv=observed), CONTINUING)
    assert isinstance(following, DetachClaimRef if step.entry.user else Remove)


def test_the_claim_ref_of_a_terminating_volume_is_detached() -> None:
    assert next_step(DELETING, Observation(pv=GOING), CONTINUING) == DetachClaimRef(
        tombstone_patch(GOING)
    )


def test_after_detaching_the_binder_is_waited_for() -> None:
    assert next_step(DELETING, Observation(pv=DETACHED), CONTINUING) == AwaitBinder()


def test_a_claim_ref_repaired_by_the_binder_is_detached_again() -> None:
    repaired = with_spec(DETACHED, claimRef=PLAIN["spec"]["claimRef"])

    assert next_step(DELETING, Observation(pv=repaired), CONTINUING) == DetachClaimRef(
        tombstone_patch(repaired)
    )


def test_a_claim_ref_repaired_by_the_binder_after_its_write_is_detached_again() -> None:
    repaired = with_spec(RELEASED, claimRef=PLAIN["spec"]["claimRef"])

    assert next_step(DELETING, Observation(pv=repaired), CONTINUING) == DetachClaimRef(
        tombstone_patch(repaired)
    )


@pytest.mark.parametrize(
    "observation",
    [
        pytest.param(Observation(pv=RELEASED), id="the binder has written"),
        pytest.param(Observation(pv=DETACHED, guard_over=True), id="the binder had its time"),
        pytest.param(
            Observation(pv=GOING, claim_ref_immutable=True), id="the claimRef can't be changed"
        ),
    ],
)
def test_after_the_binder_the_claim_is_read(observation: Observation) -> None:
    assert next_step(DELETING, observation, CONTINUING) == ReadClaim()


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(with_metadata(RELEASED, labels={"team": "red"}), id="label"),
        pytest.param(with_spec(RELEASED, capacity={"storage": "2Gi"}), id="capacity"),
    ],
)
def test_changes_of_others_are_saved_before_the_volume_is_removed(observed: Json) -> None:
    step = next_step(
        DELETING, Observation(pv=observed, claim=claim(), claim_known=True), CONTINUING
    )

    assert step == Save(DELETING.wanting(taken_over(DELETING.wanted, observed)))


@pytest.mark.parametrize("its_claim", [claim(), None])
def test_once_the_claim_is_known_the_volume_is_removed(its_claim: Json | None) -> None:
    step = next_step(
        DELETING, Observation(pv=RELEASED, claim=its_claim, claim_known=True), CONTINUING
    )

    assert step == Remove()


@pytest.mark.parametrize("pv", [UNCLAIMED, IN_ADVANCE])
def test_without_a_claim_the_volume_is_removed_at_once(pv: Json) -> None:
    assert (
        next_step(begun(pv).deleting(), Observation(pv=terminating(marked(pv))), CONTINUING)
        == Remove()
    )


def test_a_resumed_run_reads_the_claim_of_a_removed_volume() -> None:
    assert next_step(DELETING, Observation(pv=None), CONTINUING) == ReadClaim()


def test_a_terminating_claim_keeps_its_data_in_a_resumed_run() -> None:
    observation = Observation(pv=None, claim=terminating(claim()), claim_known=True)

    assert next_step(DELETING, observation, CONTINUING) == Create(with_retain(DELETING.wanted))


def test_with_an_unchanged_claim_the_volume_is_recreated_as_wanted() -> None:
    step = next_step(DELETING, Observation(pv=None, claim=claim(), claim_known=True), CONTINUING)

    assert step == Create(DELETING.wanted)


@pytest.mark.parametrize("pv", [UNCLAIMED, IN_ADVANCE])
def test_an_unused_volume_is_recreated_as_wanted(pv: Json) -> None:
    entry = begun(pv).deleting()

    assert next_step(entry, Observation(pv=None), RunFacts(uninterrupted=True)) == Create(
        entry.wanted
    )


@pytest.mark.parametrize("pv", [UNCLAIMED, IN_ADVANCE])
def test_an_entry_alone_recreates_no_unused_volume(pv: Json) -> None:
    entry = begun(pv).deleting()

    assert next_step(entry, Observation(pv=None), CONTINUING) == Create(
        detached(entry.wanted, entry.uid)
    )


@pytest.mark.parametrize(
    "its_claim",
    [
        pytest.param(None, id="gone"),
        pytest.param(claim(metadata={"uid": "other"}), id="another one of that name"),
        pytest.param(claim(volumeName="pvc-2"), id="bound elsewhere"),
        pytest.param(claim(volumeName=""), id="unbound"),
    ],
)
def test_changes_of_the_claim_within_one_run_have_their_usual_effect(
    its_claim: Json | None,
) -> None:
    """With policy Delete the provisioner deletes the data of a claim that was deleted."""
    observation = Observation(pv=None, claim=its_claim, claim_known=True)

    assert next_step(DELETING, observation, RunFacts(uninterrupted=True)) == Create(DELETING.wanted)


BORN = "pvc-11111111-2222-4333-8444-555555555555"


def of_resource(handle: str, **csi: Any) -> JournalEntry:
    pv = with_spec(PLAIN, csi={**PLAIN["spec"]["csi"], "volumeHandle": handle, **csi})
    return replace(begun(pv).deleting(), key=VolumeKey(ResourceName(handle)))


@pytest.mark.parametrize(
    ("entry", "given"),
    [
        pytest.param(of_resource(BORN), False, id="provisioned for another claim"),
        pytest.param(of_resource("by-hand"), True, id="made by hand"),
        pytest.param(
            of_resource("by-hand", nodeStageSecretRef={"name": "x", "namespace": "default"}),
            True,
            id="a Secret of the claim's namespace",
        ),
        pytest.param(
            of_resource("by-hand", nodeStageSecretRef={"name": "x", "namespace": "kube-system"}),
            False,
            id="a Secret of another namespace",
        ),
    ],
)
def test_an_entry_alone_gives_a_claim_only_its_own_volume(entry: JournalEntry, given: bool) -> None:
    step = next_step(entry, Observation(pv=None, claim=claim(), claim_known=True), CONTINUING)

    assert step == Create(entry.wanted if given else detached(entry.wanted, entry.uid))


def test_a_volume_provisioned_for_the_claim_is_recreated_for_it() -> None:
    own = claim(metadata={"uid": BORN[4:]})
    pv = with_spec(
        PLAIN,
        csi={**PLAIN["spec"]["csi"], "volumeHandle": BORN},
        claimRef={**PLAIN["spec"]["claimRef"], "uid": BORN[4:]},
    )
    entry = replace(begun(pv).deleting(), key=VolumeKey(ResourceName(BORN)))

    assert next_step(
        entry, Observation(pv=None, claim=own, claim_known=True), CONTINUING
    ) == Create(entry.wanted)


@pytest.mark.parametrize(
    "its_claim",
    [
        pytest.param(claim(volumeName="pvc-2"), id="bound elsewhere"),
        pytest.param(claim(volumeName=""), id="unbound"),
    ],
)
def test_an_entry_alone_gives_no_claim_a_volume_that_it_does_not_name(its_claim: Json) -> None:
    step = next_step(DELETING, Observation(pv=None, claim=its_claim, claim_known=True), CONTINUING)

    assert step == Create(detached(DELETING.wanted, DELETING.uid))


@pytest.mark.parametrize(
    "its_claim",
    [
        pytest.param(None, id="gone"),
        pytest.param(claim(metadata={"uid": "other"}), id="another one of that name"),
    ],
)
def test_without_its_claim_the_volume_is_recreated_with_retain(its_claim: Json | None) -> None:
    step = next_step(DELETING, Observation(pv=None, claim=its_claim, claim_known=True), CONTINUING)

    assert step == Create(disowned(DELETING.wanted, DELETING.uid))
    observed = Observation(pv=None, claim=its_claim, claim_known=True, original=original_of(PLAIN))
    assert next_step(DELETING, observed, CONTINUING) == Create(with_retain(DELETING.wanted))
    assert isinstance(step, Create)
    assert annotations_of(step.body)[ORIGINAL_POLICY_ANNOTATION] == "Delete"


def for_nobody(wanted: Json) -> Json:
    return detached(wanted, DELETING.uid)


@pytest.mark.parametrize(
    ("policy", "back"),
    [("Delete", with_retain), ("Delete", for_nobody), ("Retain", for_nobody)],
)
def test_a_volume_recreated_with_retain_has_that_outcome(
    policy: str, back: Callable[[Json], Json]
) -> None:
    entry = begun(with_spec(PLAIN, persistentVolumeReclaimPolicy=policy)).deleting()
    made = remade({**back(dict(entry.wanted)), "status": {"phase": "Released"}})

    step = next_step(entry, Observation(pv=made), CONTINUING)

    assert step == Drop(Outcome.RECREATED_WITH_RETAIN)


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
def test_a_volume_created_by_us_ends_the_replacement(policy: str) -> None:
    pv = with_spec(PLAIN, persistentVolumeReclaimPolicy=policy)

    step = next_step(begun(pv).deleting(), Observation(pv=remade(pv)), CONTINUING)

    assert step == Drop(Outcome.DONE)


@pytest.mark.parametrize("entry", [PREPARED, DELETING])
def test_a_volume_created_by_others_supersedes_the_entry(entry: JournalEntry) -> None:
    step = next_step(entry, Observation(pv=remade(PLAIN, by="kubectl")), CONTINUING)

    assert step == Drop(Outcome.SUPERSEDED)


def test_a_volume_that_this_run_created_needs_no_record_of_its_manager() -> None:
    """The API server keeps none of an object with thousands of labels."""
    unrecorded = remade(PLAIN, by="kubectl")

    step = next_step(DELETING, Observation(pv=unrecorded), RunFacts(created=uid_of(unrecorded)))

    assert step == Drop(Outcome.DONE)


def test_a_volume_created_by_us_and_deleted_by_others_is_not_created_again() -> None:
    step = next_step(DELETING, Observation(pv=terminating(remade(PLAIN))), CONTINUING)

    assert step == Drop(Outcome.SUPERSEDED)


class Simulation:
    """One replacement in a world of one volume; each run observes what is there."""

    def __init__(self, pv: Json, its_claim: Json | None) -> None:
        self.pv: Json | None = pv
        self.claim = its_claim
        self.entry: JournalEntry | None = begun(pv)
        self.observation = Observation(pv=pv, entry_is_new=True)
        self.run = BEGUN
        self.steps: list[type[Step]] = []
        self.outcome: Outcome | None = None

    def restart(self) -> None:
        """Forget all that is known."""
        self.observation, self.run = Observation(pv=self.pv), CONTINUING

    def step(self) -> None:
        assert self.entry is not None
        step = next_step(self.entry, self.observation, self.run)
        self.steps.append(type(step))
        match step:
            case Mark(patch) | DetachClaimRef(patch):
                self._patched(patch)
            case Save(entry):
                self.entry = entry
            case MarkAndSave(patch, entry):
                self._patched(patch)
                self.entry = entry
            case Delete():
                assert self.pv is not None
                assert is_marked(self.pv)
                assert self.entry.state is State.DELETING
                self._see(terminating(self.pv))
            case AwaitBinder():
                assert self.pv is not None
                self._see(in_phase(self.pv, "Released"))
            case ReadClaim():
                self.observation = replace(self.observation, claim=self.claim, claim_known=True)
            case Remove():
                assert self.pv is not None
                assert is_safe_to_release(self.pv)
                assert taken_over(self.entry.wanted, self.pv) == self.entry.wanted
                self._see(None)
            case Create(body):
                assert self.pv is None
                made = {**body, "status": {"phase": "Bound"}}
                made["metadata"] = {**made["metadata"], "resourceVersion": "9000"}
                self._see(remade(made))
            case Unmark(patch, outcome):
                self._patched(patch)
                self.entry, self.outcome = None, outcome
            case Drop(outcome):
                self.entry, self.outcome = None, self.outcome or outcome

    def to_the_end(self) -> None:
        for _ in range(50):
            if self.entry is None:
                return
            self.step()
        raise AssertionError(f"it goes round in circles: {self.steps}")

    def _patched(self, patch: Json) -> None:
        assert self.pv is not None
        after = applied(self.pv, patch)
        self._see(managed(after) if is_marked(after) else after)

    def _see(self, pv: Json | None) -> None:
        self.pv = pv
        self.observation = replace(self.observation, pv=pv)


def test_without_interference_the_steps_are_in_this_order() -> None:
    simulation = Simulation(PLAIN, claim())

    simulation.to_the_end()

    assert simulation.steps == [
        MarkAndSave,
        Delete,
        DetachClaimRef,
        AwaitBinder,
        ReadClaim,
        Remove,
        Create,
        Drop,
    ]


@pytest.mark.parametrize("done_before", range(1, 8))
def test_a_run_resumed_after_a_crash_ends_the_same_way(done_before: int) -> None:
    simulation = Simulation(PLAIN, claim())
    for _ in range(done_before):
        simulation.step()

    simulation.restart()
    simulation.to_the_end()

    assert simulation.pv is not None
    if done_before == 1:
        # Only marked: it is decided on again.
        assert simulation.outcome is Outcome.ROLLED_BACK
        assert copy_for_create(simulation.pv) == copy_for_create(PLAIN)
    else:
        assert simulation.outcome is Outcome.DONE
        assert copy_for_create(simulation.pv) == PREPARED.wanted


def test_a_crash_before_the_first_step_leaves_the_volume_unchanged() -> None:
    simulation = Simulation(PLAIN, claim())

    simulation.restart()
    simulation.to_the_end()

    assert (simulation.outcome, simulation.pv) == (Outcome.SUPERSEDED, PLAIN)


@pytest.mark.parametrize("done_before", range(9))
def test_two_concurrent_runs_do_no_harm(done_before: int) -> None:
    """Each sees what the other did only after a conflict, which makes it look afresh."""
    simulation = Simulation(PLAIN, claim())
    for number in range(9):
        if number >= done_before:
            simulation.restart()
        if simulation.entry is not None:
            simulation.step()

    simulation.to_the_end()

    assert simulation.pv is not None
    assert simulation.outcome in {Outcome.DONE, Outcome.SUPERSEDED, Outcome.ROLLED_BACK}
    assert FINALIZER not in finalizers_of(simulation.pv)
    assert simulation.pv["spec"]["persistentVolumeReclaimPolicy"] == "Delete"


DISTURBANCES = ["crash", "label", "resize", "policy", "unpoint", "claim", "finalizers", "none"]


def disturb(simulation: Simulation, what: str) -> None:
    """Let somebody else do something, which a conflict then shows."""
    pv = simulation.pv
    if what == "claim":
        simulation.claim = None
    elif pv is None or "deletionTimestamp" not in pv["metadata"]:
        pass
    elif what == "label":
        simulation.pv = with_metadata(pv, labels={"team": "red"})
    elif what == "resize":
        simulation.pv = with_spec(pv, capacity={"storage": "2Gi"})
    elif what == "policy":
        simulation.pv = with_spec(pv, persistentVolumeReclaimPolicy="Delete")
    elif what == "unpoint":
        simulation.pv = with_spec(pv, claimRef=PLAIN["spec"]["claimRef"])
    elif what == "finalizers":
        dropped = [f for f in finalizers_of(pv) if f not in {PROTECTION, PROVISIONER}]
        simulation.pv = with_metadata(pv, finalizers=dropped)
    if what != "none":
        simulation.restart()


@given(script=st.lists(st.sampled_from(DISTURBANCES), max_size=14))
def test_any_interference_loses_nothing(script: list[str]) -> None:
    simulation = Simulation(PLAIN, claim())
    simulation.step()

    for what in script:
        disturb(simulation, what)
        if simulation.entry is not None:
            simulation.step()
    simulation.to_the_end()

    assert simulation.pv is not None
    assert "deletionTimestamp" not in simulation.pv["metadata"]
    assert {FINALIZER, MARKER_ANNOTATION, SKIP_RECLAIM_ANNOTATION}.isdisjoint(
        {*finalizers_of(simulation.pv), *annotations_of(simulation.pv)}
    )
    assert finalizers_of(simulation.pv) == [PROTECTION, PROVISIONER]
    delayed = simulation.outcome is Outcome.RECREATED_WITH_RETAIN
    ref, before = simulation.pv["spec"]["claimRef"], PLAIN["spec"]["claimRef"]
    assert ref == before or (delayed and ref == {**before, "uid": f"gone-{uid_of(PLAIN)}"})
    assert simulation.pv["spec"]["persistentVolumeReclaimPolicy"] == (
        "Retain" if delayed else "Delete"
    )


@pytest.mark.parametrize(("original", "made"), [(None, False), (original_of(PLAIN), True)])
def test_a_volume_that_was_observed_has_its_name_whatever_claim_that_is_for(
    original: Original | None, made: bool
) -> None:
    """Its resource has another name, and its claim did not have it provisioned."""
    name = f"pvc-{uuid.UUID(int=7)}"
    entry = replace(DELETING, pv=PvName(name))
    gone = Observation(pv=None, claim=None, claim_known=True, original=original)

    step = next_step(entry, gone, CONTINUING)

    assert isinstance(step, Create if made else LeaveAlone)


@pytest.mark.parametrize("led", [False, True])
def test_an_absent_volume_keeps_the_protection_that_was_observed(led: bool) -> None:
    """Whatever its entry says, unless this instance knows that it is its own."""
    protected = with_spec(PLAIN, persistentVolumeReclaimPolicy="Retain")
    original = original_of(with_metadata(protected, annotations={SKIP_RECLAIM_ANNOTATION: "true"}))
    absent = Observation(pv=None, claim=claim(), claim_known=True, original=original)

    step = next_step(DELETING, absent, RunFacts(led_throughout=led))

    assert isinstance(step, Create)
    assert step.body["spec"]["persistentVolumeReclaimPolicy"] == ("Delete" if led else "Retain")
    assert (SKIP_RECLAIM_ANNOTATION in annotations_of(step.body)) is not led


RESERVED = with_spec(PLAIN, claimRef={**PLAIN["spec"]["claimRef"], "uid": ""})
WITH_OPTIONS = with_spec(UNCLAIMED, mountOptions=["discard"])


@pytest.mark.parametrize("pv", [UNCLAIMED, WITH_OPTIONS])
@pytest.mark.parametrize("seen", [False, True])
def test_an_absent_volume_without_claim_comes_back_as_it_was_if_it_was_observed(
    pv: Json, *, seen: bool
) -> None:
    entry = begun(pv).deleting()
    original = original_of(pv) if seen else None

    step = next_step(entry, Observation(pv=None, original=original), CONTINUING)

    assert step == Create(entry.wanted if seen else detached(entry.wanted, entry.uid))


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        pytest.param(RESERVED, UNCLAIMED, id="it was reserved for a claim"),
        pytest.param(PLAIN, UNCLAIMED, id="a claim had it"),
        pytest.param(UNCLAIMED, RESERVED, id="the entry reserves it for a claim"),
        pytest.param(UNCLAIMED, WITH_OPTIONS, id="the entry adds mount options"),
    ],
)
def test_an_absent_volume_without_claim_is_for_nobody_if_it_was_seen_otherwise(
    seen: Json, wanted: Json
) -> None:
    entry = begun(wanted).deleting()

    step = next_step(entry, Observation(pv=None, original=original_of(seen)), CONTINUING)

    assert step == Create(detached(entry.wanted, entry.uid))


MOUNTED = with_spec(PLAIN, mountOptions=["discard"])
DISCARDING = StorageClass(name="linstor", policy=None, mount_options=("discard",))


@pytest.mark.parametrize(
    ("seen", "wanted", "storage_class", "for_its_claim"),
    [
        pytest.param(PLAIN, PLAIN, None, True, id="as it was"),
        pytest.param(MOUNTED, MOUNTED, None, True, id="with the options that it had"),
        pytest.param(PLAIN, MOUNTED, None, False, id="more than it had"),
        pytest.param(PLAIN, MOUNTED, DISCARDING, True, id="what its class gives"),
        pytest.param(
            PLAIN,
            with_spec(PLAIN, claimRef={**PLAIN["spec"]["claimRef"], "namespace": "other"}),
            None,
            False,
            id="for a claim of another namespace",
        ),
    ],
)
def test_an_absent_volume_whose_claim_is_gone_is_for_that_claim_only_as_it_was_seen(
    seen: Json, wanted: Json, storage_class: StorageClass | None, *, for_its_claim: bool
) -> None:
    entry = begun(wanted).deleting()
    absent = Observation(
        pv=None, claim_known=True, original=original_of(seen), storage_class=storage_class
    )

    step = next_step(entry, absent, CONTINUING)

    expected = with_retain(entry.wanted) if for_its_claim else detached(entry.wanted, entry.uid)
    assert step == Create(expected)


def test_a_mark_without_annotation_is_set_again_with_what_the_volume_had() -> None:
    """Another client removed the annotation; this run knows the original."""
    rest = {k: v for k, v in annotations_of(MARKED).items() if k != MARKER_ANNOTATION}
    unannotated = with_metadata(MARKED, annotations=rest)
    run = RunFacts(holder="pod-1", begun=True, led_throughout=True)

    step = next_step(DELETING, Observation(pv=unannotated), run)

    assert isinstance(step, Mark)
    assert recorded_values_of(applied(unannotated, step.patch)) == ("Delete", None)


def test_markers_that_others_took_off_a_terminating_volume_are_set_again_with_our_name() -> None:
    going = with_spec(terminating(MARKED), persistentVolumeReclaimPolicy="Delete")

    step = next_step(DELETING, Observation(pv=going), RunFacts(holder="pod-1"))

    assert step == Mark(mark_patch(going, "pod-1"))
    assert holder_of(applied(going, step.patch)) == "pod-1"


@pytest.mark.parametrize("holder", ["pod-1", "pod-2"])
@pytest.mark.parametrize("uninterrupted", [True, False])
@pytest.mark.parametrize("requested", [True, False])
def test_who_knows_that_it_deleted_the_volume_says_so_on_it(
    holder: str, *, uninterrupted: bool, requested: bool
) -> None:
    going = terminating(managed(applied(PLAIN, mark_patch(PLAIN, holder))))
    run = RunFacts(
        holder="pod-1", uninterrupted=uninterrupted, deletion_requested=requested, begun=True
    )

    step = next_step(DELETING, Observation(pv=going), run)

    assert isinstance(step, DetachClaimRef)
    known = holder == "pod-1" and (uninterrupted or requested)
    assert says_deletion(applied(going, step.patch)) is known


@pytest.mark.parametrize("held", [True, False])
def test_a_volume_that_was_seen_marked_is_ours_to_delete_whatever_is_taken_off_it(
    *, held: bool
) -> None:
    original = original_of(MARKED if held else PLAIN)
    going = Observation(pv=terminating(PLAIN), original=original)

    step = next_step(DELETING, going, CONTINUING)

    assert isinstance(step, Mark if held else LeaveAlone)


def test_what_the_reference_deleted_is_left_to_its_saved_volume() -> None:
    skipped = {**annotations_of(PLAIN), SKIP_RECLAIM_ANNOTATION: "true"}
    going = terminating(
        with_metadata(with_spec(PLAIN, persistentVolumeReclaimPolicy="Retain"), annotations=skipped)
    )

    assert next_step(PREPARED, Observation(pv=going), CONTINUING) == Drop(Outcome.SUPERSEDED)
