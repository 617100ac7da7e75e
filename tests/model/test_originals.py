"""What was seen of a volume before it went confirms what its entry asks for, or its class does."""

from typing import Any

import pytest

from linstor_affinity_events.engine.originals import Originals
from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.demands import demands_of, original_of
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.manifest import skip_reclaim_of, uid_of
from linstor_affinity_events.model.names import PvName, ResourceName, Uid
from linstor_affinity_events.model.ownership import is_entitled
from linstor_affinity_events.model.policy import EVERYWHERE, StorageClass
from linstor_affinity_events.model.recreation import protected_as
from tests.model.manifests import (
    CLAIM_UID,
    begun,
    claim,
    managed,
    marked,
    terminating,
    volume,
    with_metadata,
    with_spec,
)

Json = dict[str, Any]

OPTIONS = ["discard"]


def class_with(*options: str) -> StorageClass:
    return StorageClass.read("linstor", {}, lambda _: EVERYWHERE, mount_options=options)


def test_the_original_has_all_relevant_fields() -> None:
    pv = volume(mountOptions=OPTIONS)

    original = original_of(pv)

    assert original.uid == uid_of(pv)
    assert original.claim == CLAIM_UID
    assert original.demands == demands_of(pv)
    assert original.demands != demands_of(volume())
    assert original.key == VolumeKey(ResourceName("pvc-1"))


def test_a_volume_without_claim_or_of_another_driver_has_neither_claim_nor_key() -> None:
    other = {"driver": "ebs.csi.aws.com", "volumeHandle": "pvc-1"}

    original = original_of(volume(claimRef=None, csi=other))

    assert (original.claim, original.key) == (Uid(""), None)


def test_markers_set_before_the_deletion_are_part_of_the_original() -> None:
    assert original_of(terminating(marked(volume()))).held is True
    assert original_of(volume()).held is False


def test_what_kept_the_data_is_part_of_the_original() -> None:
    protected = {"linstor.csi.linbit.com/skip-reclaim": "true"}
    pv = volume(persistentVolumeReclaimPolicy="Retain", metadata={"annotations": protected})

    assert original_of(pv).before == original_of(marked(pv)).before == ("Retain", "true")
    assert original_of(volume()).before == original_of(marked(volume())).before == ("Delete", None)
    assert original_of(managed(with_metadata(marked(volume()), finalizers=[]))).before is not None
    unsafe = with_spec(marked(volume()), persistentVolumeReclaimPolicy="Delete")
    assert original_of(unsafe).before is None


def test_what_kept_the_data_is_known_although_others_remove_markers() -> None:
    originals, pv = Originals(), volume(persistentVolumeReclaimPolicy="Retain")
    originals.observed(marked(pv))
    originals.observed(with_spec(marked(pv), persistentVolumeReclaimPolicy="Delete"))

    found = originals.of(begun(pv))
    assert found is not None
    assert found.before == ("Retain", None)


@pytest.mark.parametrize("before", [("Delete", None), ("Retain", "true"), ("Delete", "false")])
@pytest.mark.parametrize("skip", [None, "true", "false"])
def test_of_entry_and_original_the_one_that_keeps_the_data_counts(
    before: tuple[str, str | None], skip: str | None
) -> None:
    annotations = {} if skip is None else {"linstor.csi.linbit.com/skip-reclaim": skip}
    wanted = protected_as(volume(metadata={"annotations": annotations}), before)

    assert wanted["spec"]["persistentVolumeReclaimPolicy"] == before[0]
    kept = skip_reclaim_of(wanted)
    assert kept == ("true" if "true" in {skip, before[1]} else skip or before[1])


def entitled(entry_of: Json, **observed: Any) -> bool:
    given = {"original": None, "storage_class": None, **observed}
    return is_entitled(begun(entry_of), claim(), **given)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"original": volume(mountOptions=OPTIONS)}, True, id="seen with them"),
        pytest.param({"original": volume()}, False, id="seen without them"),
        pytest.param({"storage_class": class_with(*OPTIONS)}, True, id="its class gives them"),
        pytest.param({"storage_class": class_with()}, False, id="its class does not"),
    ],
)
def test_mount_options_require_confirmation(observed: Json, expected: bool) -> None:
    if "original" in observed:
        observed = {**observed, "original": original_of(observed["original"])}

    assert entitled(volume(mountOptions=OPTIONS), **observed) is expected


def test_a_volume_observed_with_another_claim_is_not_given_to_this_one() -> None:
    of_another = volume(claimRef={**volume()["spec"]["claimRef"], "uid": "another"})

    assert entitled(volume(), original=original_of(volume()))
    assert not entitled(volume(), original=original_of(of_another))


def test_a_class_confirms_nothing_for_a_claim_of_another_class() -> None:
    tuned = begun(volume(mountOptions=OPTIONS, storageClassName="tuned"))
    options = class_with(*OPTIONS)

    assert is_entitled(tuned, claim(storageClassName="tuned"), original=None, storage_class=options)
    assert not is_entitled(
        tuned, claim(storageClassName="linstor"), original=None, storage_class=options
    )


def test_a_volume_that_was_seen_with_its_options_may_have_another_class_than_its_claim() -> None:
    """An administrator can bind them to each other."""
    tuned = volume(mountOptions=OPTIONS, storageClassName="tuned")

    assert entitled(tuned, original=original_of(tuned))


NAMED = PvName("pvc-11111111-2222-4333-8444-555555555555")
ITS_CLAIM = Uid("11111111-2222-4333-8444-555555555555")


@pytest.mark.parametrize(
    ("name", "handle", "uid", "expected"),
    [
        pytest.param(NAMED, NAMED, ITS_CLAIM, True, id="provisioned for it"),
        pytest.param(NAMED, NAMED, CLAIM_UID, False, id="provisioned for another claim"),
        pytest.param("any", NAMED, ITS_CLAIM, True, id="its resource, renamed volume"),
        pytest.param("any", NAMED, CLAIM_UID, False, id="a resource of another claim"),
        pytest.param(NAMED, "any", ITS_CLAIM, False, id="its volume, for another resource"),
        pytest.param(NAMED, "any", CLAIM_UID, False, id="a volume of another claim"),
        pytest.param("any", "any", CLAIM_UID, True, id="no names of csi-provisioner"),
    ],
)
def test_names_of_csi_provisioner_say_whose_a_volume_is(
    name: str, handle: ResourceName, uid: Uid, *, expected: bool
) -> None:
    ref = {**volume()["spec"]["claimRef"], "uid": uid}
    csi = {**volume()["spec"]["csi"], "volumeHandle": handle}
    pv = volume(metadata={"name": name}, claimRef=ref, csi=csi)
    entry = JournalEntry.begin(pv, VolumeKey(handle), NO_AFFINITY, holder="pod-1")
    its = claim(metadata={"uid": uid}, volumeName=name)

    assert is_entitled(entry, its, original=None, storage_class=None) is expected


@pytest.mark.parametrize("unmarked", [True, False])
def test_a_volume_is_no_longer_held_once_it_was_there_without_markers(*, unmarked: bool) -> None:
    """Then whoever deletes it later is another client. Of a terminating volume, others may have
    taken them off.
    """
    originals = Originals()
    originals.observed(marked(volume()))
    if unmarked:
        originals.observed(volume())
    originals.observed(terminating(volume()))

    original = originals.of(begun(volume()))

    assert original is not None
    assert original.held is not unmarked
