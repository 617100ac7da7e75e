"""The moments at which the service is killed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tests.testbed.proxy import Asked


class When(StrEnum):
    BEFORE = "before"
    """The request was sent and never arrives."""
    AFTER = "after"
    """It was processed, and the response never arrives."""


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after a request, identified by its label and by how many of that label came first:
    requests that go side by side come in any order.
    """

    when: When
    label: str
    number: int

    def __str__(self) -> str:
        return f"{self.when} {self.label} #{self.number}"


def points_of(asked: Iterable[Asked], *, at_most: Mapping[str, int] | None = None) -> list[Point]:
    """Both moments of each request; of some labels no more than so many requests."""
    observed: Counter[str] = Counter()
    found = []
    for each in asked:
        observed[each.label] += 1
        if observed[each.label] <= (at_most or {}).get(each.label, observed[each.label]):
            found += [Point(when, each.label, observed[each.label]) for when in When]
    return found


def write_points_of(
    asked: Iterable[Asked], *, at_most: Mapping[str, int] | None = None
) -> list[Point]:
    """Both moments of each request that may change something, Events excepted."""
    every = list(asked)
    writing = {
        each.label for each in every if each.terms.writes and each.terms.resource != "events"
    }
    return [point for point in points_of(every, at_most=at_most) if point.label in writing]
