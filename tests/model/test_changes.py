"""What others changed on a volume in replacement, as far as there is space for it in its entry."""

from linstor_affinity_events.model.changes import within_space
from linstor_affinity_events.model.journal_entry import MOST_ANNOTATIONS, MOST_BYTES
from tests.model.manifests import volume, with_metadata, with_spec

HAD = with_metadata(volume(), annotations={"had": "x", "removed": "x"})
MOST = "x" * MOST_ANNOTATIONS


def test_changes_for_which_there_is_space_are_taken_as_they_are() -> None:
    changed = with_metadata(HAD, annotations={"had": "y", "added": "y"})

    assert within_space(HAD, changed) is changed


def test_only_the_longest_annotations_are_left_out() -> None:
    fitting = {"had": "y", "exclude": "true", **dict.fromkeys(map(str, range(100)), "x")}
    added = {**fitting, "long": MOST, "longer": MOST + "x"}
    changed = with_spec(with_metadata(HAD, annotations=added, labels={"a": "b"}), capacity="7Gi")

    reduced = within_space(HAD, changed)

    assert reduced == with_metadata(changed, annotations=fitting)
    assert within_space(reduced, changed) == reduced


def test_of_an_annotation_that_becomes_too_long_the_former_value_stays() -> None:
    changed = with_metadata(HAD, annotations={"had": MOST, "removed": "x"}, labels={"a": "b"})

    assert within_space(HAD, changed) == with_metadata(HAD, labels={"a": "b"})


def test_without_any_space_nothing_is_taken() -> None:
    changed = with_metadata(HAD, labels={"a": "x" * MOST_BYTES}, annotations={"added": "y"})

    assert within_space(HAD, changed) is HAD
