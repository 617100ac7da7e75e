"""One lane of the queue, whatever is asked of it."""

from hypothesis import given
from hypothesis import strategies as st

from linstor_affinity_events.engine.ready_heap import MOST_REMOVED, ReadyHeap, Waiting

wishes = st.tuples(st.just("put"), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
takes = st.tuples(st.just("take"), st.floats(0.0, 3.0), st.just(0.0))
drops = st.tuples(st.just("drop"), st.floats(0.0, 3.0), st.just(0.0))


@given(operations=st.lists(st.one_of(wishes, takes, drops), max_size=60))
def test_an_item_is_returned_once_and_never_early(
    operations: list[tuple[str, float, float]],
) -> None:
    row, now, there = ReadyHeap[int](), 0.0, list[Waiting[int]]()
    for number, (action, much, since) in enumerate(operations):
        match action:
            case "put":
                waiting = Waiting(number, now + much, number, since, "")
                row.put(waiting, now)
                there.append(waiting)
            case "drop" if there:
                now += much
                row.drop(there.pop(0), now)
            case _:
                now += much
                due = [each for each in there if each.at <= now]
                taken = row.take(now)
                assert (taken is None) == (not due)
                if taken is not None:
                    assert taken in due
                    assert taken.since in {min(d.since for d in due), max(d.since for d in due)}
                    there.remove(taken)
        assert row.due(now) == sum(each.at <= now for each in there)
        later = [each.at for each in there if each.at > now]
        assert row.next_at(now) == min(later, default=None)


def test_a_heap_that_is_never_empty_does_not_grow() -> None:
    row = ReadyHeap[int]()
    row.put(Waiting(0, 0.0, 0, 0.0, ""), 0.0)
    for number in range(1, 5000):
        row.put(Waiting(number, 0.0, number, float(number), ""), 0.0)
        row.take(0.0)

    assert len(row._oldest) + len(row._newest) <= 2 * MOST_REMOVED
