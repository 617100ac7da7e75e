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
    """One metric, as the documentation lists it."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


GAUGES = {
    "queue_depth": "LINSTOR resources waiting to be reconciled.",
    "queue_oldest_seconds": "Age of the oldest trigger that has not been reconciled yet, in "
    "seconds. 0 if none is waiting.",
    "workers_busy": "Workers that are reconciling a resource now.",
    "changes_in_flight": "Volumes being changed now.",
    "change_concurrency_limit": "Maximum number of volumes changed concurrently now: --workers, "
    "lowered automatically while more would only wait for the PersistentVolume controller "
    "(kube-controller-manager) or the API server.",
    "leader": "Whether this instance is the leader (1) or not (0).",
    "known_volumes": "PersistentVolumes of LINSTOR's CSI driver in this cluster.",
    "volumes_held_back": "Volumes that are not changed for now because their last change had "
    "another result than requested, or because they were changed too often. Each is retried after "
    "a growing delay.",
    "kubernetes_events_dropped": "Kubernetes Events that could not be sent since the start.",
}
"""Gauges that are read from the other components at each scrape."""

_STREAM_METRICS = (
    ("stream_up", "gauge", "Whether an event stream is connected (1) or not (0)."),
    (
        "stream_connects",
        "counter",
        "Connections made to an event stream; more than one means that it was interrupted.",
    ),
    ("stream_events", "counter", "Events received, by stream."),
)


class _StreamMetrics(Collector):
    """The state of the event streams, read at each scrape."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        (up_name, _, up_help), (connects_name, _, connects_help), (events_name, _, events_help) = (
            _STREAM_METRICS
        )
        up = GaugeMetricFamily(f"{_PREFIX}_{up_name}", up_help, labels=["stream"])
        connects = CounterMetricFamily(
            f"{_PREFIX}_{connects_name}", connects_help, labels=["stream"]
        )
        events = CounterMetricFamily(f"{_PREFIX}_{events_name}", events_help, labels=["stream"])
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
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_StreamMetrics(streams))
        self.described: list[Description] = []
        """All metrics of this service, for the documentation."""
        self._decisions = self._counter(
            "decisions", "Decisions made about volumes.", "decision", "reason"
        )
        self._changes = self._counter(
            "changes",
            "Attempts to change the node affinity of a volume, by method (patch, replace, or "
            "resume of an interrupted replacement) and outcome.",
            "method",
            "outcome",
        )
        self._latency = self._histogram(
            "trigger_to_update_seconds",
            "Time from the first event about a change in LINSTOR until the PersistentVolume has "
            "the correct node affinity, by trigger (the event stream). Trigger none: no event was "
            "received, and the time counts from when a full reconcile found the change.",
            _LATENCY,
            "trigger",
        )
        self._triggers = self._counter(
            "changes_by_trigger",
            "Updated volumes by what triggered the update: an event stream, or none if a full "
            "reconcile found the change and no event was received.",
            "trigger",
        )
        self._change_time = self._histogram(
            "change_seconds",
            "Time to patch or replace one PersistentVolume, without waiting in the queue.",
            _LATENCY,
            "method",
        )
        self._drift = self._counter(
            "drift_without_event",
            "Volumes with a wrong node affinity that a full reconcile found and for which no event "
            "was received, by what started the full reconcile.",
            "cause",
        )
        self._full_reconciles = self._histogram(
            "full_reconcile_seconds",
            "Duration of successful full reconciles. bulk is no if LINSTOR could not return all "
            "resources at once and they were read one by one.",
            _FULL_RECONCILE,
            "bulk",
        )
        self._last_full_reconcile = self._gauge(
            "last_full_reconcile_timestamp_seconds",
            "Unix time when the last full reconcile completed. 0 before the first one.",
        )
        self._volumes = self._gauge(
            "volumes",
            "Volumes by decision and reason, as of the last full reconcile.",
            "decision",
            "reason",
        )
        self._deferred = self._gauge(
            "volumes_deferred",
            "Volumes whose node affinity has been waiting to be updated for more than three "
            "minutes, by reason.",
            "reason",
        )
        self._unfinished = self._gauge(
            "replacements_unfinished",
            "Replacements that have been unfinished for more than three minutes.",
        )
        self._absent = self._gauge(
            "volumes_absent",
            "PersistentVolumes that were deleted for a replacement and are not recreated yet.",
        )
        self._stuck = self._gauge(
            "volumes_stuck",
            "PersistentVolumes that were deleted for a replacement and whose recreation Kubernetes "
            "rejects. Their data is safe.",
        )
        self._lost = self._counter(
            "claims_lost",
            "PersistentVolumeClaims that were seen in phase Lost during a replacement, although "
            "their volume was recreated.",
        )
        self._controller_timeouts = self._counter(
            "volume_controller_timeouts",
            "Replacements for which the PersistentVolume controller (kube-controller-manager) did "
            "not respond within --claim-guard-timeout.",
        )
        self._batched = self._counter(
            "batched_reconciles", "Reconciles served by a bulk read of all resources."
        )
        self._errors = self._counter(
            "reconcile_errors",
            "Failed reconciles, by kind of error. Each is retried. Unexpected: an error in this "
            "service; please report it.",
            "error",
        )
        self._full_reconcile_errors = self._counter(
            "full_reconcile_errors",
            "Failed full reconciles, by kind of error. Each is retried.",
            "error",
        )

        # Prometheus' increase() misses the first event of a counter that appears with it.
        self._drift.labels("period")
        self._errors.labels("Unexpected")
        self._full_reconcile_errors.labels("LoginRefused")

        self._read = {name: self._gauge(name, text) for name, text in GAUGES.items()}
        for name, kind, text in _STREAM_METRICS:
            self._describe(name, kind, text, ("stream",))

    def _describe(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> None:
        ending = "_total" if kind == "counter" else ""
        self.described.append(Description(f"{_PREFIX}_{name}{ending}", kind, labels, text))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._describe(name, "counter", text, labels)
        return Counter(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._describe(name, "gauge", text, labels)
        return Gauge(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        self._describe(name, "histogram", text, labels)
        return Histogram(
            name, text, labels, namespace=_PREFIX, registry=self.registry, buckets=buckets
        )

    def read(self, gauges: Mapping[str, Callable[[], float]]) -> None:
        """Have each of GAUGES read by a function at each scrape."""
        for name, gauge in self._read.items():
            gauge.set_function(gauges[name])

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))

    def decision(self, kind: str, reason: str) -> None:
        self._decisions.labels(kind, reason).inc()

    def changed(
        self, how: str, outcome: str, took: float, since_trigger: float, trigger: str
    ) -> None:
        self._changes.labels(how, outcome).inc()
        self._change_time.labels(how).observe(took)
        if how == "resume":
            return
        self._triggers.labels(trigger).inc()
        if outcome in {"done", "recreated_with_retain"}:
            self._latency.labels(trigger).observe(since_trigger)

    def drift_without_event(self, cause: str) -> None:
        self._drift.labels(cause).inc()

    def fully_reconciled(self, cause: str, took: float, volumes: int, *, bulk: bool) -> None:
        del cause, volumes
        self._full_reconciles.labels("yes" if bulk else "no").observe(took)
        self._last_full_reconcile.set_to_current_time()

    def census(self, found: Mapping[tuple[str, str], int]) -> None:
        self._volumes.clear()
        for labels, number in found.items():
            self._volumes.labels(*labels).set(number)

    def deferred(self, found: Mapping[str, int]) -> None:
        self._deferred.clear()
        for reason, number in found.items():
            self._deferred.labels(reason).set(number)

    def unfinished(self, replacements: int) -> None:
        self._unfinished.set(replacements)

    def absent(self, volumes: int) -> None:
        self._absent.set(volumes)

    def stuck(self, volumes: int) -> None:
        self._stuck.set(volumes)

    def claim_lost(self) -> None:
        self._lost.inc()

    def volume_controller_timed_out(self) -> None:
        self._controller_timeouts.inc()

    def batch_reconciled(self, reconciles: int) -> None:
        self._batched.inc(reconciles)

    def reconcile_failed(self, kind: str) -> None:
        self._errors.labels(kind).inc()

    def full_reconcile_failed(self, kind: str) -> None:
        self._full_reconcile_errors.labels(kind).inc()
