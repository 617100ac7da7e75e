"""Leader election by a Lease in the service's namespace."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, escaped
from linstor_affinity_events.errors import Again, Conflict, Expired, Missing, Refused
from linstor_affinity_events.logs import facts

log = logging.getLogger(__name__)

RELEASE_WITHIN = 3.0
YIELD_AFTER_FIRST, YIELD_AFTER_MOST = 10.0, 300.0
"""Seconds that a leader may be unhealthy before it yields leadership; doubled after each time."""

MOST_HELD = 300.0
"""The most seconds for which another holder's Lease is valid after it was last seen to change,
whatever it says: a wrong number could keep all instances waiting for years. A longer
--leader-election-lease-duration of this instance takes precedence.
"""

_MOST_TRANSITIONS = 2**31 - 1
"""The largest number that Kubernetes can store; beyond it nobody could take the Lease."""

HEALTH_CHECK_EVERY = 0.5
"""Seconds between health checks of an instance that yields leadership."""


class AlwaysLeading:
    """Implements engine.ports.Leadership for a service without leader election."""

    leading = True
    holder = ""


class LeaseElection:
    """Implements engine.ports.Leadership.

    The age of a Lease is measured by this instance's monotonic clock, from when the Lease was seen
    to change: wall clocks do not matter. An instance stops leading `renew_deadline` after the start
    of its last successful renewal, which is before another instance may take the Lease.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_duration: float,
        renew_deadline: float,
        retry_period: float,
        on_change: Callable[[bool], None],
        now: Callable[[], datetime],
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`healthy` returns whether this instance could do the work if it led."""
        self._api, self._now, self._on_change = api, now, on_change
        self._is_healthy, self._unhealthy_since = healthy, float("inf")
        self._yield_after, self._yields_until = YIELD_AFTER_FIRST, float("-inf")
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{escaped(namespace)}/leases"
        self._name, self._identity = name, identity
        self._duration, self._deadline = lease_duration, renew_deadline
        self._retry = retry_period
        self._renewed = float("-inf")
        self._reported_leading = False
        self._ours: dict[str, Any] | None = None
        """The Lease as this instance last wrote it: a renewal needs no read."""
        self._acquired: set[str] = set()
        """Each acquireTime that this process wrote. It distinguishes this process' Lease from one
        that another process took under the same identity.
        """
        self._has_led = False
        self._seen: tuple[str, float] = ("", float("-inf"))
        """The last seen version of the Lease, and when it was first seen."""
        self.holder = ""
        self.failure: str | None = None

    @property
    def leading(self) -> bool:
        return asyncio.get_running_loop().time() < self._renewed + self._deadline

    async def run(self) -> None:
        """Acquire and renew the Lease until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._retry):
                    await self._attempt()
                self.failure = None
            except TimeoutError:
                self._failed(f"no answer within {self._retry:g} s")
            except (Again, Refused, Missing, Expired) as error:
                self._failed(str(error))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._failed(f"the answer is no lease ({error!r})")
            self._report_change()
            await self._yield_if_unhealthy()
            await self._wait_for_next_attempt()

    async def _wait_for_next_attempt(self) -> None:
        """Wait for the next attempt; an instance that yields waits only while it is unhealthy."""
        clock = asyncio.get_running_loop().time
        until, yielded = clock() + self._pause(), self._yields()
        # Health is polled: it depends on the state of other components, which set no event.
        while (left := until - clock()) > 0 and not (yielded and self._is_healthy()):  # noqa: ASYNC110
            await asyncio.sleep(min(left, HEALTH_CHECK_EVERY) if yielded else left)

    async def _yield_if_unhealthy(self) -> None:
        """Release the Lease while this instance is unhealthy, and let others take it for a while.

        As a sidecar of LINSTOR controllers, each instance reaches only its own controller, and only
        one of these is active.
        """
        clock = asyncio.get_running_loop().time
        if self._is_healthy():
            self._unhealthy_since, self._yield_after = float("inf"), YIELD_AFTER_FIRST
            return
        self._unhealthy_since = min(self._unhealthy_since, clock())
        if self.leading and clock() - self._unhealthy_since >= self._yield_after:
            log.warning(
                "cannot reach LINSTOR: giving up leadership so that another instance can take "
                "over; this one tries to lead again later",
                extra=facts(lease=self._name, retry_in_s=2 * self._retry),
            )
            self._yield_after = min(self._yield_after * 2, YIELD_AFTER_MOST)
            self._yields_until = clock() + 2 * self._retry
            await self.release()
            self._report_change()

    def _yields(self) -> bool:
        return asyncio.get_running_loop().time() < self._yields_until and not self._is_healthy()

    def _failed(self, why: str) -> None:
        if why != self.failure:
            log.warning(
                "cannot read or renew the Lease; retrying", extra=facts(lease=self._name, error=why)
            )
        self.failure = why

    def _pause(self) -> float:
        """Return the delay to the next attempt; shorter if the Lease expires before."""
        if self.leading:
            return self._retry
        version, since = self._seen
        left = since + self._duration - asyncio.get_running_loop().time()
        return min(self._retry, max(left, 0.1)) if version and self.holder else self._retry

    def _report_change(self) -> None:
        if self._reported_leading != self.leading:
            self._reported_leading = self.leading
            message = (
                "became the leader"
                if self._reported_leading
                else ("leadership lost: another instance does the work now")
            )
            log.info(message, extra=facts(lease=self._name, holder=self.holder))
            self._on_change(self._reported_leading)

    async def _attempt(self) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        path = f"{self._collection}/{escaped(self._name)}"
        # If a renewal from memory fails for any reason, the next attempt reads the Lease.
        ours, self._ours = self._ours, None
        if ours is not None and self.leading and not self._yields():
            with suppress(Conflict, Missing):
                await self._renew(path, ours, started)
                return
        try:
            lease = await self._api.get(path)
        except Missing:
            made = await self._api.create(self._collection, self._lease({}, transitions=0))
            self._seen = (str(made["metadata"]["resourceVersion"]), clock())
            self._ours = made
            self._acquired_lease(started)
            return
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        version = str(lease["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = (version, clock())
        duplicate = self._is_held_by_duplicate(spec)
        if duplicate and self.leading:
            log.warning(
                "another instance uses the same --leader-election-id and leads. "
                "This instance waits until that Lease expires; give each "
                "instance a name of its own",
                extra=facts(lease=self._name, holder=holder),
            )
        foreign = duplicate or holder not in {"", self._identity}
        if foreign and clock() < self._seen[1] + self._valid_for(spec):
            self._lost_lease(holder)
            return
        if self._yields():
            self._lost_lease("")
            return
        try:
            await self._renew(path, lease, started)
        except (Conflict, Missing):
            # Another instance wrote first; the next attempt reads its Lease.
            if holder == self._identity and not duplicate:
                return
            self._lost_lease(holder)

    def _is_held_by_duplicate(self, spec: dict[str, Any]) -> bool:
        """Return whether another process with the same identity took the Lease after this one.

        A Lease taken under this identity before this process led is its predecessor's, and free.
        """
        return (
            self._has_led
            and spec.get("holderIdentity") == self._identity
            and str(spec.get("acquireTime")) not in self._acquired
        )

    async def _renew(self, path: str, lease: dict[str, Any], started: float) -> None:
        """Write this identity and the time to a Lease that is ours or free."""
        spec = lease.get("spec") or {}
        taken = spec.get("holderIdentity") != self._identity
        transitions = _transitions(spec) + taken
        if transitions > _MOST_TRANSITIONS:
            transitions = 0
        lease = await self._api.replace(path, self._lease(lease, transitions=transitions))
        version = str(lease["metadata"]["resourceVersion"])
        self._seen = (version, asyncio.get_running_loop().time())
        self._ours = lease
        self._acquired_lease(started)

    def _valid_for(self, spec: dict[str, Any]) -> float:
        """Return the longer duration, theirs or ours, to protect both; released Leases say 1 s."""
        theirs = spec.get("leaseDurationSeconds")
        within = min(theirs, MOST_HELD) if isinstance(theirs, int) else 0.0
        return max(within, self._duration)

    def _acquired_lease(self, started: float) -> None:
        if not self.leading:
            # Work missed since the Lease expired must be found, so report this as a change.
            self._reported_leading = False
        self._renewed, self.holder, self._has_led = started, self._identity, True

    def _lost_lease(self, holder: str) -> None:
        self._renewed, self.holder = float("-inf"), holder

    async def release(self) -> None:
        """Release the Lease so that another instance can lead at once. A failure is only logged."""
        if not self.leading:
            return
        self._renewed = float("-inf")
        path = f"{self._collection}/{escaped(self._name)}"
        try:
            async with asyncio.timeout(RELEASE_WITHIN):
                lease = await self._api.get(path)
                held = lease.get("spec") or {}
                if held.get("holderIdentity") != self._identity or self._is_held_by_duplicate(held):
                    return
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(path, {**lease, "spec": spec})
        except (TimeoutError, Again, Refused, Missing) as error:
            log.info(
                "cannot release the Lease; another instance takes over when it expires",
                extra=facts(lease=self._name, error=error),
            )
            return
        log.info(
            "released the Lease: another instance can lead at once", extra=facts(lease=self._name)
        )

    def _metadata(self, old: dict[str, Any]) -> dict[str, Any]:
        """Return the name and version of the object. Labels and annotations are not sent back:
        together they may exceed what the API server accepts.
        """
        known = old.get("metadata") or {}
        kept = ("name", "namespace", "uid", "resourceVersion")
        return {"name": self._name} | {key: known[key] for key in kept if key in known}

    def _lease(self, old: dict[str, Any], *, transitions: int) -> dict[str, Any]:
        moment = self._now().astimezone(UTC).isoformat(timespec="microseconds")
        moment = moment.replace("+00:00", "Z")
        spec = old.get("spec") or {}
        acquired = str(spec.get("acquireTime"))
        if spec.get("holderIdentity") != self._identity or acquired not in self._acquired:
            acquired = moment
            self._acquired.add(moment)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._metadata(old),
            # No other field is kept: it may request another election strategy.
            "spec": {
                "acquireTime": acquired,
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "leaseTransitions": transitions,
                "renewTime": moment,
            },
        }


def _transitions(spec: dict[str, Any]) -> int:
    count = spec.get("leaseTransitions")
    return count if isinstance(count, int) and count > 0 else 0
