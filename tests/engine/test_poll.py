"""Changes without an event, detected by what LINSTOR returns from memory."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio

from linstor_affinity_events.engine.poll import COUNTED_MOST, YIELD_EVERY, Poll
from linstor_affinity_events.errors import AffinityEventsError, LoginRefused, Unreachable
from linstor_affinity_events.model.names import NodeName
from linstor_affinity_events.model.poll_result import NodeState, PollResult
from tests.adapters.peers import running
from tests.engine.test_full_reconcile_yields import MostAtOnce
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
class PollFixture:
    linstor: Memory
    leadership: FakeLeadership
    poll: Poll
    requests: list[str]
    paused: bool = False

    async def beats(self, number: int = 1) -> int:
        """Let it read so often; returns how many full reconciles were asked for."""
        before = len(self.requests)
        await asyncio.sleep(number * EVERY)
        return len(self.requests) - before


@pytest_asyncio.fixture(params=[True])
async def fixture(request: pytest.FixtureRequest) -> AsyncIterator[PollFixture]:
    """Give `fixture` the parameter False for an instance that does not lead."""
    linstor, leadership, requests = Memory(), FakeLeadership(request.param), list[str]()
    poll = Poll(
        linstor=linstor,
        leadership=leadership,
        request=requests.append,
        paused=lambda: made.paused,
        every=EVERY,
    )
    made = PollFixture(linstor, leadership, poll, requests)
    task = asyncio.create_task(poll.run())
    await asyncio.sleep(EVERY / 2)
    yield made
    task.cancel()


NOT_LEADING = pytest.mark.parametrize("fixture", [False], indirect=True)


async def test_without_changes_no_full_reconcile_is_requested(fixture: PollFixture) -> None:
    assert await fixture.beats(100) == 0
    assert fixture.linstor.asked == 101


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(None, id="gone"),
        pytest.param(replace(ONLINE, connection="OFFLINE"), id="connection"),
        pytest.param(replace(ONLINE, flags=frozenset({"EVICTED"})), id="flags"),
        pytest.param(replace(ONLINE, labels=frozenset({("Aux/zone", "b")})), id="labels"),
    ],
)
async def test_a_lost_or_changed_node_is_detected_once(
    fixture: PollFixture, state: NodeState | None
) -> None:
    if state is None:
        del fixture.linstor.nodes[N2]
    else:
        fixture.linstor.nodes[N2] = state

    assert await fixture.beats() == 1
    assert await fixture.beats(20) == 0
    assert fixture.requests == ["poll"]


async def test_the_log_names_a_few_of_many_changed_nodes(
    fixture: PollFixture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fixture.linstor.nodes.update({NodeName(f"n{number}"): ONLINE for number in range(10, 1000)})

    assert await fixture.beats() == 1
    (record,) = caplog.records
    assert "n10, n100, n101, n102, n103 and 985 more" in str(vars(record))
    assert "n104" not in str(vars(record))


async def test_a_new_node_is_detected(fixture: PollFixture) -> None:
    fixture.linstor.nodes[NodeName("n3")] = ONLINE

    assert await fixture.beats() == 1


@pytest.mark.parametrize("count", [6, 8, 0])
async def test_a_changed_number_of_resources_is_detected(fixture: PollFixture, count: int) -> None:
    fixture.linstor.resources = count

    assert await fixture.beats() == 1
    assert await fixture.beats(20) == 0


async def test_a_number_that_keeps_changing_is_mostly_left_to_the_events(
    fixture: PollFixture,
) -> None:
    assert fixture.linstor.resources is not None
    for _ in range(60):
        fixture.linstor.resources += 1
        await fixture.beats()
    during = len(fixture.requests)
    await fixture.beats(int(COUNTED_MOST / EVERY))

    assert 600 / COUNTED_MOST <= during <= 600 / COUNTED_MOST + 4
    # The last change is not forgotten.
    assert len(fixture.requests) in {during, during + 1}
    fixture.linstor.resources += 1
    assert await fixture.beats() == 1


async def test_a_deferred_change_is_not_lost(fixture: PollFixture) -> None:
    fixture.linstor.resources = 8
    assert await fixture.beats() == 1
    fixture.linstor.resources = 9
    assert await fixture.beats() == 0

    assert await fixture.beats(3) == 1


async def test_a_node_change_is_never_deferred(fixture: PollFixture) -> None:
    for number in range(10):
        fixture.linstor.nodes[N2] = replace(ONLINE, connection=f"state {number}")
        assert await fixture.beats() == 1


@pytest.mark.parametrize("error", [Unreachable("away"), LoginRefused("no")])
async def test_a_change_during_an_outage_is_detected_afterwards(
    fixture: PollFixture, error: AffinityEventsError, caplog: pytest.LogCaptureFixture
) -> None:
    fixture.linstor.broken = error
    assert await fixture.beats(10) == 0
    del fixture.linstor.nodes[N1]
    fixture.linstor.broken = None

    assert await fixture.beats() == 1
    # Others report an outage.
    assert [record.levelname for record in caplog.records if "failed" in record.message] == []


async def test_without_a_resource_count_only_nodes_are_compared(fixture: PollFixture) -> None:
    fixture.linstor.resources = None
    assert await fixture.beats(5) == 0
    del fixture.linstor.nodes[N1]
    assert await fixture.beats() == 1
    fixture.linstor.resources = 9
    assert await fixture.beats() == 1


@NOT_LEADING
async def test_a_follower_does_not_poll(fixture: PollFixture) -> None:
    assert await fixture.beats(10) == 0
    assert fixture.linstor.asked == 0


@NOT_LEADING
async def test_a_new_leader_compares_with_its_first_poll(fixture: PollFixture) -> None:
    fixture.leadership.leading = True
    fixture.poll.wake()
    await asyncio.sleep(0.0)
    await asyncio.sleep(0.0)
    assert fixture.linstor.asked == 1
    del fixture.linstor.nodes[N1]

    assert await fixture.beats() == 1


async def test_a_leader_again_does_not_compare_with_polls_of_before(fixture: PollFixture) -> None:
    fixture.leadership.leading = False
    await fixture.beats()
    del fixture.linstor.nodes[N1]
    fixture.leadership.leading = True

    assert await fixture.beats(5) == 0


async def test_with_a_better_event_source_nothing_is_polled(fixture: PollFixture) -> None:
    fixture.paused = True
    asked = fixture.linstor.asked
    del fixture.linstor.nodes[N1]
    assert await fixture.beats(10) == 0
    assert fixture.linstor.asked == asked

    fixture.paused = False
    await fixture.beats()
    del fixture.linstor.nodes[N2]
    assert await fixture.beats() == 1


class Counting(dict[NodeName, NodeState]):
    """Counts how many nodes were compared."""

    compared = 0

    def get(self, name: NodeName, default: Any = None) -> Any:
        self.compared += 1
        return super().get(name, default)


async def test_other_tasks_run_while_very_many_nodes_are_compared(fixture: PollFixture) -> None:
    nodes = Counting({NodeName(f"n{number}"): ONLINE for number in range(5 * YIELD_EVERY)})
    compared = MostAtOnce(lambda: nodes.compared)

    reading = PollResult(nodes=nodes, resources=7)
    async with running(compared.watch()):
        await asyncio.sleep(0)
        await fixture.poll._compare(reading, reading)
        await asyncio.sleep(0)

    assert nodes.compared == 2 * len(nodes)
    assert compared.found <= 2 * YIELD_EVERY
