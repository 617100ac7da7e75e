"""The volumes of one resource, be they one or thousands."""

from collections.abc import ValuesView
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.adapters.kubernetes.objects import describe
from linstor_affinity_events.adapters.kubernetes.siblings import Siblings
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName, ResourceName
from linstor_affinity_events.model.volume import Volume
from tests.testbed import manifests

RESOURCES = [ResourceName(name) for name in ("a", "b")]
KEYS = [VolumeKey(resource, number) for resource in RESOURCES for number in range(2)]


def volume_for(number: int, key: VolumeKey) -> Volume:
    found = describe(manifests.volume("pv", claim=None, node_affinity=None))
    assert found is not None
    return replace(found, name=PvName(f"pv-{number}"), key=key)


@given(
    changes=st.lists(
        st.tuples(st.booleans(), st.integers(0, 20), st.sampled_from(KEYS)), max_size=100
    )
)
def test_volumes_are_found_by_resource_and_by_linstor_volume(
    changes: list[tuple[bool, int, VolumeKey]],
) -> None:
    siblings, there = Siblings(), dict[PvName, Volume]()
    for put, number, key in changes:
        volume = volume_for(number, key)
        before = there.pop(volume.name, None)
        if before is not None and before.key is not None and (not put or before.key != key):
            siblings.drop(before.key, before)
        if put:
            siblings.put(key, volume)
            there[volume.name] = volume

        for resource in RESOURCES:
            of = {
                each.name for each in there.values() if each.key and each.key.resource == resource
            }
            assert {each.name for each in siblings.of(resource)} == of
            assert (resource in siblings.resources()) == bool(of)
        for each_key in KEYS:
            of = {each.name for each in there.values() if each.key == each_key}
            assert {each.name for each in siblings.of_key(each_key)} == of


@pytest.mark.parametrize("number", [1, 2, 2000])
def test_none_is_searched_among_very_many(number: int) -> None:
    siblings = Siblings()
    for each in range(number):
        key = VolumeKey(RESOURCES[0], each)
        siblings.put(key, volume_for(each, key))

    assert len(siblings.of(RESOURCES[0])) == number
    found = siblings.of_key(VolumeKey(RESOURCES[0], 0))
    assert len(found) == 1
    # Neither a scan nor a copy of all of them.
    assert number == 1 or isinstance(found, ValuesView)
