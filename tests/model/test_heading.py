"""Annotations of a journal entry: written for the entry, and believed in one form only."""

import pytest

from linstor_affinity_events.model.heading import (
    PV_ANNOTATION,
    VOLUME_ANNOTATION,
    heading_of,
    read_heading,
)
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName
from tests.model.manifests import begun, volume

GOOD = {PV_ANNOTATION: "pvc-1", VOLUME_ANNOTATION: "pvc-1/2"}
SECOND = (PvName("pvc-1"), VolumeKey(ResourceName("pvc-1"), 2))


def test_the_annotations_name_volume_and_linstor_volume() -> None:
    entry = begun(volume())

    assert heading_of(entry) == {PV_ANNOTATION: entry.pv, VOLUME_ANNOTATION: str(entry.key)}
    assert read_heading(heading_of(entry)) == (entry.pv, entry.key)


def test_other_annotations_do_not_matter() -> None:
    assert read_heading({**GOOD, "other": 1}) == SECOND


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param(None, id="none at all"),
        pytest.param("text", id="no mapping"),
        pytest.param({}, id="empty"),
        pytest.param({PV_ANNOTATION: "pvc-1"}, id="no LINSTOR volume"),
        pytest.param({VOLUME_ANNOTATION: "pvc-1/2"}, id="no PersistentVolume"),
        pytest.param({**GOOD, PV_ANNOTATION: "../secrets"}, id="no name of a PersistentVolume"),
        pytest.param({**GOOD, PV_ANNOTATION: 1}, id="a number for a name"),
        pytest.param({**GOOD, VOLUME_ANNOTATION: 1}, id="a number for a volume"),
        pytest.param({**GOOD, VOLUME_ANNOTATION: "a b"}, id="no LINSTOR volume's name"),
        pytest.param({**GOOD, VOLUME_ANNOTATION: "PVC-1/2"}, id="not as it is written"),
    ],
)
def test_invalid_annotations_name_nothing(annotations: object) -> None:
    assert read_heading(annotations) is None
