"""How far a replacement has come, and how a run of it ends."""

from dataclasses import dataclass, replace

from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import (
    Manifest,
    is_terminating,
    skip_reclaim_of,
    uid_of,
    version_of,
)
from linstor_affinity_events.model.markers import Before, has_any_marker
from linstor_affinity_events.model.observation import Observation, RunFacts
from linstor_affinity_events.model.steps import LeaveAlone, Outcome, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A replacement between two steps. What comes next: a new observation if the last one is
    `outdated`, else the step `then`, else the rollback if it was `rejected`, else the next step of
    the order.
    """

    entry: JournalEntry
    observation: Observation
    run: RunFacts

    own: bool = False
    """Whether everything so far was done in this run."""

    dry_run_result: Manifest | None = None
    """What a dry run has shown that Kubernetes would create, if this run began it."""

    tried: JournalEntry | None = None
    """The entry that this run tried to write last, without version: it may be stored."""

    seen_version: str = ""
    """The version of the volume as this run, or the one that it continues, has seen it last."""

    marked_version: str = ""
    """The version of the volume that this run's mark has made."""

    mark_unanswered: bool = False
    """Whether markers that this run requested may still be set, whenever that request arrives."""

    deletion_version: str = ""
    """The version of the volume that this run requested to delete, unless it is sure that this has
    no effect.
    """

    deletion_unanswered: bool = False
    """Whether a deletion that this run requested may still take effect."""

    deletion_accepted: bool = False
    """Whether the API server has accepted such a request: then nobody else has deleted the volume,
    whatever others do to its markers or its entry.
    """

    deleting_version: str = ""
    """The version of the entry with which this run, before any other, is about to delete."""

    removed: bool = False
    """Whether a release of the finalizers that this run requested may have taken effect, or, if it
    began the replacement, the volume was seen to be removed.
    """

    removal_requested: bool = False
    """Whether this run has requested that release: what it has not, another instance may have done.
    """

    asked_for: Manifest | None = None
    """What this run created the volume from."""

    claim_before: Manifest | None = None
    """The claim as last read before the volume was removed."""

    different: tuple[str, ...] = ()
    """The parts of the new volume that differ from what was requested."""

    outdated: bool = False
    """Whether the last observation may be outdated."""

    then: Step | None = None
    """The next step, if the last result decided it."""

    rejected: Refused | None = None
    """Why Kubernetes does not let this replacement begin, while it is rolled back."""

    steps: int = 0
    conflicts: int = 0
    failures: int = 0

    def taking(self, entry: JournalEntry) -> JournalEntry:
        """The entry with our name as holder, so that others see who continues."""
        return replace(entry, holder=self.run.holder)

    @property
    def original_values(self) -> Before:
        """Reclaim policy and skip-reclaim of the volume before it was marked."""
        return self.entry.policy, skip_reclaim_of(self.entry.wanted)


@dataclass(frozen=True, slots=True)
class Finished:
    """The replacement has ended; with None, another instance has ended it."""

    progress: Progress
    outcome: Outcome | LeaveAlone | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The replacement can't go on in this run. A later reconcile starts again."""

    progress: Progress
    error: Again | Refused
    stuck: bool = False
    """Whether the volume may be absent until Kubernetes accepts what it rejects."""

    blocking: bool = False
    """Whether it is so because of this service alone: no other replacement begins before."""

    rolled_back: bool = False
    """Whether nothing of the replacement is left."""


def begin(
    entry: JournalEntry, observation: Observation, *, holder: str, own: bool = False
) -> Progress:
    """The progress of a replacement that this run begins (`own`), or continues."""
    return Progress(
        entry=entry,
        observation=observation,
        run=RunFacts(holder=holder, begun=own),
        own=own,
        dry_run_result=entry.wanted,
        tried=replace(entry, version=""),
        seen_version="" if observation.pv is None else version_of(observation.pv),
    )


def continued(progress: Progress) -> Progress:
    """The progress of a later run that continues one which this instance began. Others may have
    relied on the replacement markers in between.
    """
    return replace(progress, own=False, outdated=True, then=None, steps=0, conflicts=0, failures=0)


def having_come_back(progress: Progress) -> Progress:
    """The progress of a run whose watch has seen a later incarnation of its volume: if it is not
    known yet, it observes again, since that one may be there.
    """
    if progress.run.came_back:
        return progress
    return replace(progress, run=replace(progress.run, came_back=True), outdated=True)


def having_seen(progress: Progress, pv: Manifest | None) -> Progress:
    """The progress of a run that sees its volume like this. If it is live in another version than
    the one that the run requested to delete, that has no effect any more; if it is live without any
    marker, another client, or instance, has undone what the run did.
    """
    run = progress.run
    if pv is None:
        return progress
    if uid_of(pv) != progress.entry.uid:
        return replace(progress, run=replace(run, came_back=True))
    live, version = not is_terminating(pv), version_of(pv)
    progress = replace(progress, seen_version=version)
    marked = run.marked and not (live and not has_any_marker(pv))
    if live and progress.deletion_version not in {"", version}:
        run = replace(run, came_back=False, marked=marked, deletion_requested=False)
        return replace(progress, run=run, deletion_version="", deletion_unanswered=False)
    if (run.came_back, run.marked) == (False, marked):
        return progress
    return replace(progress, run=replace(run, came_back=False, marked=marked))
