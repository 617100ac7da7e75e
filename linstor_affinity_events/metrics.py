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

from linstor_affinity_events.engine.reporter import DEFERRED_FOR_TEXT
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
        "Decisions on volumes, one each time that a volume is checked. decision: in_sync, "
        "change (its node affinity is wrong), deferred (it cannot be changed now), refused "
        "(it must not be changed), skipped (it is excluded) or resume (its replacement is "
        "unfinished). reason is empty for in_sync, change and resume.",
        ("decision", "reason"),
    ),
    Description(
        "changes",
        "Changes of a volume's node affinity that have ended. method: patch, replace "
        "(deleted and recreated) or resume (an interrupted replacement). outcome: done, "
        "recreated_with_retain (the volume keeps reclaim policy Retain), or rolled_back, "
        "superseded or deleted_by_user (ended without a change because another client or "
        "instance changed or deleted the volume). Attempts that failed are in "
        "linstor_affinity_reconcile_errors_total.",
        ("method", "outcome"),
    ),
    Description(
        "changes_by_trigger",
        "Changes by patch or replacement that have ended, with any outcome, by what led to "
        "them: the event stream promotion or database, or none (no event for the LINSTOR "
        "resource: found by a full reconcile or recheck). Resumed replacements are not "
        "counted.",
        ("trigger",),
    ),
    Description(
        "drift_without_event",
        "Volumes with a wrong node affinity that a full reconcile found, and for whose "
        "LINSTOR resource no event was received. cause: what started the full reconcile, "
        "such as start, period (--reconcile-rate), poll (--poll-rate), node (an event "
        "about a node) or a reconnected stream.",
        ("cause",),
    ),
    Description(
        "claims_lost",
        "PersistentVolumeClaims that were in phase Lost while or after their volume was "
        "replaced. The PersistentVolume controller binds each again within 15 s; no data "
        "is lost.",
    ),
    Description(
        "volume_controller_timeouts",
        "How often a replacement stopped waiting for the PersistentVolume controller "
        "(kube-controller-manager) to set the deleted volume to Released, after "
        "--claim-guard-timeout. The replacement continued, and the claim may have been "
        "Lost for a moment.",
    ),
    Description(
        "batched_reconciles",
        "Reconciles of single LINSTOR resources that were answered from one shared read of "
        "all resources, because at least 100 were waiting, instead of by requests of their "
        "own. Full reconciles are not counted.",
    ),
    Description(
        "reconcile_errors",
        "Failed reconciles of single LINSTOR resources, by kind of error. Each failure "
        "counts, and each is retried. The error Unexpected is a defect of this service: "
        "please report it. Full reconciles are not counted.",
        ("error",),
    ),
    Description(
        "full_reconcile_errors",
        "Failed full reconciles (checks of all volumes), by kind of error. Each failure "
        "counts, and each is retried.",
        ("error",),
    ),
)

HISTOGRAMS = {
    Description(
        "trigger_to_update_seconds",
        "Time from when the first event about a LINSTOR resource was received until its "
        "PersistentVolume had the correct node affinity, including the time in the queue "
        "and retries. trigger: the event stream (promotion or database), or none (no event "
        "was received; the time counts from when the resource was queued for a check). "
        "Resumed replacements are not counted.",
        ("trigger",),
    ): _LATENCY,
    Description(
        "change_seconds",
        "Time of one change of a PersistentVolume, from reading it to the end with any "
        "outcome, including waits for the PersistentVolume controller but not the time in "
        "the queue. method: patch, replace, or resume of an interrupted replacement (only "
        "the time since it was resumed).",
        ("method",),
    ): _LATENCY,
    Description(
        "full_reconcile_seconds",
        "Duration of full reconciles that succeeded, without the changes to which they "
        "led. bulk: yes if LINSTOR returned all resources at once, no if each was read by "
        "a request of its own, which is slower.",
        ("bulk",),
    ): _FULL_RECONCILE,
}

