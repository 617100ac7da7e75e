"""What others write into entries and volumes is kept in few bytes, and counts as no change."""

import json
import tracemalloc
from copy import deepcopy
from dataclasses import replace as changed

import pytest

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.adapters.kubernetes.policy_yaml import parse_policy
from linstor_affinity_events.engine.originals import MOST_GONE, Originals
from linstor_affinity_events.engine.unfinished import Unfinished
from linstor_affinity_events.errors import BadEntry
from linstor_affinity_events.model.demands import (
    LONGEST_DEMAND,
    demands_of,
    original_of,
    unconfirmed,
)
from linstor_affinity_events.model.journal_entry import LONGEST_HOLDER, JournalEntry, read_entry
from linstor_affinity_events.model.keys import (
    ORIGINAL_POLICY_ANNOTATION,
    SKIP_RECLAIM_ANNOTATION,
)
from linstor_affinity_events.model.names import LONGEST_NAME, PvName
from linstor_affinity_events.model.policy import StorageClass
from tests.engine.forged_entries import FORGED, reconciled
from tests.engine.setup import PV, RD, one_setup
from tests.fakes.others import FakeNotices, FakeTelemetry
from tests.model.manifests import KEY, begun, marked, on_node, volume, with_metadata, with_spec


@pytest.mark.parametrize(("field", "most"), [("uid", LONGEST_NAME), ("holder", LONGEST_HOLDER)])
def test_an_entry_with_a_name_that_is_longer_than_any_is_not_valid(field: str, most: int) -> None:
    tree = dict(begun(volume()).written())

    read_entry({**tree, field: "x" * most})
    with pytest.raises(BadEntry, match="longer than any"):
        read_entry({**tree, field: "x" * (most + 1)})


def test_an_entry_with_a_class_whose_name_is_longer_than_any_is_not_valid() -> None:
    def written(length: int) -> JournalEntry:
        named = with_spec(volume(), storageClassName="x" * length)
        return read_entry(begun(named).written())

    written(LONGEST_NAME)
    with pytest.raises(BadEntry, match="longer than any"):
        written(LONGEST_NAME + 1)


async def test_of_a_long_reason_to_leave_an_entry_alone_the_beginning_is_kept() -> None:
    unfinished = Unfinished(FakeNotices(), FakeTelemetry(), describe)
    tracemalloc.start()
    unfinished.leave_alone(PV, "x" * 1_000_000)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert used < 500_000


def test_what_a_volume_demands_is_kept_in_few_bytes() -> None:
    long = "x" * LONGEST_DEMAND
    annotations = {"a.kubernetes.io/b": long, SKIP_RECLAIM_ANNOTATION: long}
    pv = with_spec(with_metadata(volume(), annotations=annotations), mountOptions=[long, "ro"])
    other = with_spec(pv, mountOptions=[long, "rw"])

    kept = original_of(pv)

    assert len(repr(kept)) < 2 * LONGEST_DEMAND
    assert unconfirmed(demands_of(pv), original=kept.demands, storage_class=None) == ()
    assert "mount options" in unconfirmed(
        demands_of(other), original=kept.demands, storage_class=None
    )


@pytest.mark.parametrize(
    "options", [[""] * 1_000, ["\N{GRINNING FACE}" * 2_000]], ids=["empty", "wide"]
)
def test_of_texts_that_take_much_memory_a_hash_is_kept(options: list[str]) -> None:
    """Many short ones, or few of them with wide characters."""
    kept = original_of(with_spec(volume(), mountOptions=options)).demands

    assert kept.mount_options[0].startswith("sha256 ")
    read = StorageClass.read("linstor", {}, parse_policy, mount_options=options * 5)
    assert read.mount_options == ()


def test_options_divided_otherwise_are_not_confirmed() -> None:
    long = "x" * LONGEST_DEMAND
    kept = original_of(with_spec(volume(), mountOptions=[long, "a", "b"])).demands
    other = demands_of(with_spec(volume(), mountOptions=[long, "a\0b"]))

    assert unconfirmed(other, original=kept, storage_class=None) == ("mount options",)


