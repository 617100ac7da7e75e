"""Which unfinished replacements are resumed next: the order of attempts, and those left alone."""

import asyncio
import logging
from collections.abc import Container, Iterable
from heapq import nsmallest

from linstor_affinity_events.engine.originals import Originals
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.printable import shortened

log = logging.getLogger(__name__)


class Attempts:
    """To resume unfinished replacements, by volume."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals
        self._tried: dict[PvName, float] = {}
        """When each was last resumed, by the loop's clock."""
        self._left_alone: dict[PvName, str] = {}
        """Those whose journal entry can't be followed, and why."""

    def due(self, names: Iterable[PvName], *, pause: float, most: int) -> list[PvName]:
        """At most so many to resume: the ones that were observed first, then those for which it is
        longest ago. The ones that were left alone only after a `pause`.
        """
        now, never = asyncio.get_running_loop().time(), float("-inf")
        return nsmallest(
            most,
            (
                name
                for name in names
                if name not in self._left_alone or now - self._tried.get(name, never) >= pause
            ),
            key=lambda name: (name not in self._originals, self._tried.get(name, never)),
        )

    def trying(self, name: PvName) -> None:
        self._tried[name] = asyncio.get_running_loop().time()

    def waits(self, name: PvName) -> bool:
        """Whether it has never been resumed, or was left alone: nothing else brings it back."""
        return name not in self._tried or name in self._left_alone

    def followed(self, names: Iterable[PvName]) -> list[PvName]:
        """Those of them that were not left alone."""
        return [name for name in names if name not in self._left_alone]

    def leave_alone(self, name: PvName, key: VolumeKey | None, why: str) -> None:
        """Report, once for the same reason, that a journal entry is not followed."""
        why = shortened(why)
        if self._left_alone.get(name) == why:
            return
        self._left_alone[name] = why
        log.error(
            "unfinished replacement left alone: its journal entry cannot be trusted, for "
            "the reason in the message. If the volume is missing and should exist, create "
            "it; then delete the entry. See docs/reliability.md",
            extra=facts(pv=name, resource=key, message=why),
        )

    def forget(self, name: PvName) -> None:
        self._left_alone.pop(name, None)
        self._tried.pop(name, None)

    def keep(self, names: Container[PvName]) -> None:
        """Forget all others."""
        for name in [*self._left_alone, *self._tried]:
            if name not in names:
                self.forget(name)
