"""What a step of a replacement is chosen from, beside the journal entry."""

from dataclasses import dataclass

from linstor_affinity_events.model.demands import Original
from linstor_affinity_events.model.manifest import Manifest
from linstor_affinity_events.model.names import PvName, Uid
from linstor_affinity_events.model.policy import StorageClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Volume, claim and journal entry as last observed, and what this instance knows beside them.
    A new observation keeps nothing of the one before.
    """

    pv: Manifest | None
    """The volume of that name; None if there is none."""

    claim: Manifest | None = None
    claim_known: bool = False
    """Whether the claim was read."""

    guard_over: bool = False
    """Whether the time for the binder to write the phase is over."""

    taken: bool = True
    """Whether the journal entry names this instance as its holder."""

    entry_is_new: bool = False
    """Whether the journal entry was created for exactly this observation."""

    claim_ref_immutable: bool = False
    """Whether the API server rejected a change of the claimRef."""

    cannot_merge: bool = False
    """Whether an entry with what others changed meanwhile was rejected."""

    deleted_by_others: bool = False
    """Whether this instance saw that another client deleted the volume before it was marked."""

    original: Original | None = None
    """The volume being replaced, as this instance observed it."""

    storage_class: StorageClass | None = None
    """The StorageClass of the volume, if it may confirm what the volume demands."""

    others: tuple[PvName, ...] = ()
    """The other volumes for the same LINSTOR volume, if this one is absent; if it was observed to
    be its claim's own, only those that claims use or may use.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run knows of itself, whatever it observes."""

    holder: str = ""
    """The name of this instance, which it writes into journal entries and on the volume."""

    allowed_finalizers: tuple[str, ...] = ()
    """Patterns of further finalizers that a volume in replacement may have."""

    begun: bool = False
    """Whether this run began the replacement, or continues one that this instance began: then it
    knows what the journal entry says, whoever rewrites it.
    """

    marked: bool = False
    """Whether it has marked the volume."""

    deletion_requested: bool = False
    """Whether a deletion that it requested may have taken effect."""

    created: Uid | None = None
    """The uid of the new volume that it created."""

    came_back: bool = False
    """Whether it has seen a later incarnation of the volume, whoever created that: if it is absent,
    another client deleted it.
    """

    retained_in_doubt: bool = False
    """Whether it has had the entry ask for policy Retain because nothing shows what the volume had.
    """

    uninterrupted: bool = False
    """Whether everything happened in this run, within a minute: nobody can have relied on the
    replacement markers in between.
    """

    led_throughout: bool = False
    """Whether this instance began the replacement, and none but it has led since: it knows the
    volume as it was before the markers, and no other instance has had it deleted.
    """

    @property
    def deletion_may_be_ours(self) -> bool:
        """Whether a deletion that this service requested may have taken effect, as far as is known.
        A run that another one may have preceded does not know whether that one requested it.
        """
        return self.deletion_requested or not self.begun

    @property
    def original_known(self) -> bool:
        """Whether this instance knows the volume as it was, whatever entry and markers say."""
        return self.uninterrupted or self.led_throughout
