"""What a volume's like lacks of how the volume was when it went."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.model.claim_ref import rebound, with_claim_of
from linstor_affinity_events.model.keys import FINALIZER, ORIGINAL_POLICY_ANNOTATION
from linstor_affinity_events.model.late_write import apart, joined, late_patch
from linstor_affinity_events.model.manifest import claim_of
from linstor_affinity_events.model.recreation import copy_for_create, with_retain
from tests.model.manifests import (
    CLAIM_UID,
    applied,
    begun,
    marked,
    terminating,
    volume,
    with_metadata,
    with_tombstone,
)

Json = dict[str, Any]

WANTED = dict(begun(volume()).wanted)
ANNOTATION = "example.com/noted"
CLAIM = claim_of(volume())


def went(**patch: Any) -> Json:
    """The volume in the moment of its removal, after somebody's change that nobody saw."""
    return applied(with_tombstone(terminating(marked(volume()))), patch)


def made(wanted: Json = WANTED) -> Json:
    """Its replacement, as the API server shows it."""
    new = with_metadata(wanted, uid="pv-uid-2", resourceVersion="2000")
    return {**new, "status": {"phase": "Bound"}}


def late(last: Json, now: Json) -> Json | None:
    return late_patch(WANTED, last, now, rebound_from=CLAIM)


def test_each_late_change_can_be_applied_separately() -> None:
    changes = {
        "metadata": {"labels": {"a": "1", "team": None}, "annotations": {ANNOTATION: "yes"}},
        "spec": {"capacity": {"storage": "2Gi"}, "mountOptions": ["noatime"]},
    }
    patch = late(went(**changes), made())
    assert patch is not None

    specs = [each["spec"] for each in apart(patch) if "spec" in each]
    assert sorted(specs, key=str) == [
        {"capacity": {"storage": "2Gi"}},
        {"mountOptions": ["noatime"]},
    ]
    for section, field in [("metadata", "uid"), ("metadata", "resourceVersion")]:
        assert all(field not in each.get(section, {}) for each in apart(patch))
    together = made()
    for each in apart(patch):
        together = applied(together, each)
    at_once = applied(made(), patch)
    assert together["spec"] == at_once["spec"]
    for field in ("labels", "annotations"):
        assert together["metadata"][field] == at_once["metadata"][field]


def test_separate_changes_are_joined_to_the_same_patch() -> None:
    patch = {
        "metadata": {"labels": {"a": "1", "b": None}, "annotations": {"c": "2"}, "finalizers": []},
        "spec": {"capacity": {"storage": "2Gi"}, "mountOptions": None},
    }

    assert joined(apart(patch)) == patch


def test_without_late_writes_nothing_is_missing() -> None:
    assert late(went(), made()) is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {"team": "red"}}}, id="a label"),
        pytest.param({"metadata": {"labels": {"tier": "gold"}}}, id="another label"),
        pytest.param({"metadata": {"labels": {"team": None}}}, id="a label less"),
        pytest.param({"metadata": {"annotations": {ANNOTATION: "yes"}}}, id="an annotation"),
        pytest.param({"spec": {"capacity": {"storage": "2Gi"}}}, id="the capacity"),
        pytest.param({"spec": {"mountOptions": ["noatime"]}}, id="mount options"),
        pytest.param(
            {"spec": {"claimRef": {"name": "another", "uid": "another-uid"}}}, id="another claim"
        ),
        pytest.param({"spec": {"claimRef": None}}, id="no claim any more"),
    ],
)
def test_a_late_write_is_on_the_replacement(change: Json) -> None:
    last = went(**change)
    patch = late(last, made())

    assert patch is not None
    corrected = applied(made(), patch)
    assert copy_for_create(corrected) == applied_to_wanted(change)
    assert late(last, corrected) is None


def applied_to_wanted(change: Json) -> Json:
    return copy_for_create(applied(made(), change))


def test_a_claim_ref_restored_by_the_binder_is_not_a_late_write() -> None:
    assert late(went(spec={"claimRef": {"name": "data"}}), made()) is None


