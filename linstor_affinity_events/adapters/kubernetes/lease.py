"""The Lease of the leader election: what is written to it, and whether it is free. No I/O."""

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from linstor_affinity_events.adapters.kubernetes.api import escaped

MOST_HELD = 300.0
"""The most seconds for which another holder's Lease is valid after it was last seen to change,
whatever it says: a wrong number could keep all instances waiting for years. A longer
--leader-election-lease-duration of this instance takes precedence.
"""

_MOST_TRANSITIONS = 2**31 - 1
"""The largest number that Kubernetes can store; beyond it nobody could take the Lease."""

_MOST_ATTEMPTS = 16
"""How many attempts to write the Lease are remembered. Each one without response may have
succeeded, but then the next attempts find that it did.
"""

Manifest = Mapping[str, Any]


class LeaseName(NamedTuple):
    """The namespace and the name of a Lease."""

    namespace: str
    name: str

    @property
    def collection(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{escaped(self.namespace)}/leases"

    @property
    def path(self) -> str:
        return f"{self.collection}/{escaped(self.name)}"


def holder_of(lease: Manifest) -> str:
    """Return the identity of the holder; empty if the Lease is released."""
    return str(_spec(lease).get("holderIdentity") or "")


class LeaseRecord:
    """What one process has seen of the Lease, and what it has written to it.

    The age of a Lease is measured by the monotonic clock of this process, from when the Lease was
    seen to change: wall clocks do not matter.
    """

    def __init__(self, name: str, *, identity: str, duration: float) -> None:
        self._name, self._identity, self._duration = name, identity, duration
        self._acquired: deque[str] = deque(maxlen=_MOST_ATTEMPTS)
        """The last acquireTimes that this process wrote. They distinguish this process' Lease from
        one that another process took under the same identity.
        """
        self._has_led = False
        self._version, self._seen_at = "", float("-inf")
        """The last seen version of the Lease, and when it was first seen."""
        self._written = ""
        """The version that this process wrote last."""
        self._versions: deque[str] = deque(maxlen=_MOST_ATTEMPTS)
        """The last versions that it wrote."""
        self._unanswered: deque[str] = deque(maxlen=_MOST_ATTEMPTS)
        """The renewTimes of attempts since then."""
        self.changed_by_others = True
        """Whether others may have written the Lease since this process did: then one of them may
        have led, however briefly.
        """

    def seen(self, lease: Manifest, at: float) -> None:
        version = _version(lease)
        if version != self._version:
            self._version, self._seen_at = version, at
        if version != self._written and not self._is_unanswered(lease):
            self.changed_by_others = True

    def is_as_written(self, lease: Manifest) -> bool:
        """Return whether this process wrote the Lease last, as far as a read shows that renewals
        may have overtaken.
        """
        if self.changed_by_others:
            # It is being taken back, or was: the new term begins with the response to that.
            return False
        return _version(lease) in self._versions or self._is_unanswered(lease)

    def _is_unanswered(self, lease: Manifest) -> bool:
        # A Lease is not believed when it says that it is as before: others may have written that.
        return str(_spec(lease).get("renewTime")) in self._unanswered and self.is_ours(lease)

    def missing(self) -> None:
        """Record that the Lease does not exist, or not any more."""
        self.changed_by_others = True

    def wrote(self, lease: Manifest, at: float) -> None:
        """Record that this process took or renewed the Lease."""
        self._version, self._seen_at = _version(lease), at
        self._has_led = True
        self._written, self.changed_by_others = self._version, False
        self._versions.append(self._written)
        self._unanswered.clear()

    def is_held_by_duplicate(self, lease: Manifest) -> bool:
        """Return whether another process with the same identity took the Lease after this one.

        A Lease taken under this identity before this process led is its predecessor's, and free.
        """
        spec = _spec(lease)
        return (
            self._has_led
            and spec.get("holderIdentity") == self._identity
            and str(spec.get("acquireTime")) not in self._acquired
        )

    def is_ours(self, lease: Manifest) -> bool:
        """Return whether the holder is this process, or its predecessor of the same identity."""
        return holder_of(lease) == self._identity and not self.is_held_by_duplicate(lease)

    def is_held_by_another(self, lease: Manifest, at: float) -> bool:
        """Return whether another process holds the Lease, which has not expired."""
        if not holder_of(lease) or self.is_ours(lease):
            return False
        return at < self._seen_at + self.valid_for(lease)

    def valid_for(self, lease: Manifest) -> float:
        """Return the longer duration, the holder's or ours, to protect both; 1 s if released."""
        duration = _spec(lease).get("leaseDurationSeconds")
        within = min(duration, MOST_HELD) if isinstance(duration, int) else 0.0
        return max(within, self._duration)

    def expires_in(self, at: float) -> float | None:
        """Return after how long the Lease is free by this instance's duration; None if unseen."""
        return self._seen_at + self._duration - at if self._version else None

    def taken(self, lease: Manifest | None, now: datetime) -> dict[str, Any]:
        """Return the Lease to write, held by this process; None stands for one to be created."""
        moment = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        old = _spec(lease or {})
        taken = old.get("holderIdentity") != self._identity
        transitions = 0 if lease is None else _transitions(old) + taken
        acquired = str(old.get("acquireTime"))
        if taken or acquired not in self._acquired:
            acquired = moment
            self._acquired.append(moment)
        self._unanswered.append(moment)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._metadata(lease or {}),
            # No other field is kept: it may request another election strategy.
            "spec": {
                "acquireTime": acquired,
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "leaseTransitions": transitions if transitions <= _MOST_TRANSITIONS else 0,
                "renewTime": moment,
            },
        }

    def _metadata(self, old: Manifest) -> dict[str, Any]:
        """Return the name and version of the object. Labels and annotations are not sent back:
        together they may exceed what the API server accepts.
        """
        known = old.get("metadata") or {}
        preserved = ("name", "namespace", "uid", "resourceVersion")
        return {"name": self._name} | {key: known[key] for key in preserved if key in known}


def released(lease: Manifest) -> dict[str, Any]:
    """Return the Lease without a holder."""
    return {**lease, "spec": {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}


def _spec(lease: Manifest) -> Mapping[str, Any]:
    return lease.get("spec") or {}


def _version(lease: Manifest) -> str:
    return str(lease["metadata"]["resourceVersion"])


def _transitions(spec: Mapping[str, Any]) -> int:
    count = spec.get("leaseTransitions")
    return count if isinstance(count, int) and count > 0 else 0