def test_a_class_confirms_the_many_options_that_it_gives() -> None:
    options = [f"option-{number}" for number in range(100)]
    read = StorageClass.read("linstor", {}, parse_policy, mount_options=options)
    demands = demands_of(with_spec(volume(), mountOptions=options))

    assert demands.mount_options[0].startswith("sha256 ")
    assert unconfirmed(demands, original=None, storage_class=read) == ()


def test_so_many_volumes_that_are_gone_are_remembered() -> None:
    originals = Originals()
    names = [PvName(f"pvc-{number}") for number in range(MOST_GONE + 10)]
    for name in names:
        originals.observed(with_metadata(volume(), name=name))

    originals.keep(names[:1], lambda _: None)

    assert names[0] in originals
    assert [name in originals for name in names[1:]] == [False] * 9 + [True] * MOST_GONE


@pytest.mark.parametrize("removed", [True, False])
def test_of_the_volumes_that_are_gone_those_that_this_instance_removed_are_not_forgotten(
    *, removed: bool
) -> None:
    """That it held a volume can be forged on many; that it removed one can't."""
    originals, first = Originals(), PvName("first")
    names = [PvName(f"pvc-{number}") for number in range(MOST_GONE)]
    for name in (first, *names):
        originals.observed(marked(with_metadata(volume(), name=name)))
    if removed:
        originals.removing(first)

    originals.keep((), lambda _: None)

    assert [name in originals for name in (first, *names)] == [removed, *([True] * MOST_GONE)]


def test_volumes_that_are_gone_and_were_not_held_are_forgotten_first() -> None:
    originals, held = Originals(), PvName("held")
    originals.observed(marked(with_metadata(volume(), name=held)))
    for number in range(MOST_GONE + 10):
        originals.observed(with_metadata(volume(), name=f"pvc-{number}"))

    originals.keep((), lambda _: None)

    assert held in originals


@pytest.mark.parametrize("repaired", [True, False])
async def test_entries_for_former_volumes_of_one_that_kept_retain_count_as_no_changes(
    *, repaired: bool
) -> None:
    """Its administrator may have set the policy again, as the documentation says."""
    async with one_setup("n1") as setup, setup.at_work():
        annotated = {"metadata": {"annotations": {ORIGINAL_POLICY_ANNOTATION: "Delete"}}}
        # As this service has made it.
        setup.cluster.patch("persistentvolumes", PV, annotated, writer=FORGED)
        if not repaired:
            retain = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
            setup.cluster.patch("persistentvolumes", PV, retain)
        await reconciled(setup, 2)
        for number in range(20):
            former = with_metadata(deepcopy(setup.pv()), annotations={}, uid=f"former-{number}")
            forged = JournalEntry.begin(former, KEY, on_node("n1"), holder="x").deleting()
            setup.journal.entries[PV] = (f"1{number}", deepcopy(forged.written()))
            await reconciled(setup, 1)

        assert setup.journal.entries == {}
        assert setup.cluster_view.backoff.against(PV) is None
        reported = [reason for _, reason, _ in setup.notices.warnings]
        assert ("VolumeRetained" in reported) is not repaired
        setup.linstor.known.pop(RD)
        setup.linstor.place(PV, "n2")
        await reconciled(setup, 2)
        assert setup.nodes() == {"n2"}


async def test_a_property_brings_no_volume_back_that_was_removed_by_force() -> None:
    async with one_setup("n1") as setup, setup.at_work():
        await reconciled(setup, 2)
        saved = deepcopy(setup.pv())
        setup.cluster.delete("persistentvolumes", PV)
        setup.cluster.patch("persistentvolumes", PV, {"metadata": {"finalizers": None}})
        for key in ("finalizers", "deletionTimestamp", "deletionGracePeriodSeconds"):
            saved["metadata"].pop(key, None)
        known = setup.linstor.known
        known[RD] = changed(known[RD], saved={0: json.dumps(saved)})
        await reconciled(setup, 5)

        assert setup.cluster.get("persistentvolumes", PV) is None
