"""Whole manifests: what is created again, what marks it meanwhile, what is taken over."""

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.changes import changes_decision, taken_over
from linstor_affinity_events.model.claim_ref import detached, rebound, tombstone_patch
from linstor_affinity_events.model.keys import (
    BOUND_BY_CONTROLLER,
    FINALIZER,
    MARKER_ANNOTATION,
    ORIGINAL_CLAIM_ANNOTATION,
    ORIGINAL_POLICY_ANNOTATION,
    OURSELVES,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.manifest import (
    affinity_patch,
    annotations_of,
    claim_of,
    finalizers_of,
    is_later,
)
from linstor_affinity_events.model.markers import (
    LONGEST_MARKER,
    claim_name_of,
    has_any_marker,
    is_marked,
    is_safe_to_release,
    is_unfinished,
    mark_patch,
    recorded_values_of,
    reference_unmarking,
    says_deletion,
    unmarking,
)
from linstor_affinity_events.model.recreation import (
    copy_for_create,
    created_different,
    recreated,
    released,
    with_retain,
)
from tests.model.manifests import (
    CLAIM_UID,
    PROTECTION,
    PROVISIONER,
    PV_UID,
    applied,
    in_phase,
    managed,
    marked,
    on_node,
    terminating,
    volume,
    with_metadata,
    with_spec,
    with_tombstone,
)

Json = dict[str, Any]

OWNED = volume(
    metadata={
        "generateName": "kept-",
        "ownerReferences": [{"kind": "Claim", "name": "x", "uid": "y", "apiVersion": "v1"}],
        "aFieldFromTheFuture": {"kept": True},
        "generation": 4,
        "selfLink": "/api/v1/persistentvolumes/pvc-1",
        "deletionGracePeriodSeconds": 0,
    },
    mountOptions=["noatime"],
    volumeAttributesClassName="gold",
    aFieldFromTheFuture={"nested": [1, {"kept": None}]},
)


def test_the_recreated_volume_differs_in_affinity_only() -> None:
    body = recreated(OWNED, on_node("node-b"))

    expected = with_spec(OWNED, nodeAffinity=on_node("node-b").manifest())["spec"]
    assert body["spec"] == expected


def test_the_recreated_volume_has_all_metadata_except_server_set_fields() -> None:
    body = recreated(OWNED, on_node("node-b"))

    server_set = {"uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"}
    server_set |= {"selfLink", "deletionGracePeriodSeconds"}
    expected = {k: v for k, v in OWNED["metadata"].items() if k not in server_set}
    assert body["metadata"] == expected


def test_the_recreated_volume_has_no_status() -> None:
    body = recreated(OWNED, on_node("node-b"))

    assert body.keys() == {"kind", "apiVersion", "metadata", "spec"}


def test_an_empty_affinity_is_an_absent_field() -> None:
    body = recreated(OWNED, NO_AFFINITY)

    assert "nodeAffinity" not in body["spec"]


def test_the_claim_ref_is_preserved_exactly() -> None:
    body = recreated(OWNED, on_node("node-b"))

    assert body["spec"]["claimRef"] == OWNED["spec"]["claimRef"]


def test_our_markers_are_not_recreated() -> None:
    body = recreated(marked(OWNED), on_node("node-b"))

    assert FINALIZER not in body["metadata"]["finalizers"]
    assert MARKER_ANNOTATION not in body["metadata"]["annotations"]


def test_the_manifest_read_is_never_changed() -> None:
    before = deepcopy(OWNED)

    body = recreated(OWNED, on_node("node-b"))
    recreated(OWNED, NO_AFFINITY)
    copy_for_create(marked(OWNED))
    taken_over(body, OWNED)
    released(OWNED)

    assert before == OWNED


def test_a_marked_volume_may_be_deleted() -> None:
    pv = marked(OWNED)

    assert is_marked(pv)
    assert finalizers_of(pv) == [PROTECTION, FINALIZER]


def test_a_finalizer_of_the_provisioner_is_recreated_if_it_existed() -> None:
    def restored(pv: Json) -> list[str]:
        return finalizers_of(applied(pv, unmarking(pv).patch))

    again = applied(marked(OWNED), mark_patch(marked(OWNED)))
    without = with_metadata(OWNED, finalizers=[PROTECTION])

    assert PROVISIONER in restored(marked(OWNED))
    assert PROVISIONER in restored(managed(again))
    assert PROVISIONER not in restored(marked(without))
    assert PROVISIONER not in restored(managed(marked(OWNED), manager="somebody"))


@pytest.mark.parametrize("policy", ["Delete", "Retain", "Recycle"])
@pytest.mark.parametrize("skip_reclaim", [None, "true", "false", ""])
def test_markers_can_be_removed(policy: str, skip_reclaim: str | None) -> None:
    pv = with_spec(OWNED, persistentVolumeReclaimPolicy=policy)
    annotations = {"theirs": "1"}
    if skip_reclaim is not None:
        annotations[SKIP_RECLAIM_ANNOTATION] = skip_reclaim
    pv = with_metadata(pv, annotations=annotations)

    changed = marked(pv)
    restored = applied(changed, unmarking(changed).patch)

    assert not unmarking(changed).retained
    assert unmanaged(restored) == unmanaged(with_metadata(pv, resourceVersion="1608"))


def unmanaged(pv: Json) -> Json:
    return with_metadata(pv, managedFields=None)


@pytest.mark.parametrize(
    "pv",
    [
        pytest.param(
            with_metadata(marked(OWNED), managedFields=[]),
            id="all marks, written by nobody of ours",
        ),
        pytest.param(
            managed(with_metadata(marked(OWNED), managedFields=[]), manager="x"), id="theirs"
        ),
        pytest.param(
            with_metadata(
                with_spec(OWNED, persistentVolumeReclaimPolicy="Retain"),
                annotations={MARKER_ANNOTATION: '{"reclaimPolicy":"Delete","skipReclaim":null}'},
            ),
            id="an annotation alone",
        ),
    ],
)
def test_markers_of_others_restore_no_reclaim_policy(pv: Json) -> None:
    unmarked = unmarking(pv)

    after = applied(pv, unmarked.patch)
    assert not has_any_marker(after)
    assert after["spec"] == pv["spec"]
    # Where there was our finalizer, Retain may be ours as well.
    assert unmarked.retained == (FINALIZER in finalizers_of(pv))


def test_with_a_missing_marker_the_volume_keeps_retain_with_an_annotation() -> None:
    lacking = with_metadata(
        marked(OWNED),
        annotations={
            k: v for k, v in annotations_of(marked(OWNED)).items() if k != SKIP_RECLAIM_ANNOTATION
        },
    )

    unmarked = unmarking(lacking)

    after = applied(lacking, unmarked.patch)
    assert unmarked.retained
    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert annotations_of(after)[ORIGINAL_POLICY_ANNOTATION] == "Delete"


def test_marking_again_records_a_reclaim_policy_set_meanwhile() -> None:
    pv = with_spec(marked(OWNED), persistentVolumeReclaimPolicy="Recycle")

    assert recorded_values_of(marked(pv)) == ("Recycle", None)


def test_marking_twice_records_the_first_original_values() -> None:
    pv = marked(marked(OWNED))

    assert recorded_values_of(pv) == ("Delete", None)
    assert finalizers_of(pv).count(FINALIZER) == 1


@pytest.mark.parametrize(("length", "recorded"), [(253, "x" * 253), (254, None)])
def test_a_value_is_recorded_up_to_the_length_that_is_read(
    length: int, recorded: str | None
) -> None:
    pv = applied(OWNED, mark_patch(OWNED, before=("Delete", "x" * length)))

    assert recorded_values_of(pv) == ("Delete", recorded)


def test_every_patch_is_guarded_by_uid_and_version() -> None:
    patches = [
        mark_patch(OWNED),
        unmarking(OWNED).patch,
        reference_unmarking(OWNED, "Delete", keep=False).patch,
        tombstone_patch(OWNED),
        affinity_patch(OWNED, on_node("node-b")),
    ]

    for patch in patches:
        assert patch["metadata"]["uid"] == PV_UID
        assert patch["metadata"]["resourceVersion"] == "1606"


def test_no_finalizer_is_added_to_a_terminating_volume() -> None:
    patch = mark_patch(terminating(OWNED))

    assert FINALIZER not in patch["metadata"]["finalizers"]


def test_removing_markers_preserves_a_reclaim_policy_set_meanwhile() -> None:
    pv = with_spec(marked(OWNED), persistentVolumeReclaimPolicy="Recycle")

    after = applied(pv, unmarking(pv).patch)

    assert after["spec"]["persistentVolumeReclaimPolicy"] == "Recycle"
    assert SKIP_RECLAIM_ANNOTATION not in annotations_of(after)


@pytest.mark.parametrize(
    "lacking",
    [
        pytest.param(
            with_metadata(marked(OWNED), finalizers=[PROTECTION]), id="without our finalizer"
        ),
        pytest.param(
            with_spec(marked(OWNED), persistentVolumeReclaimPolicy="Delete"), id="without Retain"
        ),
        pytest.param(with_metadata(marked(OWNED), annotations={}), id="without skip-reclaim"),
        pytest.param(
            with_metadata(marked(OWNED), annotations={SKIP_RECLAIM_ANNOTATION: "false"}),
            id="skip-reclaim that is not true",
        ),
    ],
)
def test_a_volume_without_one_of_the_markers_is_not_marked(lacking: Json) -> None:
    assert not is_marked(lacking)


@pytest.mark.parametrize("by", [MARKER_ANNOTATION, FINALIZER])
@pytest.mark.parametrize("going", [True, False])
def test_an_annotation_alone_leaves_nothing_to_be_done_for_a_volume_that_goes(
    by: str, *, going: bool
) -> None:
    held = volume(metadata={"finalizers": [FINALIZER]})
    annotated = volume(metadata={"annotations": {MARKER_ANNOTATION: "x"}})
    pv = held if by == FINALIZER else annotated

    assert is_unfinished(terminating(pv) if going else pv) is (by == FINALIZER or not going)


def test_a_terminating_volume_is_safe_without_a_finalizer_of_ours() -> None:
    pv = with_metadata(terminating(marked(OWNED)), finalizers=[PROVISIONER])

    assert is_safe_to_release(pv)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "null",
        "[]",
        "{}",
        '"text"',
        '{"reclaimPolicy":"Delete"}',
        '{"skipReclaim":null}',
        '{"reclaimPolicy":"Destroy","skipReclaim":null}',
        '{"reclaimPolicy":null,"skipReclaim":null}',
        '{"reclaimPolicy":"Delete","skipReclaim":true}',
        '{"reclaimPolicy":["Delete"],"skipReclaim":null}',
        '{"reclaimPolicy":{},"skipReclaim":null}',
        '{"reclaimPolicy":"Delete","skipReclaim":"\\ud800"}',
        "[" * 100_000,
    ],
)
def test_an_unreadable_marker_is_ignored(text: str) -> None:
    pv = with_metadata(OWNED, annotations={MARKER_ANNOTATION: text})

    assert recorded_values_of(pv) is None