def test_the_name_of_our_tombstone_is_never_a_late_write() -> None:
    """With it, and with policy Delete, the data of the volume would be deleted."""
    named = {**WANTED["spec"]["claimRef"], "uid": "another"}
    rewritten = {**WANTED, "spec": {**WANTED["spec"], "claimRef": named}}
    last = went()

    assert rebound(last, claim_of(rewritten))
    assert late_patch(rewritten, last, made(), rebound_from=claim_of(rewritten)) is None
    assert with_claim_of(rewritten, last)["spec"]["claimRef"]["name"] == "data"
    assert with_claim_of(rewritten, last)["spec"]["claimRef"]["uid"] == CLAIM_UID


def test_a_claim_ref_that_no_claim_can_have_is_not_a_late_write() -> None:
    assert late(went(spec={"claimRef": {"name": "Not Valid"}}), made()) is None


def test_the_patch_is_guarded_by_uid_and_version() -> None:
    patch = late(went(metadata={"labels": {"team": "red"}}), made())

    assert patch is not None
    assert patch["metadata"]["uid"] == "pv-uid-2"
    assert patch["metadata"]["resourceVersion"] == "2000"


def test_later_changes_of_the_replacement_are_preserved() -> None:
    last = went(metadata={"labels": {"team": "red", "tier": "gold"}})
    now = applied(made(), {"metadata": {"labels": {"team": "green"}}})

    patch = late(last, now)

    assert patch is not None
    assert applied(now, patch)["metadata"]["labels"] == {"team": "green", "tier": "gold"}


def test_a_first_label_is_added() -> None:
    minimal = with_metadata(volume(), labels=None)
    wanted = dict(begun(minimal).wanted)
    last = applied(terminating(marked(minimal)), {"metadata": {"labels": {"team": "red"}}})

    patch = late_patch(wanted, last, made(wanted), rebound_from=CLAIM)

    assert patch is not None
    assert patch["metadata"]["labels"] == {"team": "red"}
    now = applied(made(wanted), {"metadata": {"labels": {"tier": "gold"}}})
    beside = late_patch(wanted, last, now, rebound_from=CLAIM)
    assert beside is not None
    assert applied(now, beside)["metadata"]["labels"] == {"team": "red", "tier": "gold"}


def test_a_late_reclaim_policy_is_applied_unless_recreated_with_retain() -> None:
    last = went(spec={"persistentVolumeReclaimPolicy": "Recycle"})

    patch = late(last, made())

    assert patch is not None
    assert patch["spec"] == {"persistentVolumeReclaimPolicy": "Recycle"}
    assert late(last, made(with_retain(WANTED))) is None


def test_a_volume_recreated_with_retain_keeps_its_annotation() -> None:
    now = made(with_retain(WANTED))
    last = went(metadata={"annotations": {ANNOTATION: "yes"}})

    patch = late(last, now)

    assert patch is not None
    corrected = applied(now, patch)
    assert corrected["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert corrected["metadata"]["annotations"][ORIGINAL_POLICY_ANNOTATION] == "Delete"
    assert corrected["metadata"]["annotations"][ANNOTATION] == "yes"


texts = st.sampled_from(["", "a", "b"])
trees = st.dictionaries(texts, texts, max_size=3)


@given(labels=trees, annotations=trees, again=trees)
def test_our_markers_are_not_applied_and_applying_is_idempotent(
    labels: Json, annotations: Json, again: Json
) -> None:
    last = went(metadata={"labels": labels, "annotations": annotations})
    now = applied(made(), {"metadata": {"labels": again}})

    patch = late(last, now)

    corrected = now if patch is None else applied(now, patch)
    assert FINALIZER not in corrected["metadata"].get("finalizers", [])
    assert corrected["metadata"].get("annotations", {}).keys() <= (
        WANTED["metadata"]["annotations"].keys() | annotations.keys()
    )
    assert late(last, corrected) is None
