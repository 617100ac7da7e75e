"""Entries of unfinished replacements: written, read back, and never trusted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.errors import BadEntry
from linstor_affinity_events.model.affinity import MOST_TERMS
from linstor_affinity_events.model.journal_entry import (
    MOST_ANNOTATIONS,
    MOST_BYTES,
    MOST_ITEMS,
    MOST_NUMBER,
    MOST_VALUES,
    JournalEntry,
    Space,
    State,
    read_entry,
    read_saved,
)
from linstor_affinity_events.model.keys import (
    CONTEXT_POLICY,
    FINALIZER,
    MARKER_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
    USES_CONTEXT,
    VolumeKey,
)
from linstor_affinity_events.model.manifest import annotations_of, claim_of, name_of
from linstor_affinity_events.model.markers import has_any_marker
from linstor_affinity_events.model.names import ResourceName, Uid
from linstor_affinity_events.model.recreation import SERVER_SET
from tests.model.manifests import (
    KEY,
    PV,
    PV_UID,
    begun,
    in_phase,
    marked,
    on_node,
    terminating,
    volume,
    with_metadata,
    with_spec,
)

Json = dict[str, Any]

DATA = Path(__file__).parents[1] / "data" / "linstor"
Change = Callable[[Json], object]

NESTED: Any = "deep"
for _ in range(900):
    NESTED = [NESTED]
"""About as deep as the JSON parser lets through."""


def fresh(tree: object) -> Json:
    """As it comes back from where it was kept."""
    copy: Json = json.loads(json.dumps(tree))
    return copy


def put(*path: str, to: Any) -> Change:
    """Set one field of a tree, given by the way to it."""

    def change(tree: Json) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = to

    return change


def without(*path: str) -> Change:
    def change(tree: Json) -> None:
        for key in path[:-1]:
            tree = tree[key]
        del tree[path[-1]]

    return change


def test_an_entry_round_trips() -> None:
    entry = begun(volume())

    assert read_entry(fresh(entry.written())) == entry


def test_an_entry_for_a_volume_without_a_claim_round_trips() -> None:
    entry = begun(with_spec(volume(), claimRef=None)).deleting()

    assert read_entry(fresh(entry.written())) == entry


def test_an_entry_has_the_original_values_of_the_volume() -> None:
    pv = with_metadata(volume(), annotations={SKIP_RECLAIM_ANNOTATION: "true"})

    entry = read_entry(fresh(begun(pv).written()))

    assert entry.policy == "Delete"
    assert annotations_of(entry.wanted)[SKIP_RECLAIM_ANNOTATION] == "true"
    assert (entry.state, entry.uid) == (State.PREPARED, PV_UID)


def test_an_entry_has_the_version_of_its_config_map() -> None:
    assert read_entry(begun(volume()).written(), version="uid/7").version == "uid/7"


JUNK: list[Any] = [None, True, 0, 1.5, "text", "", [], ["x"], {}, {"a": {"b": []}}]


@pytest.mark.parametrize("tree", [*JUNK, [begun(volume()).written()]])
def test_an_invalid_entry_is_rejected(tree: object) -> None:
    with pytest.raises(BadEntry):
        read_entry(tree)


HOSTILE = [
    pytest.param(put("format", to=2), id="another format"),
    pytest.param(put("format", to="1"), id="a format that is text"),
    pytest.param(without("format"), id="no format"),
    pytest.param(put("pv", to="pvc-2"), id="another volume's name"),
    pytest.param(put("pv", to=["pvc-1"]), id="a name in a list"),
    pytest.param(put("volume", to="pvc-2/0"), id="another handle beside the manifest"),
    pytest.param(put("volume", to="pvc-1"), id="a handle in another spelling"),
    pytest.param(without("volume"), id="no handle"),
    pytest.param(put("wanted", "spec", "csi", "volumeHandle", to="pvc-2"), id="another handle"),
    pytest.param(put("wanted", "spec", "csi", "volumeHandle", to="pvc-1/x"), id="no handle"),
    pytest.param(put("wanted", "spec", "csi", "volumeHandle", to=1), id="a number for a handle"),
    pytest.param(without("wanted", "spec", "csi", "volumeHandle"), id="a source without a handle"),
    pytest.param(put("state", to="creating"), id="an unknown state"),
    pytest.param(put("state", to=None), id="no state"),
    pytest.param(put("state", to=["prepared"]), id="a state in a list"),
    pytest.param(put("state", to={"prepared": 1}), id="a state that is an object"),
    pytest.param(put("uid", to=""), id="an empty uid"),
    pytest.param(put("uid", to=7), id="a uid that is a number"),
    pytest.param(without("uid"), id="no uid"),
    pytest.param(put("holder", to=None), id="a holder that is no text"),
    pytest.param(put("claim", to=None), id="no claim beside a claimRef"),
    pytest.param(put("claim", "name", to="other"), id="another claim"),
    pytest.param(put("claim", "namespace", to="kube-system"), id="another namespace"),
    pytest.param(put("claim", "uid", to="other"), id="another claim's uid"),
    pytest.param(put("claim", "extra", to=1), id="a claim that says more"),
    pytest.param(put("claim", to="default/data"), id="a claim that is text"),
    pytest.param(without("wanted", "spec", "claimRef"), id="a claim without a claimRef"),
    pytest.param(put("wanted", to=None), id="no manifest"),
    pytest.param(put("wanted", to=[]), id="a manifest that is a list"),
]

HOSTILE_MANIFESTS = [
    pytest.param(put("kind", to="Pod"), id="a pod"),
    pytest.param(put("kind", to=None), id="a kind that is null"),
    pytest.param(put("kind", to=["PersistentVolume"]), id="a kind in a list"),
    pytest.param(put("apiVersion", to="v2"), id="another version"),
    pytest.param(put("apiVersion", to=[]), id="a version that is a list"),
    pytest.param(without("metadata"), id="no metadata"),
    pytest.param(put("metadata", to=[]), id="metadata in a list"),
    pytest.param(without("spec"), id="no spec"),
    pytest.param(put("spec", to="text"), id="a spec that is text"),
    pytest.param(put("metadata", "name", to="../secrets/x"), id="a name that is a path"),
    pytest.param(put("metadata", "name", to="a/b"), id="a name with a slash"),
    pytest.param(put("metadata", "name", to="pvc-1?dryRun=All"), id="a name with a query"),
    pytest.param(put("metadata", "name", to="PVC-1"), id="a name in upper case"),
    pytest.param(put("metadata", "name", to="pvc-1\n"), id="a name with a line break"),
    pytest.param(put("metadata", "name", to=""), id="an empty name"),
    pytest.param(put("metadata", "name", to="x" * 254), id="a long name"),
    pytest.param(put("metadata", "name", to=7), id="a name that is a number"),
    pytest.param(without("metadata", "name"), id="no name"),
    pytest.param(put("metadata", "labels", to=["x"]), id="labels in a list"),
    pytest.param(put("metadata", "labels", to={"x": 1}), id="a label that is a number"),
    pytest.param(put("metadata", "annotations", to="x"), id="annotations that are text"),
    pytest.param(put("metadata", "annotations", to={"x": None}), id="an annotation that is null"),
    pytest.param(put("metadata", "finalizers", to="x"), id="finalizers that are text"),
    pytest.param(put("metadata", "finalizers", to=[{}]), id="a finalizer that is an object"),
    pytest.param(put("metadata", "uid", to=[]), id="a uid in a list"),
    pytest.param(put("spec", "csi", "driver", to="ebs.csi.aws.com"), id="another driver"),
    pytest.param(put("spec", "csi", "driver", to=[]), id="a driver in a list"),
    pytest.param(put("spec", "csi", to=None), id="no source"),
    pytest.param(put("spec", "csi", to="linstor.csi.linbit.com"), id="a source that is text"),
    pytest.param(put("spec", "hostPath", to={"path": "/"}), id="a host path beside it"),
    pytest.param(put("spec", "local", to={"path": "/etc"}), id="a local path beside it"),
    pytest.param(put("spec", "nfs", to={"server": "x", "path": "/"}), id="NFS beside it"),
    pytest.param(put("spec", "flexVolume", to={}), id="a flex volume beside it"),
    pytest.param(put("spec", "hostPath", to=None), id="a host path that is null"),
    pytest.param(
        put("spec", "persistentVolumeReclaimPolicy", to="Destroy"), id="an unknown policy"
    ),
    pytest.param(put("spec", "persistentVolumeReclaimPolicy", to=None), id="a policy that is null"),
    pytest.param(put("spec", "persistentVolumeReclaimPolicy", to=[]), id="a policy in a list"),
    pytest.param(put("spec", "persistentVolumeReclaimPolicy", to={}), id="a policy as an object"),
    pytest.param(put("spec", "claimRef", to="default/data"), id="a claimRef that is text"),
    pytest.param(put("spec", "claimRef", to=["x"]), id="a claimRef in a list"),
    pytest.param(put("spec", "claimRef", "name", to=7), id="a claim's name that is a number"),
    pytest.param(put("spec", "claimRef", "namespace", to=None), id="a namespace that is null"),
    pytest.param(put("spec", "claimRef", "uid", to={}), id="a claim's uid that is an object"),
    pytest.param(put("spec", "nodeAffinity", to="x"), id="an affinity that is text"),
    pytest.param(put("spec", "capacity", to=[]), id="a capacity in a list"),
    pytest.param(put("spec", "aFieldFromTheFuture", to=NESTED), id="nested without end"),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_entry_is_rejected(change: Change) -> None:
    tree = fresh(begun(volume()).written())
    change(tree)

    with pytest.raises(BadEntry):
        read_entry(tree)


@pytest.mark.parametrize("change", HOSTILE_MANIFESTS)
def test_an_entry_with_a_hostile_manifest_is_rejected(change: Change) -> None:
    tree = fresh(begun(volume()).written())
    change(tree["wanted"])

    with pytest.raises(BadEntry):
        read_entry(tree)


MARKERS = [
    pytest.param(put("metadata", "finalizers", to=[FINALIZER]), id="the finalizer"),
    pytest.param(put("metadata", "annotations", to={MARKER_ANNOTATION: "x"}), id="the annotation"),
]


@pytest.mark.parametrize("change", MARKERS)
def test_an_entry_with_a_replacement_marker_is_refused(change: Change) -> None:
    """No volume may be made with one: whoever removes the markers would believe what they say."""
    tree = fresh(begun(volume()).written())
    change(tree["wanted"])

    with pytest.raises(BadEntry, match="has replacement markers"):
        read_entry(tree)


@pytest.mark.parametrize("field", sorted(SERVER_SET))
def test_an_entry_with_server_set_fields_is_rejected(field: str) -> None:
    tree = fresh(begun(volume()).written())
    tree["wanted"]["metadata"][field] = "x"

    with pytest.raises(BadEntry, match="only the API server sets"):
        read_entry(tree)


def test_an_entry_with_a_status_is_rejected() -> None:
    tree = fresh(begun(volume()).written())
    tree["wanted"]["status"] = {"phase": "Bound"}

    with pytest.raises(BadEntry, match="only the API server sets"):
        read_entry(tree)


def test_an_entry_with_more_terms_than_are_ever_set_is_rejected() -> None:
    tree = fresh(begun(volume()).written())
    term = {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
    terms = {"nodeSelectorTerms": [term] * (MOST_TERMS + 1)}
    tree["wanted"]["spec"]["nodeAffinity"] = {"required": terms}

    with pytest.raises(BadEntry, match=f"more than {MOST_TERMS} terms"):
        read_entry(tree)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("metadata", "labels", {f"a{number}": "" for number in range(MOST_VALUES)}),
        ("metadata", "ownerReferences", [{}] * MOST_VALUES),
        ("spec", "mountOptions", ["ro"] * MOST_VALUES),
        ("spec", "unknown", [[0] * (MOST_VALUES // 2)] * 2),
    ],
)
def test_an_entry_with_more_values_than_any_volume_has_is_rejected(
    part: str, field: str, value: object
) -> None:
    """All of them are examined at each step of a replacement."""
    tree = fresh(begun(volume()).written())
    tree["wanted"][part][field] = value

    with pytest.raises(BadEntry, match=f"more than {MOST_VALUES} values"):
        read_entry(tree)


@pytest.mark.parametrize(
    ("part", "field", "value", "why"),
    [
        ("metadata", "finalizers", ["a/b"] * (MOST_ITEMS + 1), "more than"),
        ("metadata", "ownerReferences", [{}] * (MOST_ITEMS + 1), "more than"),
        ("spec", "mountOptions", ["ro"] * (MOST_ITEMS + 1), "more than"),
        ("metadata", "ownerReferences", [1], "owner references"),
        ("spec", "mountOptions", [1], "mount options"),
        ("spec", "mountOptions", "ro", "mount options"),
    ],
)
def test_an_entry_with_lists_that_no_volume_has_is_rejected(
    part: str, field: str, value: object, why: str
) -> None:
    tree = fresh(begun(volume()).written())
    tree["wanted"][part][field] = value

    with pytest.raises(BadEntry, match=why):
        read_entry(tree)


@pytest.mark.parametrize("namespace", ["..", "", "a/b", "n" * 254])
def test_an_entry_for_a_name_that_no_claim_has_is_rejected(namespace: str) -> None:
    tree = fresh(begun(volume()).written())
    tree["wanted"]["spec"]["claimRef"]["namespace"] = namespace
    tree["claim"]["namespace"] = namespace

    with pytest.raises(BadEntry, match="name is not valid"):
        read_entry(tree)


def test_the_error_of_a_rejected_entry_is_short() -> None:
    tree = fresh(begun(volume()).written())
    tree["pv"] = "x" * 100_000

    with pytest.raises(BadEntry) as refused:
        read_entry(tree)

    assert len(str(refused.value)) < 300


SOME_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = [
    ("format",),
    ("pv",),
    ("volume",),
    ("uid",),
    ("claim",),
    ("state",),
    ("holder",),
    ("wanted",),
    ("wanted", "apiVersion"),
    ("wanted", "kind"),
    ("wanted", "metadata"),
    ("wanted", "metadata", "name"),
    ("wanted", "metadata", "labels"),
    ("wanted", "metadata", "annotations"),
    ("wanted", "metadata", "finalizers"),
    ("wanted", "spec"),
    ("wanted", "spec", "csi"),
    ("wanted", "spec", "csi", "driver"),
    ("wanted", "spec", "csi", "volumeHandle"),
    ("wanted", "spec", "claimRef"),
    ("wanted", "spec", "claimRef", "uid"),
    ("wanted", "spec", "persistentVolumeReclaimPolicy"),
    ("wanted", "spec", "nodeAffinity"),
    ("wanted", "spec", "capacity"),
]


@given(field=st.sampled_from(FIELDS), value=SOME_JSON)
def test_any_value_in_any_field_makes_an_entry_or_is_rejected(
    field: tuple[str, ...], value: object
) -> None:
    tree = fresh(begun(volume()).written())
    put(*field, to=value)(tree)

    try:
        entry = read_entry(tree)
    except BadEntry:
        return

    assert (entry.pv, entry.key) == (PV, KEY)
    assert entry.wanted["spec"]["csi"]["driver"] == "linstor.csi.linbit.com"


def saved(**changes: Any) -> Json:
    """As the reference controller keeps it: the volume as it was read, already marked by it."""
    pv = in_phase(volume(**changes), "Bound")
    pv["metadata"]["annotations"] = {
        **pv["metadata"]["annotations"],
        SKIP_RECLAIM_ANNOTATION: "true",
    }
    return fresh(pv)


def test_a_saved_pv_has_its_own_affinity() -> None:
    """The reference writes it down as it is to be."""
    assert read_saved(saved(), KEY)["spec"]["nodeAffinity"] == on_node("node-a").manifest()


def test_the_skip_reclaim_of_a_saved_pv_is_dropped() -> None:
    assert SKIP_RECLAIM_ANNOTATION not in annotations_of(read_saved(saved(), KEY))


@pytest.mark.parametrize("change", MARKERS)
def test_replacement_markers_of_a_saved_pv_are_dropped(change: Change) -> None:
    tree = saved()
    change(tree)

    assert not has_any_marker(read_saved(tree, KEY))


def test_the_kind_of_a_saved_pv_is_optional() -> None:
    tree = saved()
    del tree["kind"], tree["apiVersion"]

    wanted = read_saved(tree, KEY)

    assert (wanted["kind"], wanted["apiVersion"]) == ("PersistentVolume", "v1")


@pytest.mark.parametrize("uid", ["pv-uid-1", ""])
def test_a_saved_pv_round_trips_as_an_entry(uid: str) -> None:
    wanted = read_saved(terminating(marked(saved())), KEY)
    entry = JournalEntry(
        pv=name_of(wanted),
        key=KEY,
        uid=Uid(uid),
        claim=claim_of(wanted),
        state=State.DELETING,
        wanted=wanted,
    )

    assert read_entry(fresh(entry.written())) == entry


def test_an_entry_without_uid_is_only_valid_for_a_deleted_volume() -> None:
    tree = {**fresh(begun(volume()).written()), "uid": ""}

    with pytest.raises(BadEntry, match="has no uid"):
        read_entry(tree)


def test_the_recorded_saved_pv_of_the_reference_is_parsed() -> None:
    """Recorded from its program, version 1.5."""
    tree = json.loads((DATA / "saved-pv-reference-1.5.json").read_text())

    wanted = read_saved(tree, VolumeKey(ResourceName("p1-after-delete")))

    assert wanted == {**tree, "metadata": tree["metadata"]}
    assert "uid" not in wanted["metadata"]


@pytest.mark.parametrize("handle", ["pvc-1", "PVC-1", "pvc-1/0", "pvc-1/00"])
def test_a_saved_pv_can_have_any_spelling_of_its_handle(handle: str) -> None:
    csi = {"driver": "linstor.csi.linbit.com", "volumeHandle": handle}

    assert read_saved(saved(csi=csi), KEY)["spec"]["csi"] == csi


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(VolumeKey(ResourceName("pvc-2")), id="another definition"),
        pytest.param(VolumeKey(ResourceName("pvc-1"), 1), id="another volume of the definition"),
    ],
)
def test_a_saved_pv_is_only_valid_for_its_own_volume(key: VolumeKey) -> None:
    with pytest.raises(BadEntry, match="it was found at"):
        read_saved(saved(), key)


@pytest.mark.parametrize("ref", [None, {"namespace": "default", "name": "data"}])
def test_a_saved_pv_without_claim_uid_is_rejected(ref: Json | None) -> None:
    with pytest.raises(BadEntry, match="has no claim uid"):
        read_saved(saved(claimRef=ref), KEY)


@pytest.mark.parametrize("tree", JUNK)
def test_an_invalid_saved_pv_is_rejected(tree: object) -> None:
    with pytest.raises(BadEntry):
        read_saved(tree, KEY)


@pytest.mark.parametrize("change", HOSTILE_MANIFESTS)
def test_a_hostile_saved_pv_is_rejected(change: Change) -> None:
    tree = saved()
    change(tree)

    with pytest.raises(BadEntry):
        read_saved(tree, KEY)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("spec", "nodeAffinity", to={"required": "x"}), id="text for terms"),
        pytest.param(
            put("spec", "nodeAffinity", to={"required": {"nodeSelectorTerms": ["x"]}}),
            id="a term that is text",
        ),
        pytest.param(
            put("spec", "nodeAffinity", to={"required": {"nodeSelectorTerms": 7}}),
            id="terms that are a number",
        ),
        pytest.param(
            put(
                "spec",
                "nodeAffinity",
                to={"required": {"nodeSelectorTerms": [{"matchExpressions": ["x"]}]}},
            ),
            id="an expression that is text",
        ),
        pytest.param(
            put(
                "spec",
                "nodeAffinity",
                to={"required": {"nodeSelectorTerms": [{"matchExpressions": [{"values": 7}]}]}},
            ),
            id="values that are a number",
        ),
        pytest.param(
            put("spec", "csi", "volumeAttributes", to=[USES_CONTEXT]), id="attributes in a list"
        ),
        pytest.param(
            put("spec", "csi", "volumeAttributes", to={USES_CONTEXT: "", CONTEXT_POLICY: ["x"]}),
            id="a policy in a list",
        ),
        pytest.param(put("spec", "storageClassName", to=["x"]), id="a class in a list"),
        pytest.param(put("spec", "storageClassName", to={"x": 1}), id="a class as an object"),
    ],
)
def test_an_accepted_saved_pv_can_be_decided_on(change: Change) -> None:
    tree = saved()
    change(tree)

    try:
        wanted = read_saved(tree, KEY)
    except BadEntry:
        return

    volume = describe(wanted)
    assert volume is not None
    assert isinstance(volume.storage_class, str)


def test_a_changed_entry_keeps_all_other_fields() -> None:
    entry = begun(volume())

    assert entry.deleting() == JournalEntry(
        pv=entry.pv,
        key=entry.key,
        uid=entry.uid,
        claim=entry.claim,
        state=State.DELETING,
        wanted=entry.wanted,
        holder=entry.holder,
    )


@pytest.mark.parametrize(
    ("annotations", "fits"),
    [
        ({}, True),
        ({"a": "x" * (MOST_ANNOTATIONS - 1)}, True),
        ({"a": "x" * MOST_ANNOTATIONS}, False),
        ({"a": "\N{EURO SIGN}" * (MOST_ANNOTATIONS // 3)}, False),
        ({"a": "\x01" * 150_000}, True),
        # In JSON, each of these takes six bytes.
        ({"a": "\x01" * 170_000}, False),
        (dict.fromkeys(map(str, range(MOST_NUMBER)), ""), True),
        (dict.fromkeys(map(str, range(MOST_NUMBER + 1)), ""), False),
    ],
    ids=[
        *("none", "most", "too long", "not ASCII", "escaped", "too long if escaped"),
        *("many", "too many"),
    ],
)
def test_annotations_that_leave_no_space_for_more_are_recognized(
    annotations: dict[str, str], *, fits: bool
) -> None:
    assert Space.left_by(with_metadata(volume(), annotations=annotations)).suffices is fits


def test_a_volume_that_leaves_no_space_in_its_entry_is_recognized() -> None:
    assert not Space.left_by(with_metadata(volume(), labels={"a": "x" * MOST_BYTES})).suffices


@given(st.text(alphabet=st.characters(codec="utf-8")), st.text())
def test_an_annotation_takes_no_more_space_than_is_counted(key: str, value: str) -> None:
    without = Space.left_by(with_metadata(volume(), annotations={}))
    counted = without - Space.of(key, value)

    taken = Space.left_by(with_metadata(volume(), annotations={key: value}))
    assert (taken.annotations, taken.number) == (counted.annotations, counted.number)
    assert taken.json >= counted.json