@pytest.mark.parametrize(("more", "read"), [(0, True), (1, False)])
def test_an_annotation_that_takes_long_to_parse_is_no_marker(more: int, read: bool) -> None:
    before = json.dumps({"reclaimPolicy": "Delete", "skipReclaim": None})
    text = before + " " * (LONGEST_MARKER - len(before) + more)
    pv = with_metadata(volume(), annotations={MARKER_ANNOTATION: text})

    assert (recorded_values_of(pv) is not None) is read


def test_a_volume_recreated_with_retain_records_its_original_policy() -> None:
    body = with_retain(recreated(OWNED, on_node("node-b")))

    assert body["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert body["metadata"]["annotations"][ORIGINAL_POLICY_ANNOTATION] == "Delete"


def test_a_volume_with_policy_retain_is_recreated_unchanged() -> None:
    body = recreated(with_spec(OWNED, persistentVolumeReclaimPolicy="Retain"), NO_AFFINITY)

    assert with_retain(body) == body


def test_setting_retain_does_not_change_the_input() -> None:
    body = recreated(OWNED, on_node("node-b"))
    before = deepcopy(body)

    with_retain(body)

    assert body == before


def test_releasing_finalizers_is_guarded_by_uid_and_version() -> None:
    pv = terminating(marked(OWNED))

    body = released(pv)

    assert body == with_metadata(pv, finalizers=[], managedFields=None)
    assert "managedFields" not in body["metadata"]


def test_a_volume_with_detached_claim_ref_is_ignored_by_the_provisioner() -> None:
    pv = applied(OWNED, tombstone_patch(OWNED))

    assert PROVISIONER in finalizers_of(OWNED)
    assert finalizers_of(pv) == [f for f in finalizers_of(OWNED) if f != PROVISIONER]


def test_the_tombstone_keeps_namespace_and_uid_of_the_claim() -> None:
    pv = applied(OWNED, tombstone_patch(OWNED))

    assert pv["spec"]["claimRef"] == {
        **OWNED["spec"]["claimRef"],
        "name": f"gone-{PV_UID}",
        "uid": CLAIM_UID,
    }


WANTED = recreated(OWNED, on_node("node-b"))
MARKED = marked(OWNED)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(MARKED, WANTED, id="nothing changed"),
        pytest.param(terminating(with_tombstone(MARKED)), WANTED, id="only we changed it"),
        pytest.param(in_phase(MARKED, "Released"), WANTED, id="phase"),
        pytest.param(
            with_metadata(MARKED, labels={"team": "red", "new": "1"}),
            with_metadata(WANTED, labels={"team": "red", "new": "1"}),
            id="labels changed and added",
        ),
        pytest.param(
            with_metadata(MARKED, labels=None), with_metadata(WANTED, labels=None), id="labels gone"
        ),
        pytest.param(
            with_metadata(
                MARKED, annotations={**MARKED["metadata"]["annotations"], "theirs": "new"}
            ),
            with_metadata(
                WANTED, annotations={**WANTED["metadata"]["annotations"], "theirs": "new"}
            ),
            id="annotation added",
        ),
        pytest.param(
            with_metadata(MARKED, annotations={SKIP_RECLAIM_ANNOTATION: "true"}),
            with_metadata(WANTED, annotations={}),
            id="annotation gone",
        ),
        pytest.param(
            with_spec(MARKED, capacity={"storage": "2Gi"}),
            with_spec(WANTED, capacity={"storage": "2Gi"}),
            id="resized",
        ),
        pytest.param(
            with_spec(MARKED, volumeAttributesClassName="silver"),
            with_spec(WANTED, volumeAttributesClassName="silver"),
            id="attributes class",
        ),
        pytest.param(
            with_spec(MARKED, aFieldFromTheFuture=None),
            with_spec(WANTED, aFieldFromTheFuture=None),
            id="a field that this code does not know went",
        ),
        pytest.param(
            with_metadata(MARKED, finalizers=[FINALIZER]), WANTED, id="finalizers went, come back"
        ),
        pytest.param(
            with_metadata(MARKED, finalizers=[FINALIZER, "example.com/new"]),
            with_metadata(WANTED, finalizers=[PROTECTION, PROVISIONER, "example.com/new"]),
            id="a new finalizer counts",
        ),
        pytest.param(
            with_spec(MARKED, persistentVolumeReclaimPolicy="Recycle"),
            with_spec(WANTED, persistentVolumeReclaimPolicy="Recycle"),
            id="a policy that somebody set counts",
        ),
        pytest.param(
            with_spec(MARKED, nodeAffinity=on_node("node-c").manifest()),
            WANTED,
            id="another affinity does not count",
        ),
        pytest.param(with_spec(MARKED, claimRef=None), WANTED, id="a lost claimRef does not count"),
        pytest.param(
            with_spec(MARKED, claimRef={**OWNED["spec"]["claimRef"], "name": "other"}),
            WANTED,
            id="another claimRef does not count",
        ),
    ],
)
def test_changes_of_others_are_taken_over(observed: Json, expected: Json) -> None:
    assert taken_over(WANTED, observed) == expected


