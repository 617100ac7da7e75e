"""Changes without an event, seen by what LINSTOR answers from memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio

from linstor_affinity_events.engine.poll import COUNTED_MOST, Poll
from linstor_affinity_events.errors import AffinityEventsError, LoginRefused, Unreachable
from linstor_affinity_events.model.names import NodeName
from linstor_affinity_events.model.poll import NodeState, PollResult
from tests.fakes.others import FakeLeadership

EVERY = 10.0
N1, N2 = NodeName("n1"), NodeName("n2")
ONLINE = NodeState(connection="ONLINE", labels=frozenset({("Aux/zone", "a")}))


@dataclass(slots=True)
class Memory:
    """Implements engine.ports.LinstorPoll."""

    nodes: dict[NodeName, NodeState] = field(default_factory=lambda: {N1: ONLINE, N2: ONLINE})
    resources: int | None = 7
    broken: AffinityEventsError | None = None
    asked: int = 0

    async def poll(self) -> PollResult:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return PollResult(nodes=dict(self.nodes), resources=self.resources)


@dataclass(slots=True)
class Room:
    linstor: Memory
    leadership: FakeLeadership
    poll: Poll
    requests: list[str]
    paused: bool = False

    async def beats(self, number: int = 1) -> int:
        """Let it read so often; answers how many full reconciles were asked for."""
        before = len(self.requests)
        await asyncio.sleep(number * EVERY)
        return len(self.requests) - before


@pytest_asyncio.fixture(params=[True])
async def room(request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    """Give `room` the parameter False for an instance that does not lead."""
    linstor, leadership, requests = Memory(), FakeLeadership(request.param), list[str]()
    poll = Poll(
        linstor=linstor,
        leadership=leadership,
        request=requests.append,
        paused=lambda: made.paused,
        every=EVERY,
    )
    made = Room(linstor, leadership, poll, requests)
    task = asyncio.create_task(poll.run())
    await asyncio.sleep(EVERY / 2)
    yield made
    task.cancel()


NOT_LEADING = pytest.mark.parametrize("room", [False], indirect=True)


async def test_without_changes_no_full_reconcile_is_requested(room: Room) -> None:
    assert await room.beats(100) == 0
    assert room.linstor.asked == 101


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(None, id="gone"),
        pytest.param(replace(ONLINE, connection="OFFLINE"), id="connection"),
        pytest.param(replace(ONLINE, flags=frozenset({"EVICTED"})), id="flags"),
        pytest.param(replace(ONLINE, labels=frozenset({("Aux/zone", "b")})), id="labels"),
    ],
)
async def test_a_lost_or_changed_node_is_detected_once(room: Room, state: NodeState | None) -> None:
    if state is None:
        del room.linstor.nodes[N2]
    else:
        room.linstor.nodes[N2] = state

    assert await room.beats() == 1
    assert await room.beats(20) == 0
    assert room.requests == ["poll"]


async def test_a_new_node_is_detected(room: Room) -> None:
    room.linstor.nodes[NodeName("n3")] = ONLINE

    assert await room.beats() == 1


@pytest.mark.parametrize("count", [6, 8, 0])
async def test_a_changed_number_of_resources_is_detected(room: Room, count: int) -> None:
    room.linstor.resources = count

    assert await room.beats() == 1
    assert await room.beats(20) == 0


async def test_a_number_that_keeps_changing_is_mostly_left_to_the_events(room: Room) -> None:
    assert room.linstor.resources is not None
    for _ in range(60):
        room.linstor.resources += 1
        await room.beats()
    during = len(room.requests)
    await room.beats(int(COUNTED_MOST / EVERY))

    assert 600 / COUNTED_MOST <= during <= 600 / COUNTED_MOST + 4
    # The last change is not forgotten.
    assert len(room.requests) in {during, during + 1}
    room.linstor.resources += 1
    assert await room.beats() == 1


async def test_a_deferred_change_is_not_lost(room: Room) -> None:
    room.linstor.resources = 8
    assert await room.beats() == 1
    room.linstor.resources = 9
    assert await room.beats() == 0

    assert await room.beats(3) == 1


async def test_a_node_change_is_never_deferred(room: Room) -> None:
    for number in range(10):
        room.linstor.nodes[N2] = replace(ONLINE, connection=f"state {number}")
        assert await room.beats() == 1


@pytest.mark.parametrize("error", [Unreachable("away"), LoginRefused("no")])
async def test_a_change_during_an_outage_is_detected_afterwards(
    room: Room, error: AffinityEventsError, caplog: pytest.LogCaptureFixture
) -> None:
    room.linstor.broken = error
    assert await room.beats(10) == 0
    del room.linstor.nodes[N1]
    room.linstor.broken = None

    assert await room.beats() == 1
    # Others tell of an outage.
    assert [record.levelname for record in caplog.records if "failed" in record.message] == []


async def test_without_a_resource_count_only_nodes_are_compared(room: Room) -> None:
    room.linstor.resources = None
    assert await room.beats(5) == 0
    del room.linstor.nodes[N1]
    assert await room.beats() == 1
    room.linstor.resources = 9
    assert await room.beats() == 1


@NOT_LEADING
async def test_a_follower_does_not_poll(room: Room) -> None:
    assert await room.beats(10) == 0
    assert room.linstor.asked == 0


@NOT_LEADING
async def test_a_new_leader_compares_with_its_first_poll(room: Room) -> None:
    room.leadership.leading = True
    room.poll.wake()
    await asyncio.sleep(0.0)
    await asyncio.sleep(0.0)
    assert room.linstor.asked == 1
    del room.linstor.nodes[N1]

    assert await room.beats() == 1


async def test_a_leader_again_does_not_compare_with_polls_of_before(room: Room) -> None:
    room.leadership.leading = False
    await room.beats()
    del room.linstor.nodes[N1]
    room.leadership.leading = True

    assert await room.beats(5) == 0


async def test_with_a_better_event_source_nothing_is_polled(room: Room) -> None:
    room.paused = True
    asked = room.linstor.asked
    del room.linstor.nodes[N1]
    assert await room.beats(10) == 0
    assert room.linstor.asked == asked

    room.paused = False
    await room.beats()
    del room.linstor.nodes[N2]
    assert await room.beats() == 1
