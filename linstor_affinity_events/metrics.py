"""Metrics for Prometheus, with the descriptions that /metrics shows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from linstor_affinity_events.engine.streams import Streams

_PREFIX = "linstor_affinity"
_LATENCY = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 75)
_FULL_RECONCILE = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True, slots=True)
class Description:
    """One metric. `name` is without the prefix, and without `_total` for a counter."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def gauge(self) -> str:
        return f"{_PREFIX}_{self.name}"

    @property
    def counter(self) -> str:
        return f"{_PREFIX}_{self.name}_total"


COUNTERS = (
    Description(
        "decisions",
        "Decisions, each time that a volume is checked: in_sync, change, deferred, "
        "refused, skipped or resume, and the reason.",
        ("decision", "reason"),
    ),
    Description(
        "changes",
        "Attempts to change the node affinity of a volume, by method (patch, replace, or resume of "
        "an interrupted replacement) and outcome.",
        ("method", "outcome"),
    ),
    Description(
        "changes_by_trigger",
        "Updated volumes by what triggered the update: an event stream, or none if a full "
        "reconcile found the change and no event was received.",
        ("trigger",),
    ),
    Description(
        "drift_without_event",
        "Volumes with a wrong node affinity that a full reconcile found and for which no event was "
        "received, by what started the full reconcile.",
        ("cause",),
    ),
    Description(
        "claims_lost",
        "PersistentVolumeClaims that were seen in phase Lost during a replacement, although their "
        "volume was recreated.",
    ),
    Description(
        "volume_controller_timeouts",
        "Replacements for which the PersistentVolume controller (kube-controller-manager) did not "
        "set the deleted volume to Released within --claim-guard-timeout. They continued, and the "
        "claim may have been Lost for a moment.",
    ),
    Description(
        "batched_reconciles",
        "Reconciles served by a bulk read of all resources in LINSTOR, rather than by requests of "
        "their own.",
    ),
    Description(
        "reconcile_errors",
        "Failed reconciles, by kind of error. Each is retried. The error "
        "Unexpected is a defect of this service: please report it.",
        ("error",),
    ),
    Description(
        "full_reconcile_errors",
        "Failed full reconciles, by kind of error. Each is retried.",
        ("error",),
    ),
)

HISTOGRAMS = {
    Description(
        "trigger_to_update_seconds",
        "Time from the first event about a change in LINSTOR until the PersistentVolume has the "
        "correct node affinity, by trigger (the event stream). Trigger none: no event was "
        "received, and the time counts from when a full reconcile found the change.",
        ("trigger",),
    ): _LATENCY,
    Description(
        "change_seconds",
        "Time to patch or replace one PersistentVolume, without waiting in the queue.",
        ("method",),
    ): _LATENCY,
    Description(
        "full_reconcile_seconds",
        "Duration of successful full reconciles. bulk is no if LINSTOR could not return all "
        "resources at once and they were read one by one.",
        ("bulk",),
    ): _FULL_RECONCILE,
}

GAUGES = (
    Description(
        "last_full_reconcile_timestamp_seconds",
        "Unix time when the last full reconcile completed. 0 before the first one.",
    ),
    Description(
        "volumes",
        "Volumes by what the last full reconcile decided to do with them, and why.",
        ("decision", "reason"),
    ),
    Description(
        "volumes_deferred",
        "Volumes whose node affinity is wrong and could not be updated for more "
        "than three minutes, by reason. Each is retried.",
        ("reason",),
    ),
    Description(
        "replacements_unfinished",
        "Replacements that have been unfinished for more than three minutes. Each is retried; the "
        "PersistentVolume may be absent meanwhile.",
    ),
    Description(
        "volumes_absent",
        "PersistentVolumes that were deleted for a replacement and are not recreated yet, normally "
        "for milliseconds.",
    ),
    Description(
        "volumes_stuck",
        "PersistentVolumes that were deleted for a replacement and are absent because Kubernetes "
        "rejects the new ones. Each is retried; the log has the rejection. Their data is safe.",
    ),
)

READ_GAUGES = (
    Description("queue_depth", "LINSTOR resources waiting to be reconciled."),
    Description(
        "queue_oldest_seconds",
        "Age of the oldest trigger that has not been reconciled yet, in seconds. 0 if none is "
        "waiting.",
    ),
    Description("workers_busy", "Workers that are reconciling a resource now."),
    Description("changes_in_flight", "Volumes being changed now."),
    Description(
        "change_concurrency_limit",
        "Maximum number of volumes changed concurrently now: --workers, lowered "
        "automatically while the PersistentVolume controller "
        "(kube-controller-manager) or the API server is the bottleneck.",
    ),
    Description("leader", "Whether this instance is the leader (1) or not (0)."),
    Description("known_volumes", "PersistentVolumes of LINSTOR's CSI driver in this cluster."),
    Description(
        "volumes_held_back",
        "Volumes that are not changed for now because their last change had another result than "
        "requested, or because they were changed too often. Each is retried after a growing delay.",
    ),
    Description(
        "kubernetes_events_dropped", "Kubernetes Events that could not be sent since the start."
    ),
)
"""Gauges that are read from the other components at each scrape."""