def test_an_original_skip_reclaim_stays() -> None:
    pv = with_metadata(OWNED, annotations={SKIP_RECLAIM_ANNOTATION: "true"})
    wanted = recreated(pv, on_node("node-b"))

    assert taken_over(wanted, marked(pv)) == wanted
    assert annotations_of(wanted) == {SKIP_RECLAIM_ANNOTATION: "true"}


def test_a_volume_with_only_our_finalizer_is_recreated_as_wanted() -> None:
    pv = with_metadata(OWNED, finalizers=[FINALIZER])
    wanted = recreated(pv, on_node("node-b"))

    assert taken_over(wanted, marked(pv)) == wanted


KEYS = st.sampled_from(
    ["a", "example.com/b", SKIP_RECLAIM_ANNOTATION, MARKER_ANNOTATION, ORIGINAL_POLICY_ANNOTATION]
)
TEXTS = st.dictionaries(KEYS, st.text(max_size=10))
FINALIZERS = st.lists(st.sampled_from([PROVISIONER, FINALIZER, "example.com/x"]), unique=True).map(
    lambda others: [PROTECTION, *others]
)


@given(
    annotations=TEXTS,
    labels=TEXTS,
    finalizers=FINALIZERS,
    policy=st.sampled_from(["Delete", "Retain"]),
)
def test_our_own_markers_are_never_taken_over_as_changes(
    annotations: dict[str, str], labels: dict[str, str], finalizers: list[str], policy: str
) -> None:
    pv = with_metadata(
        with_spec(OWNED, persistentVolumeReclaimPolicy=policy),
        annotations=annotations or None,
        labels=labels or None,
        finalizers=finalizers,
    )
    wanted = recreated(pv, on_node("node-b"))

    observed = in_phase(with_tombstone(terminating(marked(pv))), "Released")

    assert taken_over(wanted, observed) == wanted


