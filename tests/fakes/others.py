"""The small ports in memory: who leads, what is reported to users and metrics."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from linstor_affinity_events.model.volume import Volume


@dataclass(slots=True)
class FakeLeadership:
    """Implements engine.ports.Leadership."""

    leading: bool = True
    exclusive: bool = True

    lease_is_another: bool = False
    """Whether others have written the Lease, which this instance has not noticed yet."""

    async def confirmed(self) -> bool:
        return self.leading and not self.lease_is_another


@dataclass(slots=True)
class FakeNotices:
    """Implements engine.ports.Notices."""

    informed: list[tuple[str, str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str, str]] = field(default_factory=list)
    reminders: list[int] = field(default_factory=list)
    """The number of each warning."""

    def inform(self, volume: Volume, reason: str, text: str) -> None:
        self.informed.append((volume.name, reason, text))

    def warn(self, volume: Volume, reason: str, why: str, *, reminder: int = 0) -> None:
        self.warnings.append((volume.name, reason, why))
        self.reminders.append(reminder)


GAUGES = frozenset({"absent", "stuck", "deferred", "unfinished"})


@dataclass(slots=True)
class FakeTelemetry:
    """Implements engine.ports.Telemetry; counts what is reported to it under readable names."""

    counted: Counter[str] = field(default_factory=Counter)
    now: dict[str, int] = field(default_factory=dict)

    def decision(self, kind: str, reason: str) -> None:
        self.counted[f"decision {kind} {reason}".rstrip()] += 1

    def changed(
        self, how: str, outcome: str, took: float, since_trigger: float, trigger: str
    ) -> None:
        self.counted[f"changed {how} {outcome}"] += 1
        if how != "resume":
            self.counted[f"triggered by {trigger}"] += 1

    def drift_without_event(self, cause: str) -> None:
        self.counted[f"drift {cause}"] += 1

    def fully_reconciled(self, cause: str, took: float, volumes: int, *, bulk: bool) -> None:
        self.counted["full reconcile in bulk" if bulk else "full reconcile one by one"] += 1

    def census(self, found: Mapping[tuple[str, str], int]) -> None:
        gauges = {key: self.now[key] for key in GAUGES & self.now.keys()}
        self.now = {" ".join(key).rstrip(): number for key, number in found.items()} | gauges

    def deferred(self, found: Mapping[str, int]) -> None:
        self.now["deferred"] = sum(found.values())

    def unfinished(self, replacements: int) -> None:
        self.now["unfinished"] = replacements

    def absent(self, volumes: int) -> None:
        self.now["absent"] = volumes

    def stuck(self, volumes: int) -> None:
        self.now["stuck"] = volumes

    def volume_controller_timed_out(self) -> None:
        self.counted["volume controller timed out"] += 1

    def claim_lost(self) -> None:
        self.counted["claim lost"] += 1

    def read_from_bulk(self) -> None:
        self.counted["batched reconciles"] += 1

    def reconcile_failed(self, kind: str) -> None:
        self.counted[f"failed {kind}"] += 1

    def full_reconcile_failed(self, kind: str) -> None:
        self.counted[f"failed full reconcile {kind}"] += 1
