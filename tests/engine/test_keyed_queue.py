"""Keys, each at most once, the most urgent first."""

import asyncio
from typing import Any

import pytest

from linstor_affinity_events.cli.run import new_event_loop
from linstor_affinity_events.engine.concurrency_limit import ConcurrencyLimit, ReadLimit
from linstor_affinity_events.engine.keyed_queue import (
    ALONE_AFTER,
    KeyedQueue,
    Priority,
    QueueClosed,
    WorkItem,
)


def new_queue(changes_at_once: int = 10) -> KeyedQueue[Any]:
    reads = ReadLimit()
    queue = KeyedQueue[Any](changes=ConcurrencyLimit(changes_at_once), reads=reads)
    reads.on_lifted = queue.wake
    return queue


async def test_a_key_added_many_times_is_returned_once() -> None:
    queue = new_queue()
    for _ in range(100):
        queue.add("a")

    async with queue.get() as item:
        assert item.key == "a"
    assert len(queue) == 0


async def test_triggers_while_a_key_is_processed_requeue_it_exactly_once() -> None:
    queue = new_queue()
    queue.add("a")
    async with queue.get():
        queue.add("a", source="promotion")
        queue.add("a", source="promotion")

    async with queue.get() as item:
        assert item.key == "a"
        assert item.trigger
    assert len(queue) == 0


async def test_one_key_is_never_processed_by_two_workers() -> None:
    queue = new_queue()
    hands = {"a": 0, "b": 0}
    worst = 0

    async def work() -> None:
        nonlocal worst
        while True:
            try:
                async with queue.get() as item:
                    hands[item.key] += 1
                    worst = max(worst, hands[item.key])
                    await asyncio.sleep(0.5)
                    hands[item.key] -= 1
            except QueueClosed:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())
        for _ in range(20):
            queue.add("a")
            queue.add("b")
            await asyncio.sleep(0.1)
        queue.close()

    assert worst == 1


async def test_the_earliest_due_time_wins() -> None:
    clock = asyncio.get_running_loop().time
    queue = new_queue()
    queue.add("a", after=30.0)
    queue.add("a", after=2.0)
    queue.add("a", after=9.0)

    async with queue.get():
        assert clock() == pytest.approx(2.0)


async def test_a_work_item_knows_the_time_of_its_oldest_trigger() -> None:
    queue = new_queue()
    queue.add("a", after=10.0)
    await asyncio.sleep(1.0)
    queue.add("a", source="promotion")

    async with queue.get() as item:
        assert item.since == pytest.approx(1.0)


async def test_urgent_changes_go_before_others_and_before_reconciles() -> None:
    queue = new_queue()
    queue.add("change", priority=Priority.CHANGE)
    queue.add("look")
    queue.add("urgent", priority=Priority.URGENT)

    order = []
    for _ in range(3):
        async with queue.get() as item:
            order.append(item.key)

    assert order == ["urgent", "look", "change"]


async def test_a_requested_reconcile_does_not_delay_an_urgent_change() -> None:
    queue = new_queue()
    queue.add("urgent", priority=Priority.URGENT)
    queue.add("change", priority=Priority.CHANGE)
    queue.add("look")
    for key in ("urgent", "change"):
        queue.add(key, source="promotion")

    items = []
    for _ in range(3):
        async with queue.get() as item:
            items.append((item.key, item.limit is queue.changes))

    # What could wait may be urgent by now: only a reconcile shows it.
    assert items[0] == ("urgent", True)
    assert ("change", False) in items


async def test_reconciles_continue_while_the_change_limit_is_reached() -> None:
    queue = new_queue(1)
    queue.add("slow")
    async with queue.get() as slow:
        assert queue.may_change(slow, urgent=False)
        queue.add("second", priority=Priority.URGENT)
        queue.add("look")
        async with queue.get() as item:
            assert item.key == "look"
            assert not queue.may_change(item, urgent=True)

    async with queue.get() as item:
        assert item.key == "second"


async def test_a_change_that_is_not_urgent_leaves_capacity_for_an_urgent_one() -> None:
    queue = new_queue(1)
    queue.add("a")
    async with queue.get() as item:
        queue.add("b", priority=Priority.URGENT)

        assert not queue.may_change(item, urgent=False)
        assert queue.may_change(item, urgent=True)


@pytest.mark.parametrize("priority", [Priority.URGENT, Priority.CHANGE])
async def test_a_single_change_on_top_of_many_exceeds_the_limit(priority: Priority) -> None:
    queue = new_queue(1)
    queue.add("first", priority=Priority.CHANGE)
    async with queue.get() as first:
        assert not queue.is_alone(first)
        queue.add("second", priority=priority)
        await asyncio.sleep(ALONE_AFTER + 0.1)
        queue.add("single")
        async with queue.get() as single:
            assert queue.is_alone(single)
            assert queue.may_change(single, urgent=True, ahead=True)
            assert not queue.changes.free

    async with queue.get() as item:
        assert item.key == "second"
        assert not queue.is_alone(item)


