"""The index finds what there is, and keeps of it no more than it must."""

import json
from typing import Any

from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
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


def test_an_identical_list_keeps_the_stored_volumes() -> None:
    index = index_of(volume_json("pv-1"))
    before = known(index, "pv-1")

    index.begin_list()
    index.listed(volume_json("pv-1"))
    index.end_list()

    assert known(index, "pv-1") is before
    assert names(index) == ["pv-1"]
