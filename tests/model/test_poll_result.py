"""Which changes of LINSTOR's memory ask for a full reconcile."""

import pytest

from linstor_affinity_events.model.names import node_name
from linstor_affinity_events.model.poll_result import NodeState, PollResult

ONLINE, OFFLINE = NodeState(connection="ONLINE"), NodeState(connection="OFFLINE")


def reading(resources: int | None = 1, **nodes: NodeState) -> PollResult:
    named = {node_name(name): state for name, state in nodes.items()}
    return PollResult(nodes=named, resources=resources)


@pytest.mark.parametrize(
    ("before", "now", "changed"),
    [
        pytest.param(reading(a=ONLINE), reading(a=ONLINE), [], id="nothing"),
        pytest.param(reading(), reading(a=ONLINE), ["a"], id="added"),
        pytest.param(reading(a=ONLINE), reading(), ["a"], id="removed"),
        pytest.param(reading(a=ONLINE), reading(a=OFFLINE), ["a"], id="changed"),
        pytest.param(
            reading(c=ONLINE, b=ONLINE),
            reading(b=OFFLINE, a=ONLINE),
            ["a", "b", "c"],
            id="several",
        ),
    ],
)
def test_which_nodes_changed(before: PollResult, now: PollResult, changed: list[str]) -> None:
    names = now.nodes.keys() | before.nodes.keys()
    assert sorted(name for name in names if now.is_changed(name, before)) == changed


@pytest.mark.parametrize(
    ("before", "now", "recounted"),
    [(1, 1, False), (1, 2, True), (2, 1, True), (None, 1, False), (1, None, False)],
)
def test_an_unknown_number_has_not_changed(
    before: int | None, now: int | None, recounted: bool
) -> None:
    assert reading(now).recounted(reading(before)) is recounted
