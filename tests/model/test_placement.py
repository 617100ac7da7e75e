"""Which flags of a replica are kept, and that the others decide nothing."""

from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.model.names import node_name
from linstor_affinity_events.model.placement import NOT_SERVING, Replica, kept_flags

NODE = node_name("n1")
OTHERS = ("CLEAN", "DISK_MOVING", "EVACUATE", "MERGING", "REACTIVATE", "DRBD_INITIALIZED")


@given(st.frozensets(st.sampled_from((*sorted(NOT_SERVING), *OTHERS)) | st.text("DIGNSK_")))
def test_flags_that_are_not_kept_decide_nothing(flags: frozenset[str]) -> None:
    whole, kept = Replica(NODE, flags), Replica(NODE, kept_flags(flags))

    assert (kept.serves, kept.against, kept.moves) == (whole.serves, whole.against, whole.moves)


def test_one_unknown_flag_of_a_replica_that_changes_is_kept() -> None:
    assert kept_flags(["EVACUATE", "SPLITTING", "MERGING", "CLEAN"]) == {"EVACUATE", "MERGING"}
