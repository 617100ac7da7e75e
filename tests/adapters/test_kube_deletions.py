"""How a volume was deleted is seen in the first event that shows it, and in nothing else."""

from typing import Any

from linstor_affinity_events.adapters.kubernetes.index import MOST_DELETED
from linstor_affinity_events.model.keys import SKIP_RECLAIM_ANNOTATION
from linstor_affinity_events.model.manifest import uid_of
from linstor_affinity_events.model.names import PvName, Uid
from tests.adapters.test_kube_index import index_of
from tests.model.manifests import PV, volume, with_metadata, with_spec

Json = dict[str, Any]


def deleted(pv: Json, **metadata: Any) -> Json:
    return with_metadata(pv, deletionTimestamp="2026-11-27T10:00:00Z", **metadata)


SAFE = with_spec(
    with_metadata(volume(), annotations={SKIP_RECLAIM_ANNOTATION: "true"}),
    persistentVolumeReclaimPolicy="Retain",
)


def test_a_deletion_that_was_seen_without_markers_is_by_others() -> None:
    pv, uid = volume(), uid_of(volume())
    index = index_of(pv)

    index.changed(deleted(pv))
    index.changed(deleted(SAFE))

    assert index.deleted_by_others(PV, uid)
    assert not index.deleted_by_others(PV, Uid("another"))
    index.gone(deleted(SAFE))
    assert index.deleted_by_others(PV, uid)


def test_a_volume_that_goes_at_once_is_deleted_by_others_too() -> None:
    index = index_of(volume())

    index.gone(volume())

    assert index.deleted_by_others(PV, uid_of(volume()))


def test_a_volume_that_was_marked_when_it_was_deleted_may_be_ours() -> None:
    """Whatever others take off it afterwards."""
    index = index_of(SAFE)

    index.changed(deleted(SAFE))
    index.changed(deleted(volume()))
    index.gone(deleted(volume()))

    assert not index.deleted_by_others(PV, uid_of(volume()))


def test_a_list_does_not_show_how_a_volume_was_deleted() -> None:
    index = index_of(volume())

    for _ in range(2):
        index.begin_list()
        index.listed(deleted(volume()))
        index.end_list()

    assert not index.deleted_by_others(PV, uid_of(volume()))


def test_so_many_deletions_are_remembered() -> None:
    index = index_of()
    for number in range(MOST_DELETED + 1):
        pv = with_metadata(volume(), name=f"pvc-{number}", uid=f"uid-{number}")
        index.changed(pv)
        index.gone(pv)

    known = [
        index.deleted_by_others(PvName(f"pvc-{number}"), Uid(f"uid-{number}"))
        for number in range(MOST_DELETED + 1)
    ]
    assert known == [False, *([True] * MOST_DELETED)]


def test_of_a_volume_that_is_gone_the_last_one_counts() -> None:
    """Whatever uid somebody writes; not after another one was there, or after a new list."""
    index = index_of(volume())
    index.gone(volume())
    assert index.deleted_by_others(PV, None)

    index.changed(with_metadata(volume(), uid="another"))
    assert not index.deleted_by_others(PV, None)

    index.gone(with_metadata(volume(), uid="another"))
    index.begin_list()
    index.end_list()
    assert not index.deleted_by_others(PV, None)


def test_what_was_seen_of_an_earlier_incarnation_says_nothing_of_a_later_one() -> None:
    """A list shows the later one, whose deletion this service requests."""
    index = index_of(volume())
    index.changed(deleted(volume()))
    later = with_metadata(SAFE, uid="later")
    index.begin_list()
    index.listed(later)
    index.end_list()

    index.changed(deleted(later))
    index.gone(deleted(later))

    assert not index.deleted_by_others(PV, None)
    assert not index.deleted_by_others(PV, Uid("later"))