async def test_of_urgent_changes_that_come_together_none_is_alone() -> None:
    queue = new_queue(1)
    queue.add("first", priority=Priority.CHANGE)
    async with queue.get():
        await asyncio.sleep(ALONE_AFTER + 0.1)
        queue.add("second", priority=Priority.URGENT)
        await asyncio.sleep(ALONE_AFTER - 0.1)
        queue.add("third")
        async with queue.get() as third:
            assert third.key == "third"
            assert not queue.is_alone(third)


async def test_capacity_is_returned_when_the_work_item_is_done() -> None:
    queue = new_queue(1)
    for key in ("a", "b"):
        queue.add(key)
        async with queue.get() as item:
            assert queue.may_change(item, urgent=False), key


async def test_a_closed_queue_returns_nothing_and_wakes_all_waiters() -> None:
    queue = new_queue()

    async def wait() -> WorkItem[str]:
        async with queue.get() as item:
            return item

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(1.0)
    queue.add("a", after=5.0)
    queue.close()

    with pytest.raises(QueueClosed):
        await waiting


async def test_a_hundred_thousand_keys_cost_no_more_each_than_a_thousand() -> None:
    queue = new_queue()
    for number in range(100_000):
        queue.add(number)
        queue.add(number, after=1.0)
    observed = set()
    for _ in range(100_000):
        async with queue.get() as item:
            observed.add(item.key)

    assert observed == set(range(100_000))
    assert len(queue) == 0
    assert queue.oldest() is None


@pytest.mark.parametrize("priority", list(Priority))
async def test_the_oldest_trigger_has_priority(
    priority: Priority,
) -> None:
    queue = new_queue()
    for number in range(1000):
        queue.add(f"many-{number}", priority=priority)
    await asyncio.sleep(1.0)
    queue.add("one", priority=priority)

    order = []
    for _ in range(3):
        async with queue.get() as item:
            order.append(item.key)

    assert order == ["many-0", "one", "many-1"]


async def test_the_oldest_trigger_goes_first_however_late_it_became_urgent() -> None:
    queue = new_queue()
    await asyncio.sleep(10.0)
    queue.add("later", priority=Priority.URGENT, since=5.0)
    queue.add("sooner", priority=Priority.URGENT, since=4.0)

    async with queue.get() as item:
        assert item.key == "sooner"


async def test_a_cancelled_waiter_leaves_the_key_to_others() -> None:
    queue = new_queue()

    async def wait() -> str:
        async with queue.get() as item:
            return str(item.key)

    first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(1.0)
    queue.add("a")
    first.cancel()

    assert await second == "a"


async def test_every_waiter_gets_a_key_if_there_are_enough() -> None:
    queue = new_queue()
    got: dict[int, float] = {}

    async def wait() -> None:
        async with queue.get() as item:
            got[item.key] = asyncio.get_running_loop().time()
            await asyncio.sleep(100.0)

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(wait())
        await asyncio.sleep(1.0)
        for number in range(5):
            queue.add(number, after=3.0 if number % 2 else 7.0)

    assert got == pytest.approx({0: 8.0, 1: 4.0, 2: 8.0, 3: 4.0, 4: 8.0})


def test_short_delays_are_exact_on_the_event_loop_of_the_service() -> None:
    async def get_all() -> None:
        queue = new_queue()
        for number in range(50):
            queue.add(number, after=number / 100_000)
        for number in range(50):
            queue.add(number, after=number / 200_000)
        observed = set()
        for _ in range(50):
            async with asyncio.timeout(10), queue.get() as item:
                observed.add(item.key)

        assert observed == set(range(50))

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(get_all())


async def test_a_reconcile_that_becomes_a_change_frees_a_reconcile_slot() -> None:
    queue, reads = new_queue(2), ReadLimit()
    queue.reads, reads.on_lifted = reads, queue.wake
    reconciled: dict[str, float] = {}

    async def work() -> None:
        async with queue.get() as item:
            reconciled[item.key] = asyncio.get_running_loop().time()
            if item.key == "a":
                assert queue.may_change(item, urgent=True)
                await asyncio.sleep(5.0)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(work())
        await asyncio.sleep(0)
        with reads.lowered(for_at_most=60.0):
            for key in "abc":
                queue.add(key)
            await asyncio.sleep(10.0)

    assert max(reconciled.values()) < 1.0


async def test_a_key_knows_which_reads_are_outdated() -> None:
    queue = new_queue()
    clock = asyncio.get_running_loop().time
    queue.add("told twice")
    queue.add("later", after=2.0)
    await asyncio.sleep(1.0)
    reported = clock()
    queue.add("told twice")
    await asyncio.sleep(3.0)

    requested = {}
    for _ in range(2):
        async with queue.get() as item:
            requested[item.key] = item.requested
    assert requested == {"told twice": reported, "later": reported + 1.0}


async def test_freed_capacity_is_offered_to_waiters() -> None:
    queue = new_queue(1)
    queue.add("first", priority=Priority.CHANGE)
    took: list[float] = []

    async def wait() -> None:
        async with queue.get():
            took.append(asyncio.get_running_loop().time())

    async with queue.get():
        queue.add("first", after=50.0)
        queue.add("second", priority=Priority.URGENT)
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(2.0)
    await waiting

    assert took == [pytest.approx(2.0)]
