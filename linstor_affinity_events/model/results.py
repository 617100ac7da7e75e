"""What the steps of a replacement return, as values: `advance` decides what each of them means."""

from dataclasses import dataclass

from linstor_affinity_events.errors import Again, Refused
from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.steps import LeaveAlone, Outcome


@dataclass(frozen=True, slots=True)
class Written:
    """The volume as the API server returned it; None if it is gone."""

    pv: Manifest | None


@dataclass(frozen=True, slots=True)
class Saved:
    """The journal entry as stored."""

    entry: JournalEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedAndSaved:
    """What is known of two requests that were sent concurrently."""

    pv: Manifest | None
    """The marked volume; None if that request failed."""

    entry: JournalEntry | None
    """The journal entry as stored; None if that request failed."""

    error: Again | Refused | None
    """Why one of them failed; if one failed in a way in which it may have taken effect, that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinderAwaited:
    """The wait for the binder is over."""

    pv: Manifest | None
    """The volume that it released; None if it is gone, or if the time was over first."""

    in_time: bool
    claim: Manifest | None
    fresh: bool
    """Whether the claim was read a moment ago, and is at rest."""


@dataclass(frozen=True, slots=True)
class ClaimRead:
    """The claim as it is now; None if there is none."""

    claim: Manifest | None


@dataclass(frozen=True, slots=True)
class Postponed:
    """The removal was held back for a while, so the claim as last read is outdated."""

    restored: bool = False
    """Whether the volume is outdated too, since the binder restored its claimRef meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recreated:
    """The old volume was removed, or was absent, and this was asked for; None if not created."""

    pv: Manifest | None
    asked_for: Manifest


@dataclass(frozen=True, slots=True)
class Dropped:
    """The journal entry is deleted."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The volume and its journal entry as they are now."""

    pv: Manifest | None
    entry: JournalEntry | None
    first_hand: bool = False
    """Whether no other instance may have led since this run began, or only for a moment."""

    leads: bool = True
    """Whether this instance leads: if not, another one may have deleted the volume."""

    leads_since_run_began: bool = False
    """Whether this instance has led since this run began, and no other one in between."""

    deleted_by_others: bool = False
    """Whether this instance saw that another client deleted this volume before it was marked."""

    exclusive: bool = True
    """Whether none leads beside it; not without an election."""


@dataclass(frozen=True, slots=True)
class Done:
    """There is nothing more to do."""

    outcome: Outcome | LeaveAlone


@dataclass(frozen=True, slots=True)
class Failure:
    """The step raised this error, and may have taken effect."""

    error: Again | Refused


Result = (
    Written
    | Saved
    | MarkedAndSaved
    | BinderAwaited
    | ClaimRead
    | Postponed
    | Recreated
    | Dropped
    | Observed
    | Done
    | Failure
)
