"""The steps of a replacement, and how one ends."""

from dataclasses import dataclass
from enum import StrEnum

from linstor_affinity_events.model.journal_entry import JournalEntry
from linstor_affinity_events.model.manifest import Manifest, Patch


class Outcome(StrEnum):
    """How a replacement ended; stable, for metrics."""

    DONE = "done"
    RECREATED_WITH_RETAIN = "recreated_with_retain"
    """The volume exists with policy Retain: who may have its data could not be confirmed."""
    SUPERSEDED = "superseded"
    """The journal entry no longer applied; the volume was not changed."""
    ROLLED_BACK = "rolled_back"
    """Our replacement markers were removed: the volume had changed meanwhile."""
    DELETED_BY_USER = "deleted_by_user"
    """A user deleted the volume before we did; the deletion completes as they wanted."""


OUTCOMES = {
    Outcome.DONE: "the volume exists: this service recreated it with the new node affinity",
    Outcome.RECREATED_WITH_RETAIN: (
        "the volume exists with reclaim policy Retain, which keeps its data: its claim or its "
        "options could not be confirmed"
    ),
    Outcome.SUPERSEDED: (
        "the journal entry was outdated or gone, so nothing was done: this service had not "
        "deleted the volume, or another instance or client has recreated it. Its node affinity "
        "is checked next"
    ),
    Outcome.ROLLED_BACK: (
        "the volume exists: it was not deleted, because another client had changed it, and is as "
        "it was before the replacement. Its node affinity is checked next"
    ),
    Outcome.DELETED_BY_USER: (
        "another client deleted the volume, so this service does not recreate it"
    ),
}
"""Each outcome in words."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Make the deletion harmless: Retain, skip-reclaim and our finalizer."""

    patch: Patch


@dataclass(frozen=True, slots=True)
class Save:
    """Save the journal entry before any write that it must survive."""

    entry: JournalEntry


@dataclass(frozen=True, slots=True)
class MarkAndSave:
    """Both concurrently. An entry for a live volume without our markers is dropped, and markers
    without entry are removed. If another instance drops the entry before the markers arrive, this
    run writes it again once it finds that it is gone.
    """

    patch: Patch
    entry: JournalEntry


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly the observed incarnation and version."""


@dataclass(frozen=True, slots=True)
class DetachClaimRef:
    """Let the claimRef name a tombstone, so that the binder releases the real claim."""

    patch: Patch


@dataclass(frozen=True, slots=True)
class AwaitBinder:
    """Wait until the binder has written that the volume is no longer Bound."""


@dataclass(frozen=True, slots=True)
class ReadClaim:
    """Read the claim: how the volume is recreated depends on it."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Release the finalizers of the terminating volume."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create the replacement."""

    body: Manifest


@dataclass(frozen=True, slots=True)
class Unmark:
    """Remove our replacement markers."""

    patch: Patch
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete the journal entry."""

    outcome: Outcome
    verified: bool = False
    """Whether there is nothing to verify before: the volume was not deleted."""

    @property
    def recreated(self) -> bool:
        """Whether the volume exists again, as the entry asked for."""
        return self.outcome in {Outcome.DONE, Outcome.RECREATED_WITH_RETAIN}


@dataclass(frozen=True, slots=True)
class Observe:
    """Read the volume and its journal entry again."""


@dataclass(frozen=True, slots=True)
class UnmarkWithoutEntry:
    """Remove our replacement markers from a live volume whose journal entry is gone."""


@dataclass(frozen=True, slots=True)
class LeaveAlone:
    """Neither follow nor drop the entry: a person has to decide."""

    why: str


Step = (
    Mark
    | Save
    | MarkAndSave
    | Delete
    | DetachClaimRef
    | AwaitBinder
    | ReadClaim
    | Remove
    | Create
    | Unmark
    | Drop
    | Observe
    | UnmarkWithoutEntry
    | LeaveAlone
)
