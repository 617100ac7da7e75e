"""Metrics that are read from the other components at each scrape."""

import asyncio
from collections.abc import Callable, Mapping

from linstor_affinity_events.adapters.kubernetes.election import Election
from linstor_affinity_events.adapters.kubernetes.events import KubeEvents
from linstor_affinity_events.adapters.kubernetes.index import VolumeIndex
from linstor_affinity_events.engine.engine import Engine


def gauges(
    engine: Engine, index: VolumeIndex, election: Election, events: KubeEvents
) -> Mapping[str, Callable[[], float]]:
    """Return a function for the value of each of these metrics."""
    queue = engine.queue

    def oldest() -> float:
        since = queue.oldest()
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    return {
        "queue_depth": lambda: len(queue),
        "queue_oldest_seconds": oldest,
        "workers_busy": lambda: queue.processing,
        "changes_in_flight": lambda: engine.changes.in_flight,
        "change_concurrency_limit": lambda: engine.changes.limit,
        "leader": lambda: election.leading,
        "known_volumes": lambda: len(index),
        "volumes_held_back": engine.cluster_view.backoff.held_back,
        "kubernetes_events_dropped": lambda: events.lost,
    }
