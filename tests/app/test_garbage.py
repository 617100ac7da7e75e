"""Cycles are collected after the next full reconcile, and long-lived objects are scanned once."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from linstor_affinity_events.app.garbage import CHECK_EVERY, NEVER, SLOW, Garbage

QUICK = SLOW / 2
LONG = SLOW * 2


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Frozen objects of a test before would be counted.

    Python 3.12 freezes some hundred by itself whenever it collects everything, its immortal ones.
    """
    before = gc.get_threshold()
    gc.unfreeze()
    gc.collect()
    immortal = gc.get_freeze_count()
    yield
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() <= immortal


def old_ring() -> weakref.ref[Ring]:
    """A dead ring that has outlived both young generations."""
    ring = Ring()
    gc.collect(1)
    return weakref.ref(ring)


def taking(*seconds: float) -> Garbage:
    """Collections that seem to take so long, one after the other."""
    moments = [at for n, took in enumerate(seconds) for at in (100.0 * n, 100.0 * n + took)]
    return Garbage(cpu=iter(moments).__next__)


def test_a_cycle_is_collected_after_the_next_full_reconcile() -> None:
    garbage = Garbage()
    with garbage.held_back():
        garbage.collect()
        ring = old_ring()
        assert ring() is not None

        garbage.collect()

        assert ring() is None


def test_no_full_collection_runs_by_itself() -> None:
    young = gc.get_threshold()[:2]

    with Garbage().held_back():
        assert gc.get_threshold() == (*young, NEVER)
        assert gc.isenabled()


def test_objects_of_the_start_are_frozen() -> None:
    with Garbage().held_back():
        assert gc.get_freeze_count() > 1000


def test_objects_of_the_first_full_reconcile_are_frozen() -> None:
    garbage = taking(QUICK)
    with garbage.held_back():
        before = gc.get_freeze_count()
        listed = [Ring() for _ in range(1000)]

        garbage.collect()

        assert gc.get_freeze_count() - before >= len(listed)


def test_a_heap_that_took_long_to_collect_is_frozen() -> None:
    garbage = taking(QUICK, LONG)
    with garbage.held_back():
        garbage.collect()
        before = gc.get_freeze_count()
        listed = [Ring() for _ in range(1000)]

        garbage.collect()

        assert gc.get_freeze_count() - before >= len(listed)


def test_a_heap_that_was_quick_to_collect_is_not_frozen() -> None:
    garbage = taking(QUICK, QUICK)
    with garbage.held_back():
        garbage.collect()
        before = gc.get_freeze_count()
        listed = [Ring() for _ in range(1000)]

        garbage.collect()

        assert listed
        assert gc.get_freeze_count() <= before


@pytest.mark.virtual_clock
async def test_collections_run_although_no_full_reconcile_completes() -> None:
    garbage = Garbage()
    with garbage.held_back():
        waiting = asyncio.create_task(garbage.run())
        await asyncio.sleep(0)
        garbage.collect()
        ring = old_ring()
        await asyncio.sleep(CHECK_EVERY + 1)
        assert ring() is not None

        await asyncio.sleep(CHECK_EVERY)

        assert ring() is None
        waiting.cancel()


def test_without_deferred_collection_nothing_is_collected() -> None:
    garbage = Garbage()
    ring = old_ring()

    garbage.collect()

    assert ring() is not None
    gc.collect()
    assert ring() is None


def test_the_collector_is_restored_when_the_block_fails() -> None:
    with pytest.raises(ValueError, match="unexpected error"), Garbage().held_back():
        raise ValueError("unexpected error")
