"""A PersistentVolume of our driver, reduced to what decisions need.

Small on purpose: one is kept for each volume of the cluster. A replacement reads the whole
manifest again (see manifest.py).
"""

from dataclasses import dataclass

from linstor_affinity_events.model.affinity import Affinity
from linstor_affinity_events.model.keys import VolumeKey
from linstor_affinity_events.model.names import ClaimName, PvName, Uid
from linstor_affinity_events.model.policy import PolicyReading


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One PersistentVolume, as last reported by the API server."""

    name: PvName
    uid: Uid
    handle: str
    key: VolumeKey | None
    """None if the handle is not valid."""

    affinity: Affinity
    created_at: float
    """Seconds since the epoch, by the API server's clock."""

    phase: str = "Bound"
    terminating: bool = False
    marked: bool = False
    """Has our finalizer or, unless it is being deleted, our annotation: an instance is, or was,
    replacing it.
    """

    made_by_us: bool = False
    skip: bool = False
    claim: ClaimName | None = None
    storage_class: str = ""
    override: PolicyReading | None = None
    """The widest policy of all override annotations."""

    override_names: tuple[str, ...] = ()
    """The override annotations, in order."""

    context: PolicyReading | None = None
    """The policy that linstor-csi wrote into the volume attributes at creation."""

    @property
    def in_use(self) -> bool:
        """Whether a claim uses it. One that was never bound, or is Released or Failed, waits for a
        user and conflicts with nothing.
        """
        if self.phase in {"Released", "Failed"}:
            return False
        return self.phase == "Bound" or (self.claim is not None and bool(self.claim.uid))

    def same_inputs(self, other: "Volume") -> bool:
        """Whether decisions about both are the same, apart from incarnation and age."""
        return (
            self.key == other.key
            and self.affinity == other.affinity
            and self.terminating == other.terminating
            and self.phase == other.phase
            and self.claim == other.claim
            and self.skip == other.skip
            and self.storage_class == other.storage_class
            and self.override == other.override
            and self.context == other.context
        )
