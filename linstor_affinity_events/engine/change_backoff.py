"""Backoff per volume, so that none is changed again and again, whatever the cause."""

import asyncio
from dataclasses import dataclass

from linstor_affinity_events.model.decision import Reason, Refusal
from linstor_affinity_events.model.names import PvName

BURST = 10
"""Changes of one volume that are allowed without a pause: a replica that moves takes two."""

FORGIVEN_EVERY = 300.0
"""Seconds after which one of them no longer counts."""

PAUSE_FIRST, PAUSE_MOST = 30.0, 3600.0

QUIET = 3600.0
"""How long a volume must stay unchanged after its pause before its history is dropped."""


@dataclass(slots=True)
class _History:
    changes: float = 0.0
    at: float = 0.0
    """When `changes` was computed, by the loop's clock."""

    pause: float = PAUSE_FIRST
    """How long the next pause is."""

    until: float = float("-inf")
    against: Refusal | None = None
    """Why it paused last; None if it never paused."""

    def is_over(self, now: float) -> bool:
        """Whether nothing counts any more; after a pause, once it stayed unchanged long enough."""
        if self.against is None:
            return self.counted(now) == 0
        return now >= self.until + max(self.pause, QUIET)

    def counted(self, now: float) -> float:
        return max(0.0, self.changes - (now - self.at) / FORGIVEN_EVERY)


class ChangeBackoff:
    """Allows a few changes of a volume without a pause, then one change after each pause. Pauses
    double, up to an hour. A volume that differs from the request after a change pauses at once.

    Without it, an admission policy that mutates new volumes, or another program that sets their
    affinity, would cause an endless loop of deleting and recreating.
    """

    def __init__(self) -> None:
        self._known: dict[PvName, _History] = {}

    def __len__(self) -> int:
        """Number of volumes with a history."""
        return len(self._known)

    def changed(self, name: PvName, *, different: str = "") -> None:
        """Count a change that was made, or begun and rolled back. `different` says how the result
        differs from the request, if it does.
        """
        now = asyncio.get_running_loop().time()
        history = self._known.get(name)
        if history is None or history.is_over(now):
            history = self._known[name] = _History()
        history.changes, history.at = history.counted(now) + 1, now
        if different:
            history.against = Refusal(Reason.DIFFERENT, different)
        elif history.against is not None or history.changes > BURST:
            history.against = Refusal(Reason.HELD_BACK, _TOO_OFTEN)
        else:
            return
        history.until = now + history.pause
        history.pause = min(history.pause * 2, PAUSE_MOST)

    def against(self, name: PvName) -> Refusal | None:
        """Why the volume must not be changed now; None if it may be."""
        history = self._known.get(name)
        if history is None or history.until <= asyncio.get_running_loop().time():
            return None
        return history.against

    def held_back(self) -> int:
        """Number of volumes that are paused now."""
        now = asyncio.get_running_loop().time()
        return sum(history.until > now for history in self._known.values())

    def forget_old(self) -> None:
        """Drop the histories that no longer count."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, history in self._known.items() if history.is_over(now)]:
            del self._known[name]


_TOO_OFTEN = (
    f"its node affinity was changed, or was about to be changed, more than {BURST} times in "
    "a short time and is wrong again: either another program changes it, or its replicas "
    "move all the time. The volume exists. The change is retried after delays that grow to "
    "an hour. Check whether another controller or an admission policy changes "
    "PersistentVolumes"
)
