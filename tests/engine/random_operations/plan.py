"""The operations and faults of a run: small values drawn by hypothesis, so that failures shrink
well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hypothesis import strategies as st


class What(StrEnum):
    """In order of harmlessness, which hypothesis shrinks to."""

    MOVE = "LINSTOR moves the replicas"
    EDIT = "a user edits label and annotation"
    SLOW = "the call takes long"
    LOST = "the call gets no response"
    LATE = "the call gets no response, and takes effect long after"
    CONFLICT = "the call fails with a conflict"
    CRASH = "the calling instance is killed"
    SECOND = "another instance starts"
    RESIZE = "a user asks for more space"
    ATTACH = "a pod starts to use the volume, or stops"
    SKIP = "a user sets the skip annotation"
    BINDER = "the binder stops for a while"
    RETAIN = "a user sets policy Retain"
    RECLAIM = "a user sets policy Delete"
    DELETE_VOLUME = "a user deletes the volume"
    RECREATE_VOLUME = "a user removes the volume by force, and creates it again"
    DELETE_CLAIM = "a user deletes the claim"
    RECREATE_CLAIM = "a user deletes the claim and makes another of the same name"


AT_CALLS = frozenset({What.SLOW, What.LOST, What.LATE, What.CONFLICT, What.CRASH})
"""Faults of the call itself; all others only happen at its moment."""

PLAIN = AT_CALLS | {What.MOVE, What.EDIT, What.SECOND, What.ATTACH, What.BINDER}
"""What does not concern claims."""

LONG = (0.003, 0.3, 3.0, 17.0)
"""For each `much`: shorter than a write, than the guard's time, than most delays, than a resync."""

DOWN = (0.01, 1.0, 16.0, 60.0)
"""How long a killed instance, or the binder, stays down."""

LAGS = (0.0, 0.004, 0.1, 1.5)

GUARD = 1.5
"""Somewhat less than the timeout for the binder."""


@dataclass(frozen=True, slots=True)
class Operation:
    gap: int
    """How many calls come before it."""

    what: What
    after: bool = False
    """Whether the call has taken effect by then."""

    much: int = 0
    """How long, or which of some; 0 to 3."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The operations of a run."""

    operations: tuple[Operation, ...]
    policy: str = "Delete"
    attached: bool = False
    watch_lag: int = 0
    sidecar_lag: int = 0
    resync: bool = False
    """Whether the binder also resyncs periodically, besides events."""
    fresh_end: bool = True
    """Whether the last instance has just started."""

    @property
    def is_plain(self) -> bool:
        """Whether no claim may ever be Lost: nobody changes claims, and the binder acts on events
        alone, within the guard's timeout.
        """
        absent_by_user = sum(
            DOWN[operation.much] for operation in self.operations if operation.what is What.BINDER
        )
        quiet = PLAIN.issuperset(operation.what for operation in self.operations)
        return quiet and not self.resync and absent_by_user < GUARD


_CALLS = 18
"""More calls than a replacement makes."""

_SMALL = st.integers(0, 3)

OPERATIONS = st.builds(
    Operation,
    st.integers(0, _CALLS),
    st.sampled_from([*What, *sorted(AT_CALLS), What.MOVE, What.CRASH, What.SECOND]),
    st.booleans(),
    _SMALL,
)

PLANS = st.builds(
    Plan,
    st.lists(OPERATIONS, min_size=1, max_size=8).map(tuple),
    st.sampled_from(["Delete", "Retain"]),
    st.booleans(),
    _SMALL,
    _SMALL,
    st.booleans(),
    st.booleans(),
)


class Script:
    """Returns the operations, one after the other, at the calls where they are due."""

    def __init__(self, operations: tuple[Operation, ...]) -> None:
        self._operations = list(operations)
        self._left = operations[0].gap if operations else 0
        self.done: list[Operation] = []

    @property
    def over(self) -> bool:
        return not self._operations

    @property
    def next(self) -> Operation:
        return self._operations[0]

    def had(self, what: What) -> bool:
        return any(operation.what is what for operation in self.done)

    def call(self) -> None:
        """Another call begins."""
        self._left -= 1

    def due(self, *, after: bool) -> Iterator[Operation]:
        """What is due now, before the call takes effect or after."""
        while self._operations and self._left < 0 and self._operations[0].after == after:
            yield self.skip()

    def skip(self) -> Operation:
        """Take the next operation whether it is due or not."""
        operation = self._operations.pop(0)
        self.done.append(operation)
        self._left += self._operations[0].gap if self._operations else 0
        return operation
