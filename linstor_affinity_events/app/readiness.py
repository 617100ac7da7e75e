"""Whether the service is ready, for `/readyz` and the status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linstor_affinity_events.adapters.kubernetes.election import LeaseElection
from linstor_affinity_events.adapters.kubernetes.informer import Informer
from linstor_affinity_events.app.event_sources import EventSources
from linstor_affinity_events.engine.engine import Engine
from linstor_affinity_events.engine.ports import Leadership


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Collects the failures of what the service depends on."""

    engine: Engine
    informers: Mapping[str, Informer]
    election: Leadership
    sources: EventSources
    streams: Sequence[str]
    """The names of LINSTOR's event streams."""

    def failures(self) -> Mapping[str, str]:
        """What keeps the service from working, by component; empty if it is ready."""
        against = {
            f"kubernetes {name}": informer.failure
            for name, informer in self.informers.items()
            if informer.failure is not None
        }
        if self.engine.full_reconciler.failure is not None:
            against["linstor"] = self.engine.full_reconciler.failure
        for name in self.streams:
            if not self.engine.streams.state(name).up:
                against[f"linstor {name} stream"] = "not connected"
        if isinstance(self.election, LeaseElection) and self.election.failure is not None:
            against["lease"] = self.election.failure
        if self.sources.database_failure is not None:
            against["LINSTOR's database in Kubernetes"] = self.sources.database_failure
        return against
