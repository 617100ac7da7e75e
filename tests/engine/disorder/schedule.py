"""What befalls a run: small values that hypothesis draws, so that what fails shrinks well."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hypothesis import strategies as st


class What(StrEnum):
    """In the order of their harmlessness, to which hypothesis shrinks."""

    MOVE = "LINSTOR moves the replicas"
    EDIT = "a user edits label and annotation"
    SLOW = "the call takes long"
    LOST = "the call gets no answer"
    LATE = "the call gets no answer, and takes effect long after"
    CONFLICT = "the call is answered with a conflict"
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
"""What befalls the call itself; all others only happen in its moment."""

PLAIN = AT_CALLS | {What.MOVE, What.EDIT, What.SECOND, What.ATTACH, What.BINDER}
"""What has nothing to do with claims."""

LONG = (0.003, 0.3, 3.0, 17.0)
"""For each `much`: shorter than a write, than the guard's time, than most delays, than a resync."""

DOWN = (0.01, 1.0, 16.0, 60.0)
"""How long nobody starts a killed instance again, or the binder."""

LAGS = (0.0, 0.004, 0.1, 1.5)

GUARD = 1.5
"""Somewhat less than the time that the binder is given."""


@dataclass(frozen=True, slots=True)
class Turn:
    gap: int
    """How many calls pass before."""

    what: What
    after: bool = False
    """Whether the call has taken effect by then."""

    much: int = 0
    """How long, or which of some; 0 to 3."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a run."""

    turns: tuple[Turn, ...]
    policy: str = "Delete"
    attached: bool = False
    watch_lag: int = 0
    sidecar_lag: int = 0
    resync: bool = False
    """Whether the binder looks at everything now and then, beside the news."""
    fresh_end: bool = True
    """Whether who brings it to the end has just started."""

    @property
    def is_plain(self) -> bool:
        """Whether no claim may ever be seen Lost: nobody touches claims, and the binder acts on
        news alone, within the guard's time.
        """
        away = sum(DOWN[turn.much] for turn in self.turns if turn.what is What.BINDER)
        quiet = PLAIN.issuperset(turn.what for turn in self.turns)
        return quiet and not self.resync and away < GUARD


_CALLS = 18
"""More than a replacement makes."""

_SMALL = st.integers(0, 3)

TURNS = st.builds(
    Turn,
    st.integers(0, _CALLS),
    st.sampled_from([*What, *sorted(AT_CALLS), What.MOVE, What.CRASH, What.SECOND]),
    st.booleans(),
    _SMALL,
)

PLANS = st.builds(
    Plan,
    st.lists(TURNS, min_size=1, max_size=8).map(tuple),
    st.sampled_from(["Delete", "Retain"]),
    st.booleans(),
    _SMALL,
    _SMALL,
    st.booleans(),
    st.booleans(),
)


class Script:
    """Hands out the turns, one after the other, at the calls where they are due."""

    def __init__(self, turns: tuple[Turn, ...]) -> None:
        self._turns = list(turns)
        self._left = turns[0].gap if turns else 0
        self.done: list[Turn] = []

    @property
    def over(self) -> bool:
        return not self._turns

    @property
    def next(self) -> Turn:
        return self._turns[0]

    def had(self, what: What) -> bool:
        return any(turn.what is what for turn in self.done)

    def call(self) -> None:
        """Another call begins."""
        self._left -= 1

    def due(self, *, after: bool) -> Iterator[Turn]:
        """What is due now, before the call takes effect or after."""
        while self._turns and self._left < 0 and self._turns[0].after == after:
            yield self.skip()

    def skip(self) -> Turn:
        """Take the next turn whether it is due or not."""
        turn = self._turns.pop(0)
        self.done.append(turn)
        self._left += self._turns[0].gap if self._turns else 0
        return turn