GAUGES = (
    Description(
        "last_full_reconcile_timestamp_seconds",
        "Unix time when this instance completed its last full reconcile; 0 before the "
        "first one. Only the leader repeats them, so use the maximum of all instances.",
    ),
    Description(
        "volumes",
        "Volumes by decision and reason at the last full reconcile of this instance, with "
        "the values of linstor_affinity_decisions_total. Only the leader repeats full reconciles.",
        ("decision", "reason"),
    ),
    Description(
        "volumes_deferred",
        f"Volumes that have been deferred for more than {DEFERRED_FOR_TEXT}, by reason, counted "
        "at the last full reconcile: their node affinity is or may be wrong. They stay as "
        "they are, and each is retried.",
        ("reason",),
    ),
    Description(
        "replacements_unfinished",
        f"Replacements that have been unfinished for more than {DEFERRED_FOR_TEXT}, counted at "
        "the last full reconcile. Each is retried until it completes; until then its "
        "PersistentVolume may be absent.",
    ),
    Description(
        "volumes_absent",
        "PersistentVolumes that do not exist now, because they were deleted for a "
        "replacement and are not recreated yet. Normally for milliseconds. Their data is "
        "safe. Includes linstor_affinity_volumes_stuck.",
    ),
    Description(
        "volumes_stuck",
        "PersistentVolumes that do not exist now, because they were deleted for a "
        "replacement and Kubernetes rejects the new ones. Each is retried until it "
        "succeeds; the log has the error. Their data is safe.",
    ),
)

READ_GAUGES = (
    Description(
        "queue_depth",
        "LINSTOR resources in the queue: those that are due, and those that wait for the time "
        "of a retry or recheck. A resource that is being reconciled counts only if it has to "
        "be reconciled again afterwards.",
    ),
    Description(
        "queue_oldest_seconds",
        "Seconds since the oldest trigger (event, full reconcile or retry) of the LINSTOR "
        "resources that are due and wait for a worker. A retry keeps the time of its first "
        "trigger. Resources that are being reconciled, or not due yet, do not count. 0 if "
        "none is due.",
    ),
    Description(
        "workers_busy",
        "LINSTOR resources that are being reconciled now, with or without a change; at most "
        "--workers + 4.",
    ),
    Description(
        "changes_in_flight",
        "LINSTOR resources whose volumes are being patched, replaced or resumed now.",
    ),
    Description(
        "change_concurrency_limit",
        "Maximum of linstor_affinity_changes_in_flight at present; a single urgent change "
        "that comes on top of many exceeds it by one. It starts at 3, grows up to --workers, "
        "and shrinks while changes wait long for the PersistentVolume controller "
        "(kube-controller-manager).",
    ),
    Description(
        "leader",
        "1 if this instance is the leader, which is the only one that changes volumes; 0 if not.",
    ),
    Description(
        "known_volumes",
        "PersistentVolumes of LINSTOR's CSI driver that exist in this cluster, whether their "
        "node affinity is correct or not, as this instance knows them.",
    ),
    Description(
        "volumes_held_back",
        "Volumes with a pause before their next change (30 s, doubled each time up to an "
        "hour), because the last change had another result than requested, or because "
        "there were too many changes. They exist, and each is retried after its pause.",
    ),
    Description(
        "kubernetes_events_dropped",
        "Kubernetes Events about volumes and claims that this instance could not send "
        "since its start. They are not retried; the log has the same information.",
    ),
)
"""Gauges that are read from the other components at each scrape."""

STREAM_UP = Description(
    "stream_up",
    "1 if this instance is connected to the event stream now, 0 if not. stream: promotion "
    "and nodes (of LINSTOR's controller), or database (a watch of LINSTOR's database in "
    "Kubernetes, if there is one).",
    ("stream",),
)
STREAM_CONNECTS = Description(
    "stream_connects",
    "Successful connections to the event stream since this instance started. Each one "
    "after the first means that the stream was interrupted; a full reconcile followed.",
    ("stream",),
)
STREAM_EVENTS = Description(
    "stream_events",
    "Events that this instance has received since its start, by stream: promotion, nodes "
    "or database.",
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
