"""What operators may configure of the engine."""

from dataclasses import dataclass

from linstor_affinity_events.model.affinity import NO_AFFINITY, NodeAffinity
from linstor_affinity_events.model.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """All times are in seconds."""

    changes_at_once: int = 10
    readers: int = 10
    grace: float = 10.0
    """How long a new volume is left to the driver that created it."""

    default_policy: Policy | None = None
    everywhere: NodeAffinity = NO_AFFINITY
    """The affinity of volumes that any node may use."""

    guard_timeout: float = 2.0
    """How long to wait for an unresponsive volume binder."""

    allowed_finalizers: tuple[str, ...] = ()
    take_over_saved_volumes: bool = True
    full_reconcile_every: float = 60.0
    """Interval of full reconciles."""

    full_reconcile_timeout: float = 60.0
    """Timeout of a full reconcile."""

    poll_every: float = 10.0