@given(annotations=TEXTS, finalizers=FINALIZERS)
def test_taking_over_twice_changes_nothing_more(
    annotations: dict[str, str], finalizers: list[str]
) -> None:
    observed = with_metadata(MARKED, annotations=annotations, finalizers=finalizers)

    once = taken_over(WANTED, observed)

    assert taken_over(once, observed) == once


def test_the_copy_of_a_volume_can_be_created() -> None:
    body = copy_for_create(terminating(MARKED))

    assert body["metadata"].keys().isdisjoint({"uid", "resourceVersion", "deletionTimestamp"})


def test_a_list_item_without_kind_and_version_is_no_change() -> None:
    original = volume()
    wanted = recreated(original, NO_AFFINITY)

    minimal = {key: value for key, value in original.items() if key not in {"apiVersion", "kind"}}

    assert taken_over(wanted, minimal)["kind"] == "PersistentVolume"
    assert taken_over(wanted, minimal)["apiVersion"] == "v1"


@pytest.mark.parametrize("before", [None, "yes"])
@pytest.mark.parametrize("after", [None, "yes"])
def test_annotations_of_the_binder_are_neither_added_nor_removed(
    before: str | None, after: str | None
) -> None:
    def with_mark(value: str | None) -> dict[str, Any]:
        given = {"theirs": "1"} | ({} if value is None else {BOUND_BY_CONTROLLER: value})
        return with_metadata(OWNED, annotations=given)

    wanted = recreated(with_mark(before), NO_AFFINITY)

    assert annotations_of(taken_over(wanted, with_mark(after))) == annotations_of(wanted)


