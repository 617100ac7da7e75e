"""An absent volume, for whose data other claims have a volume: who gets it on an entry's word."""

from dataclasses import replace
from typing import Any

import pytest

from linstor_affinity_events.model.affinity import NO_AFFINITY
from linstor_affinity_events.model.demands import original_of
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.keys import (
    FINALIZER,
    MARKER_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
    VolumeKey,
)
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.observation import Observation, RunFacts
from linstor_affinity_events.model.ownership import (
    has_class_of,
    is_entitled,
    left_by_the_reference,
    was_its_own,
)
from linstor_affinity_events.model.replacement import next_step
from linstor_affinity_events.model.steps import Create, LeaveAlone, ReadClaim
from tests.model.manifests import (
    begun,
    claim,
    marked,
    terminating,
    volume,
    with_metadata,
    with_spec,
)

ENTRY = begun(volume()).deleting()
OTHERS = (PvName("pvc-8"), PvName("pvc-9"))
ORIGINAL = original_of(volume())


def test_an_unconfirmed_volume_is_refused_and_the_others_are_named() -> None:
    step = next_step(ENTRY, Observation(pv=None, others=OTHERS), RunFacts())

    assert isinstance(step, LeaveAlone)
    assert "PersistentVolume pvc-8, pvc-9 refers to the same LINSTOR volume" in step.why


def test_a_volume_observed_with_this_claim_is_resumed() -> None:
    assert was_its_own(ENTRY, ORIGINAL)

    step = next_step(ENTRY, Observation(pv=None, others=OTHERS, original=ORIGINAL), RunFacts())

    assert step == ReadClaim()


def test_a_claim_that_does_not_name_the_volume_gets_nothing_beside_others() -> None:
    elsewhere = claim(volumeName="another")
    observation = Observation(
        pv=None, others=OTHERS, original=ORIGINAL, claim=elsewhere, claim_known=True
    )

    assert isinstance(next_step(ENTRY, observation, RunFacts()), LeaveAlone)
    assert isinstance(next_step(ENTRY, replace(observation, others=()), RunFacts()), Create)


def test_the_claim_observed_with_the_volume_gets_it_back() -> None:
    observation = Observation(
        pv=None, others=OTHERS, original=ORIGINAL, claim=claim(), claim_known=True
    )

    assert next_step(ENTRY, observation, RunFacts()) == Create(ENTRY.wanted)


def test_our_markers_are_not_those_of_the_reference() -> None:
    assert not left_by_the_reference(volume())
    assert not left_by_the_reference(marked(volume()))


def test_an_entry_without_claim_confirms_nothing() -> None:
    nobodys = begun(volume(claimRef=None))

    assert not was_its_own(nobodys, None)


def safe(**metadata: Any) -> dict[str, Any]:
    """A volume with what both this service and the reference set before they delete one."""
    annotations = {SKIP_RECLAIM_ANNOTATION: "true"}
    return volume(
        metadata={"annotations": annotations, **metadata}, persistentVolumeReclaimPolicy="Retain"
    )


def test_markers_of_the_reference_are_recognised_by_what_is_missing() -> None:
    ours = {MARKER_ANNOTATION: "{}", SKIP_RECLAIM_ANNOTATION: "true"}

    assert left_by_the_reference(safe())
    assert left_by_the_reference(terminating(safe()))
    assert not left_by_the_reference(safe(finalizers=[FINALIZER]))
    assert not left_by_the_reference(safe(annotations=ours))
    assert not left_by_the_reference(terminating(safe(finalizers=[FINALIZER])))
    # Made ours while it was going: only our finalizer says that we deleted it.
    assert left_by_the_reference(terminating(safe(annotations=ours)))


def test_a_resource_named_after_the_claim_needs_no_confirmation() -> None:
    uid = "0f5c6d8e-1a2b-4c3d-8e9f-001122334455"
    named = VolumeKey(ResourceName(f"pvc-{uid}"))
    of_this, of_another = (
        begun(volume(claimRef={**volume()["spec"]["claimRef"], "uid": each}))
        for each in (uid, "another")
    )

    assert was_its_own(replace(of_this, key=named), None)
    assert not was_its_own(replace(of_another, key=named), None)
    assert not was_its_own(of_this, None)


ONE, OTHER = (f"{digit * 8}-2222-4333-8444-555555555555" for digit in "16")


@pytest.mark.parametrize(
    ("name", "resource", "entitled"),
    [
        pytest.param(f"pvc-{ONE}", f"pvc-{ONE}", True, id="provisioned for the claim"),
        pytest.param("any", "any", True, id="named by a person"),
        pytest.param("any", f"pvc-{ONE}", True, id="its resource, under another name"),
        pytest.param(f"pvc-{OTHER}", f"pvc-{ONE}", False, id="the name for another claim"),
        pytest.param(f"pvc-{ONE}", f"pvc-{OTHER}", False, id="the resource of another"),
        pytest.param(f"pvc-{ONE}", "any", False, id="another resource under its name"),
    ],
)
def test_an_unobserved_volume_goes_to_the_claim_that_its_names_are_for(
    name: str, resource: str, entitled: bool
) -> None:
    pv = with_metadata(volume(), name=name)
    pv["spec"]["claimRef"]["uid"] = ONE
    pv["spec"]["csi"]["volumeHandle"] = resource
    entry = JournalEntry.begin(pv, VolumeKey(ResourceName(resource)), NO_AFFINITY, holder="")
    its = claim(metadata={"uid": ONE}, volumeName=name)

    assert is_entitled(entry, its, original=None, storage_class=None) == entitled


BETA = "volume.beta.kubernetes.io/storage-class"


@pytest.mark.parametrize(
    ("annotation", "spec", "same"),
    [
        pytest.param(None, "linstor", True, id="by its spec"),
        pytest.param("linstor", None, True, id="by its annotation"),
        pytest.param("linstor", "linstor", True, id="by both"),
        pytest.param("plain", "linstor", False, id="another by its annotation"),
        pytest.param("linstor", "plain", False, id="another by its spec"),
        pytest.param("", "linstor", False, id="none by its annotation"),
        pytest.param(None, None, False, id="none"),
    ],
)
def test_a_claim_has_the_class_that_its_annotation_does_not_contradict(
    annotation: str | None, spec: str | None, same: bool
) -> None:
    annotations = {} if annotation is None else {BETA: annotation}
    wish = with_spec(claim(metadata={"annotations": annotations}), storageClassName=spec)

    assert has_class_of(volume(), wish) == same
    assert has_class_of(volume(metadata={"annotations": {BETA: "plain"}}), wish) is False
