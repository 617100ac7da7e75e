"""Remembers replacements that this instance has worked on and that an error has interrupted.

Their journal entry says how to continue, but others may rewrite it. This instance knows better what
it wrote, and whether it was itself that had the volume deleted, for as long as nobody else led.
"""

import asyncio
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from linstor_affinity_events.engine.ports import VolumeWatch
from linstor_affinity_events.engine.replacement_run import (
    RELIED_ON_AFTER,
    ReplacementRun,
    informed,
)
from linstor_affinity_events.engine.run_dependencies import RunDependencies
from linstor_affinity_events.errors import Conflict
from linstor_affinity_events.model.deletion import may_have_deleted
from linstor_affinity_events.model.manifest import Manifest, name_of, uid_of
from linstor_affinity_events.model.markers import Before, confirmed_values_of, holder_of, is_marked
from linstor_affinity_events.model.names import PvName, Uid
from linstor_affinity_events.model.progress import Progress, continued
from linstor_affinity_events.model.steps import LeaveAlone, Outcome


@dataclass(frozen=True, slots=True)
class _Interrupted:
    progress: Progress
    began: float
    """By the loop's clock."""
    term: int
    watch: VolumeWatch
    """What happens to the volume until the run is continued."""
    end_watch: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """Markers that may be set after the run that requested them has ended."""

    uid: Uid
    before: Before
    began: float
    """As of the run, by the loop's clock."""
    term: int


class InterruptedRuns:
    """By volume."""

    def __init__(self, dependencies: RunDependencies) -> None:
        self._dependencies = dependencies
        self._runs: dict[PvName, _Interrupted] = {}
        self._at_work: set[PvName] = set()
        self._unanswered: dict[PvName, _Unanswered] = {}

    def __contains__(self, name: PvName) -> bool:
        """Whether there is a run to continue; not if another instance may have led since."""
        run = self._runs.get(name)
        return run is not None and run.term == self._dependencies.unfinished.term

    @contextmanager
    def alone(self, name: PvName) -> Iterator[None]:
        """Raises Conflict while another worker is in this block for the volume: what that one
        requests has the name of this instance, too. Work is queued by resource, and others may
        write journal entries that say that a volume is of another one.
        """
        if name in self._at_work:
            raise Conflict(f"PersistentVolume {name} is being replaced already")
        self._at_work.add(name)
        try:
            yield
        finally:
            self._at_work.discard(name)

    async def take(self, run: ReplacementRun) -> Outcome | LeaveAlone:
        """Take a run to its end, or remember it if this instance began it, or has had the volume
        deleted or removed.
        """
        outcome: Outcome | LeaveAlone | None = None
        name = run.progress.entry.pv
        try:
            outcome = await run.run()
            return outcome
        finally:
            # An entry that is left alone may be rewritten or deleted later.
            if outcome is not None and not isinstance(outcome, LeaveAlone):
                self.ended(name)
                self._keep_unanswered(run)
            elif run.progress.run.begun or may_have_deleted(run.progress):
                self._keep(run)

    def _keep(self, run: ReplacementRun) -> None:
        """Remember an interrupted run, and follow its volume: nobody else may see that the new one
        was there, if its owner deletes it before the run is continued.
        """
        progress = informed(run.progress, run.volume_watch)
        name = progress.entry.pv
        self.ended(name)
        until_ended = ExitStack()
        watch = until_ended.enter_context(self._dependencies.volumes.follow(name))
        self._runs[name] = _Interrupted(progress, run.began, run.term, watch, until_ended.close)

    def continuing(self, name: PvName, volume_watch: VolumeWatch) -> ReplacementRun | None:
        """A run that continues the one for this volume, if there is one."""
        if name not in self:
            return None
        run = self._runs[name]
        progress = informed(continued(run.progress), run.watch)
        return ReplacementRun(self._dependencies, progress, volume_watch, began=run.began)

    def ended(self, name: PvName) -> None:
        if (run := self._runs.pop(name, None)) is not None:
            run.end_watch()

    def values_before_late_markers(self, pv: Manifest) -> Before | None:
        """Policy and skip-reclaim before this instance marked the volume, if that request arrived
        when its run had ended, and so recently that nobody can have relied on the markers.
        """
        found = self._unanswered.get(name_of(pv))
        if found is None or not self._may_arrive(found):
            return None
        ours = (
            found.uid == uid_of(pv)
            and holder_of(pv) == self._dependencies.holder
            # One write sets all of them; of an annotation alone, anybody may be the author.
            and is_marked(pv)
            and confirmed_values_of(pv) == found.before
        )
        return found.before if ours else None

    def _keep_unanswered(self, run: ReplacementRun) -> None:
        progress = run.progress
        if progress.run.begun and progress.mark_unanswered and not progress.run.deletion_requested:
            self._unanswered[progress.entry.pv] = _Unanswered(
                progress.entry.uid, progress.original_values, run.began, run.term
            )

    def _may_arrive(self, markers: _Unanswered) -> bool:
        age = asyncio.get_running_loop().time() - markers.began
        return age < RELIED_ON_AFTER and markers.term == self._dependencies.unfinished.term

    def forget(self, *, but: Container[PvName]) -> None:
        """Forget all others."""
        for name in [name for name in self._runs if name not in but]:
            self.ended(name)
        self._unanswered = {
            name: markers for name, markers in self._unanswered.items() if self._may_arrive(markers)
        }