CLAIM = claim_of(OWNED)


@pytest.mark.parametrize(
    ("ref", "by_another_client"),
    [
        pytest.param(OWNED["spec"]["claimRef"], False, id="as it was"),
        pytest.param(
            {**OWNED["spec"]["claimRef"], "name": f"gone-{PV_UID}"}, False, id="tombstone"
        ),
        pytest.param(
            {**OWNED["spec"]["claimRef"], "resourceVersion": "7"},
            False,
            id="repaired by the binder",
        ),
        pytest.param({**OWNED["spec"]["claimRef"], "name": "another"}, True, id="another name"),
        pytest.param(
            {**OWNED["spec"]["claimRef"], "name": f"gone-{PV_UID}", "uid": "x"},
            True,
            id="other uid",
        ),
        pytest.param({**OWNED["spec"]["claimRef"], "namespace": "x"}, True, id="another namespace"),
        pytest.param(None, True, id="none"),
    ],
)
def test_a_claim_ref_written_by_others_is_distinguished_from_our_own(
    ref: Json | None, by_another_client: bool
) -> None:
    assert rebound(with_spec(OWNED, claimRef=ref), CLAIM) is by_another_client


def test_a_detached_volume_names_its_former_claim_and_matches_none() -> None:
    body = detached(recreated(OWNED, on_node("node-b")), PV_UID)

    assert body["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert annotations_of(body)[ORIGINAL_POLICY_ANNOTATION] == "Delete"
    assert annotations_of(body)[ORIGINAL_CLAIM_ANNOTATION] == "default/data"
    assert body["spec"]["claimRef"]["name"] == f"gone-{PV_UID}"
    assert body["spec"]["claimRef"]["uid"] == f"gone-{PV_UID}"


ASKED = recreated(OWNED, on_node("node-b"))


@pytest.mark.parametrize(
    ("made", "parts"),
    [
        pytest.param(ASKED, (), id="as asked for"),
        pytest.param(
            with_metadata(ASKED, labels={"team": "blue", "new": "1"}), (), id="label added"
        ),
        pytest.param(with_spec(ASKED, aServerDefault="x"), (), id="a field filled in"),
        pytest.param(
            with_spec(ASKED, claimRef={**ASKED["spec"]["claimRef"], "fieldPath": ""}),
            (),
            id="an empty text",
        ),
        pytest.param(
            with_spec(ASKED, nodeAffinity=on_node("node-c").manifest()),
            ("spec.nodeAffinity",),
            id="another affinity",
        ),
        pytest.param(with_spec(ASKED, nodeAffinity=None), ("spec.nodeAffinity",), id="no affinity"),
        pytest.param(
            with_spec(ASKED, storageClassName="y"),
            ("spec.storageClassName",),
            id="another class",
        ),
        pytest.param(
            with_metadata(ASKED, labels={"team": "red"}),
            ("metadata.labels[team]",),
            id="another label",
        ),
    ],
)
def test_differences_from_the_wanted_volume_are_named(made: Json, parts: tuple[str, ...]) -> None:
    assert created_different(ASKED, made) == parts


@pytest.mark.parametrize(
    ("after", "part"),
    [
        pytest.param(with_metadata(ASKED, labels={"new": "1"}), None, id="labels"),
        pytest.param(
            with_metadata(ASKED, annotations={"policy.example.com/seen": "now"}),
            None,
            id="annotations",
        ),
        pytest.param(
            with_metadata(ASKED, annotations={"piraeus.io/skip-affinity-controller": "1"}),
            "metadata.annotations[piraeus.io/skip-affinity-controller]",
            id="skip annotation",
        ),
        pytest.param(
            with_metadata(ASKED, annotations={"override.piraeus.io/n1": "true"}),
            "metadata.annotations[override.piraeus.io/n1]",
            id="override",
        ),
        pytest.param(with_spec(ASKED, mountOptions=["x"]), "spec.mountOptions", id="spec"),
        pytest.param(
            with_metadata(ASKED, finalizers=["example.com/x"]),
            "metadata.finalizers",
            id="finalizer",
        ),
    ],
)
def test_only_decision_inputs_cause_another_decision(after: Json, part: str | None) -> None:
    assert changes_decision(ASKED, after) == part


@pytest.mark.parametrize("part", ["namespace", "name", "uid"])
def test_no_long_text_of_a_claim_ref_is_kept(part: str) -> None:
    """The API server accepts texts of a megabyte there. Different ones stay different."""
    ref = {"namespace": "default", "name": "x", "uid": "1"}
    long = [{**ref, part: "x" * 10**6}, {**ref, part: "x" * 10**6 + "y"}]

    one, other = (claim_of({"spec": {"claimRef": each}}) for each in long)

    assert one is not None
    assert one != other
    assert one == claim_of({"spec": {"claimRef": dict(long[0])}})
    assert len(getattr(one, part)) < 200
    assert part == "uid" or not one.is_valid


def test_a_deletion_needs_no_more_of_the_annotation_than_the_mark() -> None:
    """Annotations have a total limit: what it refuses has to be refused before the deletion."""
    held = applied(OWNED, mark_patch(OWNED, "instance-1"))
    assert not says_deletion(held)
    held["metadata"]["managedFields"] = [
        {
            "manager": OURSELVES,
            "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{MARKER_ANNOTATION}": {}}}},
        }
    ]

    detached_now = applied(held, tombstone_patch(held, deleted=True))
    detached_only = applied(held, tombstone_patch(held))

    assert says_deletion(detached_now)
    assert not says_deletion(detached_only)
    before, after = annotations_of(held), annotations_of(detached_now)
    assert len(after[MARKER_ANNOTATION]) <= len(before[MARKER_ANNOTATION])


