"""What all replacement runs of an instance share."""

from collections.abc import Callable
from dataclasses import dataclass

from linstor_affinity_events.engine.backoff import Backoff
from linstor_affinity_events.engine.claim_guard import ClaimGuard
from linstor_affinity_events.engine.lost_claims import LostClaims
from linstor_affinity_events.engine.ports import Index, Journal, Leadership, Volumes
from linstor_affinity_events.engine.preemption import Preemption
from linstor_affinity_events.engine.unfinished import Unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDependencies:
    """What all replacement runs of this instance share."""

    volumes: Volumes
    index: Index
    journal: Journal
    guard: ClaimGuard
    lost_claims: LostClaims
    unfinished: Unfinished
    preemption: Preemption
    delays: Callable[[], Backoff]
    leadership: Leadership

    allowed_finalizers: tuple[str, ...]
    holder: str
    """The name that this instance writes into journal entries."""