STREAM_UP = Description(
    "stream_up", "Whether an event stream is connected (1) or not (0).", ("stream",)
)
STREAM_CONNECTS = Description(
    "stream_connects",
    "Connections made to an event stream; more than one means that it was interrupted.",
    ("stream",),
)
STREAM_EVENTS = Description(
    "stream_events",
    "Events received from LINSTOR, by stream (promotion, nodes or database).",
    ("stream",),
)


def described() -> list[tuple[str, str, Description]]:
    """All metrics of this service with their names and types, for the documentation."""
    return [
        *((each.counter, "counter", each) for each in COUNTERS),
        *((each.gauge, "histogram", each) for each in HISTOGRAMS),
        *((each.gauge, "gauge", each) for each in (*GAUGES, *READ_GAUGES)),
        (STREAM_UP.gauge, "gauge", STREAM_UP),
        *((each.counter, "counter", each) for each in (STREAM_CONNECTS, STREAM_EVENTS)),
    ]


class _StreamMetrics(Collector):
    """The state of the event streams, read at each scrape."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(STREAM_UP.gauge, STREAM_UP.help, labels=STREAM_UP.labels)
        connects, events = (
            CounterMetricFamily(f"{_PREFIX}_{each.name}", each.help, labels=each.labels)
            for each in (STREAM_CONNECTS, STREAM_EVENTS)
        )
        for name, state in self._streams.known.items():
            up.add_metric([name], state.up)
            connects.add_metric([name], state.connects)
            events.add_metric([name], state.events)
        return iter((up, connects, events))


class Metrics:
    """Implements engine.ports.Telemetry."""

    def __init__(self, streams: Streams) -> None:
        # Prometheus records when each series began; `_created` would double their number.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_StreamMetrics(streams))
        self._counters = {
            each.name: Counter(
                each.name, each.help, each.labels, namespace=_PREFIX, registry=registry
            )
            for each in COUNTERS
        }
        self._histograms = {
            each.name: Histogram(
                each.name,
                each.help,
                each.labels,
                namespace=_PREFIX,
                registry=registry,
                buckets=buckets,
            )
            for each, buckets in HISTOGRAMS.items()
        }
        self._gauges = {
            each.name: Gauge(
                each.name, each.help, each.labels, namespace=_PREFIX, registry=registry
            )
            for each in (*GAUGES, *READ_GAUGES)
        }
        # Prometheus' increase() misses the first event of a counter that appears with it.
        self._counters["drift_without_event"].labels("period")
        self._counters["reconcile_errors"].labels("Unexpected")
        self._counters["full_reconcile_errors"].labels("LoginRefused")

    def read(self, gauges: Mapping[str, Callable[[], float]]) -> None:
        """Have each of READ_GAUGES read by a function at each scrape."""
        for each in READ_GAUGES:
            self._gauges[each.name].set_function(gauges[each.name])

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))

    def decision(self, kind: str, reason: str) -> None:
        self._counters["decisions"].labels(kind, reason).inc()

    def changed(
        self, how: str, outcome: str, took: float, since_trigger: float, trigger: str
    ) -> None:
        self._counters["changes"].labels(how, outcome).inc()
        self._histograms["change_seconds"].labels(how).observe(took)
        if how == "resume":
            return
        self._counters["changes_by_trigger"].labels(trigger).inc()
        if outcome in {"done", "recreated_with_retain"}:
            self._histograms["trigger_to_update_seconds"].labels(trigger).observe(since_trigger)

    def drift_without_event(self, cause: str) -> None:
        self._counters["drift_without_event"].labels(cause).inc()

    def fully_reconciled(self, cause: str, took: float, volumes: int, *, bulk: bool) -> None:
        del cause, volumes
        self._histograms["full_reconcile_seconds"].labels("yes" if bulk else "no").observe(took)
        self._gauges["last_full_reconcile_timestamp_seconds"].set_to_current_time()

    def census(self, found: Mapping[tuple[str, str], int]) -> None:
        gauge = self._gauges["volumes"]
        gauge.clear()
        for labels, number in found.items():
            gauge.labels(*labels).set(number)

    def deferred(self, found: Mapping[str, int]) -> None:
        gauge = self._gauges["volumes_deferred"]
        gauge.clear()
        for reason, number in found.items():
            gauge.labels(reason).set(number)

    def unfinished(self, replacements: int) -> None:
        self._gauges["replacements_unfinished"].set(replacements)

    def absent(self, volumes: int) -> None:
        self._gauges["volumes_absent"].set(volumes)

    def stuck(self, volumes: int) -> None:
        self._gauges["volumes_stuck"].set(volumes)

    def claim_lost(self) -> None:
        self._counters["claims_lost"].inc()

    def volume_controller_timed_out(self) -> None:
        self._counters["volume_controller_timeouts"].inc()

    def read_from_bulk(self) -> None:
        self._counters["batched_reconciles"].inc()

    def reconcile_failed(self, kind: str) -> None:
        self._counters["reconcile_errors"].labels(kind).inc()

    def full_reconcile_failed(self, kind: str) -> None:
        self._counters["full_reconcile_errors"].labels(kind).inc()