def test_markers_have_the_name_of_the_claim_for_when_the_claim_ref_is_detached() -> None:
    held = marked(OWNED)
    name = OWNED["spec"]["claimRef"]["name"]
    detached = terminating(applied(held, tombstone_patch(held)))

    assert claim_name_of(detached) == name
    assert claim_name_of(managed(applied(detached, mark_patch(detached, "another")))) == name
    renamed = with_spec(held, claimRef={**OWNED["spec"]["claimRef"], "name": "other"})
    assert claim_name_of(managed(applied(renamed, mark_patch(renamed, "another")))) == "other"
    assert claim_name_of(managed(detached, manager="somebody")) == ""


def test_markers_that_are_set_again_do_not_have_the_name_in_a_detached_claim_ref() -> None:
    """No claim has it, and a volume that refers to it loses its data with policy Delete."""
    held = marked(OWNED)
    detached = terminating(applied(held, tombstone_patch(held)))
    no_marker = applied(detached, {"metadata": {"annotations": {MARKER_ANNOTATION: None}}})

    assert claim_name_of(managed(applied(no_marker, mark_patch(no_marker)))) == ""


@pytest.mark.parametrize(
    ("version", "later"),
    [("203", True), ("1000", True), ("202", False), ("201", False), ("x", False), ("", False)],
)
def test_a_version_is_later_by_its_number(version: str, *, later: bool) -> None:
    assert is_later(version, "202") is later
    assert not is_later(version, "")
    assert not is_later("9" * 5000, version)
