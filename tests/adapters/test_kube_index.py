"""The index finds what there is, and keeps of it no more than it must."""

import json
import weakref
from typing import Any

import pytest

from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.model.keys import OURSELVES
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.volume import Volume
from tests.contracts.manifests import volume

Json = dict[str, Any]

RD = ResourceName("rd-1")


def volume_json(name: str, handle: str = "rd-1", **rest: Any) -> Json:
    """As it comes: each string in JSON is an object of its own."""
    csi = {"driver": "linstor.csi.linbit.com", "volumeHandle": handle}
    made = volume(name, csi=csi, **rest)
    made["status"] = {"phase": "Bound"}
    return dict(json.loads(json.dumps(made)))


def index_of(*manifests: Json) -> VolumeIndex:
    index = VolumeIndex(lambda _: None)
    for manifest in manifests:
        index.changed(manifest)
    return index


def known(index: VolumeIndex, name: str) -> Volume:
    found = index.get(PvName(name))
    assert found is not None
    return found


def names(index: VolumeIndex) -> list[str]:
    return [each.name for each in index.of(RD)]


def test_volumes_of_a_resource_keep_their_order_when_one_changes() -> None:
    index = index_of(volume_json("pv-1", "rd-1/0"), volume_json("pv-2", "rd-1/1"))

    index.changed(volume_json("pv-1", "rd-1/0", metadata={"uid": "another"}))

    assert names(index) == ["pv-1", "pv-2"]
    assert next(iter(index.of(RD))) is known(index, "pv-1")


def test_a_resource_stays_known_until_its_last_volume_has_gone() -> None:
    index = index_of(volume_json("pv-1", "rd-1/0"), volume_json("pv-2", "rd-1/1"))

    index.gone(volume_json("pv-1", "rd-1/0"))
    left = names(index), set(index.resources())
    index.gone(volume_json("pv-2", "rd-1/1"))

    assert left == (["pv-2"], {RD})
    assert not names(index)
    assert not index.resources()


def test_equal_name_handle_and_resource_share_one_string() -> None:
    found = known(index_of(volume_json("pvc-1", "pvc-1")), "pvc-1")

    assert found.key is not None
    assert found.handle is found.name
    assert id(found.key.resource) == id(found.name)


def test_a_handle_with_another_spelling_is_preserved() -> None:
    found = known(index_of(volume_json("pvc-1", "PVC-1")), "pvc-1")

    assert found.key is not None
    assert (found.handle, found.key.resource) == ("PVC-1", "pvc-1")


def test_values_common_to_volumes_are_stored_once() -> None:
    claim = {"namespace": "team-1", "name": "claim"}
    index = index_of(
        *(
            volume_json(name, name, storageClassName="quick-local", claimRef=claim)
            for name in ("pv-1", "pv-2")
        )
    )

    one, other = known(index, "pv-1"), known(index, "pv-2")

    assert one.phase is other.phase
    assert one.storage_class is other.storage_class
    assert one.affinity is other.affinity
    assert one.claim is not None
    assert other.claim is not None
    assert one.claim.namespace is other.claim.namespace


def test_an_affinity_is_kept_while_a_volume_has_it() -> None:
    def on(zone: str) -> Json:
        expressions = [{"key": "zone", "operator": "In", "values": [zone]}]
        return {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}

    index = index_of(volume_json("pvc-1", "rd-1", nodeAffinity=on("a")))
    index.changed(volume_json("pvc-2", "rd-2", nodeAffinity=on("a")))
    before = weakref.ref(known(index, "pvc-1").affinity)
    shared = known(index, "pvc-2").affinity is before()

    index.changed(volume_json("pvc-1", "rd-1", nodeAffinity=on("b")))
    kept = before() is not None
    index.changed(volume_json("pvc-2", "rd-2", nodeAffinity=on("b")))

    assert (shared, kept) == (True, True)
    assert before() is None


def test_affinities_of_another_form_differ_if_their_labels_do() -> None:
    def requiring(*labels: str) -> Json:
        terms = [{"matchExpressions": [{"key": key, "operator": "NotIn"}]} for key in labels]
        return {"required": {"nodeSelectorTerms": terms}}

    index = index_of(
        volume_json("pvc-1", "rd-1", nodeAffinity=requiring("zone", "rack")),
        volume_json("pvc-2", "rd-2", nodeAffinity=requiring("zone", "row")),
        volume_json("pvc-3", "rd-3", nodeAffinity=requiring("zone")),
    )
    index.changed(volume_json("pvc-3", "rd-3", nodeAffinity=requiring("zone", "hall")))

    assert known(index, "pvc-1").affinity.labels == {"zone", "rack"}
    assert known(index, "pvc-2").affinity.labels == {"zone", "row"}
    assert known(index, "pvc-3").affinity.labels == {"zone", "hall"}


def test_an_identical_list_keeps_the_stored_volumes() -> None:
    index = index_of(volume_json("pv-1"))
    before = known(index, "pv-1")

    index.begin_list()
    index.listed(volume_json("pv-1"))
    index.end_list()

    assert known(index, "pv-1") is before
    assert names(index) == ["pv-1"]


@pytest.mark.parametrize(
    ("uid", "manager", "sign"),
    [
        pytest.param("1", "kube-controller-manager", True, id="by the binder"),
        pytest.param("1", OURSELVES, False, id="by this service"),
        pytest.param("2", "kube-controller-manager", False, id="of another incarnation"),
    ],
)
async def test_only_a_phase_written_by_the_binder_is_a_sign_of_it(
    uid: str, manager: str, sign: bool
) -> None:
    def with_phase(uid: str, phase: str) -> Json:
        written = {"manager": manager, "fieldsV1": {"f:status": {"f:phase": {}}}}
        manifest = volume_json("pv", metadata={"uid": uid, "managedFields": [written]})
        return {**manifest, "status": {"phase": phase}}

    index = VolumeIndex(lambda _: None)
    index.changed(with_phase("1", "Pending"))
    index.changed(with_phase(uid, "Bound"))

    assert (index.phase_changed_at > float("-inf")) is sign


def storage_class_json(*options: str) -> Json:
    driver = "linstor.csi.linbit.com"
    return {"metadata": {"name": "a"}, "provisioner": driver, "mountOptions": [*options]}


@pytest.mark.parametrize("options", [None, ["ro"]])
def test_what_happens_to_a_class_while_all_are_listed_counts(options: list[str] | None) -> None:
    """A class confirms what a volume demands for as long as it is there, and as it is."""
    classes = index_of().classes
    classes.begin_list()
    classes.listed(storage_class_json("suid"))
    if options is None:
        classes.gone(storage_class_json("suid"))
    else:
        classes.changed(storage_class_json(*options))
    classes.end_list()

    found = classes.found.get("a")
    assert (None if found is None else list(found.mount_options)) == options
