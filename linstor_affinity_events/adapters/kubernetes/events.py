"""Sends Kubernetes Events about volumes and claims in the background; nothing waits for them."""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, escaped
from linstor_affinity_events.errors import AffinityEventsError, Conflict
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.keys import OURSELVES
from linstor_affinity_events.model.volume import Volume
from linstor_affinity_events.printable import shown

log = logging.getLogger(__name__)

MOST_WAITING = 2000
FLUSH_WITHIN = 1.0
_MOST_MESSAGE_BYTES = 1024
_CLUSTER_NAMESPACE = "default"
"""The namespace of Events about cluster-scoped objects."""


class KubeEvents:
    """Implements engine.ports.Notices."""

    def __init__(self, api: KubeApi, *, instance: str, now: Callable[[], datetime]) -> None:
        self._api, self._instance, self._now = api, instance[:128], now
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(MOST_WAITING)
        self.lost = 0

    def inform(self, volume: Volume, reason: str, text: str) -> None:
        self._on_both(volume, "Normal", reason, text)

    def warn(self, volume: Volume, reason: str, why: str, *, reminder: int = 0) -> None:
        self._on_both(volume, "Warning", reason, why, reminder)

    async def run(self) -> None:
        """Send queued Events until cancelled."""
        while True:
            event = await self._waiting.get()
            await self._send(event)

    async def flush(self) -> None:
        """Send the Events still queued, for at most a second."""
        try:
            async with asyncio.timeout(FLUSH_WITHIN):
                while not self._waiting.empty():
                    await self._send(self._waiting.get_nowait())
        except TimeoutError:
            log.debug(
                "Kubernetes Events dropped because too many are waiting; the log has "
                "the same information",
                extra=facts(number=self._waiting.qsize()),
            )

    async def _send(self, event: dict[str, Any]) -> None:
        namespace = escaped(event["metadata"]["namespace"])
        try:
            await self._api.create(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)
        except Conflict:
            # An earlier or another instance has already sent it.
            log.debug("Kubernetes Event already exists", extra=facts(reason=event["reason"]))
        except AffinityEventsError as error:
            self.lost += 1
            log.debug(
                "cannot send Kubernetes Event; it is not retried",
                extra=facts(reason=event["reason"], error=error),
            )

    def _on_both(
        self, volume: Volume, kind: str, reason: str, text: str, reminder: int = 0
    ) -> None:
        pv = {"kind": "PersistentVolume", "name": volume.name, "uid": volume.uid}
        self._add(_CLUSTER_NAMESPACE, pv, kind, reason, text, reminder)
        if volume.claim is not None and volume.claim.uid and volume.claim.is_valid:
            claim = {
                "kind": "PersistentVolumeClaim",
                "namespace": volume.claim.namespace,
                "name": volume.claim.name,
                "uid": volume.claim.uid,
            }
            self._add(volume.claim.namespace, claim, kind, reason, text, reminder)

    def _add(
        self,
        namespace: str,
        regarding: dict[str, str],
        kind: str,
        reason: str,
        text: str,
        reminder: int,
    ) -> None:
        moment = self._now().astimezone(UTC)
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": _name(regarding, kind, reason, text, reminder),
                "namespace": namespace,
            },
            "eventTime": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": OURSELVES,
            "reportingInstance": self._instance,
            "action": "UpdateNodeAffinity",
            "reason": reason,
            "regarding": {"apiVersion": "v1", **regarding},
            "note": _short(text),
            "type": kind,
        }
        try:
            self._waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.lost += 1


def _name(regarding: Mapping[str, str], kind: str, reason: str, text: str, reminder: int) -> str:
    """Return the same name for the same warning about the same object (uid), from any instance. A
    restarted service or a new leader finds each refusal again, and the API server keeps a single
    Event for it. Each change gets its own Event: a volume may change back and forth. A reminder has
    a separate name, since the API server drops Events after an hour, however often they are sent.
    """
    if kind != "Warning":
        return f"affinity-{uuid4().hex}"
    identity = "\n".join((regarding["kind"], regarding["uid"], reason, text, str(reminder or "")))
    return f"affinity-{hashlib.sha256(identity.encode(errors='replace')).hexdigest()[:32]}"


def _short(text: str) -> str:
    """Return the text escaped, and shortened to the limit of an Event, which counts bytes."""
    raw = shown(text).encode()
    return (
        raw.decode()
        if len(raw) <= _MOST_MESSAGE_BYTES
        else raw[: _MOST_MESSAGE_BYTES - 4].decode("utf-8", "ignore") + "…"
    )
