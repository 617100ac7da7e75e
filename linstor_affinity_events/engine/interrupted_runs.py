"""Remembers replacements that this instance began and that an error has interrupted.

Their journal entry says how to continue, but others may rewrite it. This instance knows better what
it wrote, and whether it was itself that had the volume deleted, for as long as nobody else led.
"""

from collections.abc import Container
from dataclasses import dataclass

from linstor_affinity_events.model.names import PvName
from linstor_affinity_events.model.progress import Progress


@dataclass(frozen=True, slots=True)
class InterruptedRun:
    """How far it came, when it began (by the loop's clock), and in which term of leadership."""

    progress: Progress
    began: float
    term: int


class InterruptedRuns:
    """By volume."""

    def __init__(self) -> None:
        self._runs: dict[PvName, InterruptedRun] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._runs

    def keep(self, run: InterruptedRun) -> None:
        """Remember a run that this instance began; others have only the entry to go by."""
        if run.progress.begun:
            self._runs[run.progress.entry.pv] = run

    def of(self, name: PvName, *, term: int) -> InterruptedRun | None:
        """The run to continue, unless another instance may have led since."""
        run = self._runs.get(name)
        return run if run is not None and run.term == term else None

    def ended(self, name: PvName) -> None:
        self._runs.pop(name, None)

    def forget(self, *, but: Container[PvName]) -> None:
        """Forget all others."""
        self._runs = {name: run for name, run in self._runs.items() if name in but}
