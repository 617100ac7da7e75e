"""Metrics for Prometheus, with the descriptions that /metrics shows."""

from collections.abc import Callable, Iterator, Mapping

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
_PASS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _StreamMetrics(Collector):
    """The state of the event streams, read at each scrape."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            f"{_PREFIX}_stream_up", "Whether an event stream is open.", labels=["stream"]
        )
        connects = CounterMetricFamily(
            f"{_PREFIX}_stream_connects", "Connections of an event stream.", labels=["stream"]
        )
        events = CounterMetricFamily(
            f"{_PREFIX}_stream_events", "Events received.", labels=["stream"]
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
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_StreamMetrics(streams))
        self._decisions = self._counter(
            "verdicts", "Decisions on volumes, each time one is looked at.", "verdict", "reason"
        )
        self._changes = self._counter(
            "changes", "Volumes changed, by way and outcome.", "how", "outcome"
        )
        self._latency = self._histogram(
            "hint_to_volume_seconds",
            "From the hint that something moved to the PersistentVolume that says so.",
            _LATENCY,
        )
        self._told_first = self._counter(
            "told_first", "Changes by who told first that something moved.", "source"
        )
        self._change_time = self._histogram(
            "change_seconds", "How long a change itself took.", _LATENCY, "how"
        )
        self._drift = self._counter(
            "drift_without_event",
            "Wrong affinities that a full pass found and no event had announced.",
            "cause",
        )
        self._passes = self._histogram(
            "full_pass_seconds", "How long full passes took.", _PASS, "bulk"
        )
        self._volumes = self._gauge(
            "volumes", "Volumes by what the last full pass found.", "verdict", "reason"
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
            "volumes_absent", "PersistentVolumes that are deleted and not yet created again."
        )
        self._stuck = self._gauge(
            "volumes_stuck", "Deleted PersistentVolumes whose creation is refused."
        )
        self._lost = self._counter("claims_lost", "Claims seen Lost after a replacement.")
        self._in_bulk = self._counter(
            "looks_in_bulk", "Looks that were answered by one read for many."
        )
        self._failed = self._counter("failed_looks", "Looks that have to be repeated.", "error")
        self._failed_passes = self._counter(
            "failed_passes", "Full passes that have to be repeated.", "error"
        )

        # Prometheus' increase() misses the first event of a counter that appears with it.
        self._drift.labels("period")
        self._failed_passes.labels("LoginRefused")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace=_PREFIX, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            name, text, labels, namespace=_PREFIX, registry=self.registry, buckets=buckets
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a gauge whose value is read at each scrape."""
        self._gauge(name, text).set_function(read)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))

    def decision(self, kind: str, reason: str) -> None:
        self._decisions.labels(kind, reason).inc()

    def changed(self, how: str, outcome: str, took: float, since_trigger: float) -> None:
        self._changes.labels(how, outcome).inc()
        self._change_time.labels(how).observe(took)
        if how != "resume" and outcome in {"done", "kept"}:
            self._latency.observe(since_trigger)

    def changed_by_trigger(self, source: str) -> None:
        self._told_first.labels(source).inc()

    def drift_without_event(self, cause: str) -> None:
        self._drift.labels(cause).inc()

    def fully_reconciled(self, cause: str, took: float, volumes: int, *, bulk: bool) -> None:
        del cause, volumes
        self._passes.labels("yes" if bulk else "no").observe(took)

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

    def batch_reconciled(self, reconciles: int) -> None:
        self._in_bulk.inc(reconciles)

    def reconcile_failed(self, kind: str) -> None:
        self._failed.labels(kind).inc()

    def full_reconcile_failed(self, kind: str) -> None:
        self._failed_passes.labels(kind).inc()
