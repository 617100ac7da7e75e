"""Leader election by a Lease in the service's namespace."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.leader_health import LeaderHealth
from linstor_affinity_events.adapters.kubernetes.lease import (
    LeaseName,
    LeaseRecord,
    holder_of,
    released,
)
from linstor_affinity_events.adapters.kubernetes.responses import object_of
from linstor_affinity_events.errors import Again, Conflict, Expired, Missing, Refused
from linstor_affinity_events.logs import facts
from linstor_affinity_events.printable import shortened

log = logging.getLogger(__name__)

RELEASE_WITHIN = 3.0
HEALTH_CHECK_EVERY = 0.5
"""Seconds between health checks of an instance that yields leadership."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionTimes:
    """The durations of the election, in seconds."""

    lease_duration: float
    renew_deadline: float
    retry_period: float


class AlwaysLeading:
    """Implements engine.ports.Leadership for a service without leader election."""

    leading, exclusive = True, False
    holder = ""

    async def confirmed(self) -> bool:
        return True


class LeaseElection:
    """Implements engine.ports.Leadership.

    An instance stops leading `renew_deadline` after the start of its last successful renewal, which
    is before another instance may take the Lease.
    """

    exclusive = True

    def __init__(
        self,
        api: KubeApi,
        lease: LeaseName,
        identity: str,
        times: ElectionTimes,
        *,
        on_change: Callable[[bool], None],
        now: Callable[[], datetime],
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`healthy` returns whether this instance could do the work if it led."""
        self._api, self._now, self._on_change = api, now, on_change
        self._lease, self._identity, self._times = lease, identity, times
        self._record = LeaseRecord(lease.name, identity=identity, duration=times.lease_duration)
        self._health = LeaderHealth(healthy, pause=2 * times.retry_period)
        self._renewed = float("-inf")
        self._reported_leading = False
        self._ours: dict[str, Any] | None = None
        """The Lease as this instance last wrote it: a renewal needs no read."""
        self.holder = ""
        self.failure: str | None = None

    @property
    def leading(self) -> bool:
        return _clock() < self._renewed + self._times.renew_deadline

    async def confirmed(self) -> bool:
        """Return whether this instance leads, and has written the Lease last, by a fresh read."""
        return await _is_as_written(self._api, self._lease, self._record) and self.leading

    async def run(self) -> None:
        """Acquire and renew the Lease until cancelled."""
        retry_period = self._times.retry_period
        while True:
            try:
                async with asyncio.timeout(retry_period):
                    await self._attempt()
                self.failure = None
            except TimeoutError:
                self._failed(f"no answer within {retry_period:g} s")
            except (Again, Refused, Missing, Expired) as error:
                self._failed(str(error))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._failed(f"the answer is no lease ({error!r})")
            self._report(leading=self.leading)
            await self._yield_if_unhealthy()
            await self._wait_for_next_attempt()

    async def _wait_for_next_attempt(self) -> None:
        """Wait for the next attempt; an instance that yields waits only while it is unhealthy."""
        until, yielded = _clock() + self._pause(), self._health.yields(_clock())
        # Health is polled: it depends on the state of other components, which set no event.
        while (left := until - _clock()) > 0 and not (yielded and self._health.is_healthy()):  # noqa: ASYNC110
            await asyncio.sleep(min(left, HEALTH_CHECK_EVERY) if yielded else left)

    def _pause(self) -> float:
        """Return the delay to the next attempt; shorter if the Lease expires before."""
        left = self._record.expires_in(_clock())
        if self.leading or left is None or not self.holder or left <= 0:
            # The last: its holder has a longer duration, or the API server does not respond.
            return self._times.retry_period
        return min(self._times.retry_period, max(left, 0.1))

    async def _yield_if_unhealthy(self) -> None:
        """Release the Lease, for others to take it, when this instance is unhealthy for long."""
        if self._health.should_yield(_clock(), leading=self.leading):
            log.warning(
                "no event stream of LINSTOR is connected: giving up the Lease, so that an "
                "instance that reaches LINSTOR can lead. This one tries to lead again when "
                "a stream is connected, or after the given time",
                extra=facts(lease=self._lease.name, retry_in_s=self._health.pause),
            )
            await self.release()
            self._report(leading=self.leading)

    def _failed(self, why: str) -> None:
        if why != self.failure:
            log.warning(
                "cannot read or renew the Lease; retrying. If this instance leads, it "
                "stops starting changes --leader-election-renew-deadline after the last "
                "renewal; another instance can lead then",
                extra=facts(lease=self._lease.name, error=why),
            )
        self.failure = why

    def _report(self, *, leading: bool) -> None:
        if self._reported_leading != leading:
            self._reported_leading = leading
            message = (
                "became the leader: this instance changes volumes from now on"
                if leading
                else (
                    "leadership lost: this instance starts no more changes, and completes a "
                    "replacement in progress. The next leader does the rest"
                )
            )
            another = self.holder if self.holder != self._identity else None
            log.info(message, extra=facts(lease=self._lease.name, new_leader=another))
            self._on_change(leading)

    async def _attempt(self) -> None:
        started = _clock()
        # If a renewal from memory fails for any reason, the next attempt reads the Lease.
        ours, self._ours = self._ours, None
        if ours is not None and self.leading and not self._health.yields(started):
            with suppress(Conflict, Missing):
                await self._take(ours, started)
                return
        try:
            lease = await self._api.get(self._lease.path)
        except Missing:
            self._record.missing()
            await self._take(None, started)
            return
        self._record.seen(lease, _clock())
        if self.leading and self._record.is_held_by_duplicate(lease):
            log.warning(
                "another instance uses the same --leader-election-id and has taken the "
                "Lease: this one stops leading, and waits until the Lease expires. Give "
                "each instance its own --leader-election-id",
                extra=facts(lease=self._lease.name, leader_election_id=self._identity),
            )
        if self._record.is_held_by_another(lease, _clock()):
            self._lost(holder_of(lease))
        elif self._health.yields(_clock()):
            self._lost("")
        else:
            await self._take_free(lease, started)

    async def _take_free(self, lease: dict[str, Any], started: float) -> None:
        """Take or renew a Lease, unless another instance writes first."""
        try:
            await self._take(lease, started)
        except (Conflict, Missing):
            # The next attempt reads the Lease of the other instance.
            if not self._record.is_ours(lease):
                self._lost(holder_of(lease))

    async def _take(self, lease: dict[str, Any] | None, started: float) -> None:
        """Write this identity and the time to a Lease that is ours or free; None creates it."""
        body = self._record.taken(lease, self._now())
        if lease is None:
            written = await self._api.create(self._lease.collection, body)
        else:
            written = await self._api.replace(self._lease.path, body)
        self._report_interruption()
        self._record.wrote(written, _clock())
        self._ours = written
        self._renewed, self.holder = started, self._identity

    def _report_interruption(self) -> None:
        """Report leadership as lost, before it is reported as gained, if another instance may have
        led since the last renewal: what it did must be found.
        """
        if self.leading and self._record.changed_by_others:
            log.warning(
                "the Lease was changed or deleted by others while this instance led, so that "
                "another instance may have led for a moment: starting over as a new leader. "
                "If this recurs, look for who else may write the Lease",
                extra=facts(lease=self._lease.name),
            )
        if not self.leading or self._record.changed_by_others:
            self._report(leading=False)

    def _lost(self, holder: str) -> None:
        self._renewed, self.holder = float("-inf"), shortened(holder)

    async def release(self) -> None:
        """Release the Lease so that another instance can lead at once. A failure is only logged."""
        if not self.leading:
            return
        self._renewed = float("-inf")
        try:
            async with asyncio.timeout(RELEASE_WITHIN):
                lease = await self._api.get(self._lease.path)
                if not self._record.is_ours(lease):
                    return
                await self._api.replace(self._lease.path, released(lease))
        except (TimeoutError, Again, Refused, Missing, Expired) as error:
            log.info(
                "cannot release the Lease, so another instance can lead only when it "
                "expires, after --leader-election-lease-duration",
                extra=facts(lease=self._lease.name, error=error),
            )
            return
        log.info(
            "released the Lease: this instance does not lead any more, and another one can "
            "lead at once",
            extra=facts(lease=self._lease.name),
        )


Election = AlwaysLeading | LeaseElection


async def _is_as_written(api: KubeApi, name: LeaseName, record: LeaseRecord) -> bool:
    """Read the Lease, beside renewals. Raises Unreachable and other errors of single requests."""
    try:
        lease = object_of("Lease", await api.get(name.path), f"GET {name.path}")
        return record.is_as_written(lease)
    except (Missing, Expired):
        return False


def _clock() -> float:
    return asyncio.get_running_loop().time()
