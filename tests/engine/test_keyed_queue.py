"""Keys, each at most once, the most urgent first."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from linstor_affinity_events.engine.keyed_queue import KeyedQueue, Lane, QueueClosed, Turn
from tests.fakes.clock import run_virtually


def played(work: Coroutine[Any, Any, None]) -> None:
    run_virtually(work)


def test_a_key_added_many_times_is_handed_out_once() -> None:
    async def play() -> None:
        queue = KeyedQueue[str]()
        for _ in range(100):
            queue.add("a")

        async with queue.claim() as turn:
            assert turn.key == "a"
        assert len(queue) == 0

    played(play())


def test_news_that_come_while_a_key_is_held_lead_to_exactly_one_more_turn() -> None:
    async def play() -> None:
        queue = KeyedQueue[str]()
        queue.add("a")
        async with queue.claim():
            queue.add("a", source="promotion")
            queue.add("a", source="promotion")

        async with queue.claim() as turn:
            assert turn.key == "a"
            assert turn.hinted
        assert len(queue) == 0

    played(play())


def test_one_key_is_never_in_two_hands() -> None:
    async def play() -> None:
        queue = KeyedQueue[str]()
        hands = {"a": 0, "b": 0}
        worst = 0

        async def work() -> None:
            nonlocal worst
            while True:
                try:
                    async with queue.claim() as turn:
                        hands[turn.key] += 1
                        worst = max(worst, hands[turn.key])
                        await asyncio.sleep(0.5)
                        hands[turn.key] -= 1
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

    played(play())


def test_the_earliest_wish_wins() -> None:
    async def play() -> None:
        clock = asyncio.get_running_loop().time
        queue = KeyedQueue[str]()
        queue.add("a", after=30.0)
        queue.add("a", after=2.0)
        queue.add("a", after=9.0)

        async with queue.claim():
            assert clock() == pytest.approx(2.0)

    played(play())


def test_a_turn_knows_since_when_the_news_waits() -> None:
    async def play() -> None:
        queue = KeyedQueue[str]()
        queue.add("a", after=10.0)
        await asyncio.sleep(1.0)
        queue.add("a", source="promotion")

        async with queue.claim() as turn:
            assert turn.since == pytest.approx(1.0)

    played(play())


def test_urgent_changes_go_before_others_and_before_looks() -> None:
    async def play() -> None:
        queue = KeyedQueue[str]()
        queue.add("change", lane=Lane.CHANGE)
        queue.add("look")
        queue.add("urgent", lane=Lane.URGENT)

        order = []
        for _ in range(3):
            async with queue.claim() as turn:
                order.append(turn.key)

        assert order == ["urgent", "look", "change"]

    played(play())


def test_looks_go_on_while_all_places_for_changes_are_taken() -> None:
    async def play() -> None:
        queue = KeyedQueue[str](changes_at_once=1)
        queue.add("slow")
        async with queue.claim() as slow:
            assert queue.may_change(slow, urgent=False)
            queue.add("second", lane=Lane.URGENT)
            queue.add("look")
            async with queue.claim() as turn:
                assert turn.key == "look"
                assert not queue.may_change(turn, urgent=True)

        async with queue.claim() as turn:
            assert turn.key == "second"

    played(play())


def test_a_change_that_can_wait_leaves_the_last_place_to_an_urgent_one() -> None:
    async def play() -> None:
        queue = KeyedQueue[str](changes_at_once=1)
        queue.add("a")
        async with queue.claim() as turn:
            queue.add("b", lane=Lane.URGENT)

            assert not queue.may_change(turn, urgent=False)
            assert queue.may_change(turn, urgent=True)

    played(play())


def test_a_place_comes_back_when_its_turn_ends() -> None:
    async def play() -> None:
        queue = KeyedQueue[str](changes_at_once=1)
        for key in ("a", "b"):
            queue.add(key)
            async with queue.claim() as turn:
                assert queue.may_change(turn, urgent=False), key

    played(play())


def test_a_closed_queue_hands_out_nothing_and_lets_go_of_those_who_wait() -> None:
    async def play() -> None:
        queue = KeyedQueue[str]()

        async def wait() -> Turn[str]:
            async with queue.claim() as turn:
                return turn

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(1.0)
        queue.add("a", after=5.0)
        queue.close()

        with pytest.raises(QueueClosed):
            await waiting

    played(play())


def test_a_hundred_thousand_keys_cost_no_more_each_than_a_thousand() -> None:
    async def play() -> None:
        queue = KeyedQueue[int]()
        for number in range(100_000):
            queue.add(number)
            queue.add(number, after=1.0)
        for number in range(100_000):
            async with queue.claim() as turn:
                assert turn.key == number

        assert len(queue) == 0
        assert queue.oldest() is None

    played(play())
