"""Who leads: a Lease in our namespace."""

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
UNFIT_FIRST, UNFIT_MOST = 10.0, 300.0
"""How long a leader may be unfit before it lets others try; longer each time nobody else did."""

MOST_HELD = 300.0
"""Seconds for which a lease of others counts at most since it was last seen to change, whatever it
says: a number is easily written that would keep everybody waiting for years. Who leads by a longer
--leader-election-lease-duration of our own is waited for as long as that.
"""

_MOST_TRANSITIONS = 2**31 - 1
"""What Kubernetes can keep; beyond it nobody could take the lease any more."""

FIT_AGAIN = 0.5
"""How often one that stands back sees whether it could do the work again."""


class AlwaysLeading:
    """Implements engine.ports.Leadership for a service without election."""

    leading = True
    holder = ""


class LeaseElection:
    """Implements engine.ports.Leadership.

    How long a lease has been held is measured by our own steady clock, from when we saw it
    change: nobody's wall clock matters. We stop leading `renew_deadline` after the start of
    our last successful renewal, so before anybody else may take the lease.
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
        fit: Callable[[], bool] = lambda: True,
    ) -> None:
        """`fit` says whether this instance could do the work if it led."""
        self._api, self._now, self._on_change = api, now, on_change
        self._fit, self._unfit_since = fit, float("inf")
        self._unfit_for, self._stands_back_until = UNFIT_FIRST, float("-inf")
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{escaped(namespace)}/leases"
        self._name, self._identity = name, identity
        self._duration, self._deadline = lease_duration, renew_deadline
        self._retry = retry_period
        self._renewed = float("-inf")
        self._told = False
        self._ours: dict[str, Any] | None = None
        """The lease as we last wrote it: to renew it nothing has to be read."""
        self._acquired: set[str] = set()
        """Each acquireTime that this process wrote. It tells a lease that is ours from one that
        another process took under the same name.
        """
        self._has_led = False
        self._seen: tuple[str, float] = ("", float("-inf"))
        """The version of the lease that was last seen, and when it was seen first."""
        self.holder = ""
        self.failure: str | None = None

    @property
    def leading(self) -> bool:
        return asyncio.get_running_loop().time() < self._renewed + self._deadline

    async def run(self) -> None:
        """Try to lead, and go on leading, for ever."""
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
            self._tell()
            await self._let_others_try()
            await self._rest()

    async def _rest(self) -> None:
        """Wait for the next attempt; one that stands back waits no longer than it is unfit."""
        clock = asyncio.get_running_loop().time
        until, stood_back = clock() + self._pause(), self._stands_back()
        # To be fit is a question that is answered when asked, by what others keep: no event.
        while (left := until - clock()) > 0 and not (stood_back and self._fit()):  # noqa: ASYNC110
            await asyncio.sleep(min(left, FIT_AGAIN) if stood_back else left)

    async def _let_others_try(self) -> None:
        """Release a lease that we hold in vain, and leave it to others for a while.

        In the pods of LINSTOR controllers each instance sees its own controller alone, and only
        one of these is active.
        """
        clock = asyncio.get_running_loop().time
        if self._fit():
            self._unfit_since, self._unfit_for = float("inf"), UNFIT_FIRST
            return
        self._unfit_since = min(self._unfit_since, clock())
        if self.leading and clock() - self._unfit_since >= self._unfit_for:
            log.info("LINSTOR can't be reached from here; another instance may lead")
            self._unfit_for = min(self._unfit_for * 2, UNFIT_MOST)
            self._stands_back_until = clock() + 2 * self._retry
            await self.release()
            self._tell()

    def _stands_back(self) -> bool:
        return asyncio.get_running_loop().time() < self._stands_back_until and not self._fit()

    def _failed(self, why: str) -> None:
        if why != self.failure:
            log.warning("lease not read or written", extra=facts(lease=self._name, why=why))
        self.failure = why

    def _pause(self) -> float:
        """Until the next attempt: soon, if the lease runs out before the usual pace."""
        if self.leading:
            return self._retry
        version, since = self._seen
        left = since + self._duration - asyncio.get_running_loop().time()
        return min(self._retry, max(left, 0.1)) if version and self.holder else self._retry

    def _tell(self) -> None:
        if self._told != self.leading:
            self._told = self.leading
            message = "leading" if self._told else "not leading"
            log.info(message, extra=facts(lease=self._name, holder=self.holder))
            self._on_change(self._told)

    async def _attempt(self) -> None:
        clock = asyncio.get_running_loop().time
        begun = clock()
        path = f"{self._collection}/{escaped(self._name)}"
        # Whatever goes wrong with what we remember, the next attempt reads.
        ours, self._ours = self._ours, None
        if ours is not None and self.leading and not self._stands_back():
            with suppress(Conflict, Missing):
                await self._renew(path, ours, begun)
                return
        try:
            lease = await self._api.get(path)
        except Missing:
            made = await self._api.create(self._collection, self._lease({}, transitions=0))
            self._seen = (str(made["metadata"]["resourceVersion"]), clock())
            self._ours = made
            self._took(begun)
            return
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        version = str(lease["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = (version, clock())
        namesake = self._is_a_namesakes(spec)
        if namesake and self.leading:
            log.warning(
                "another instance has the same --leader-election-id and leads now; this one waits "
                "until that Lease expires: give each instance a name of its own",
                extra=facts(lease=self._name, holder=holder),
            )
        foreign = namesake or holder not in {"", self._identity}
        if foreign and clock() < self._seen[1] + self._valid_for(spec):
            self._lost(holder)
            return
        if self._stands_back():
            self._lost("")
            return
        try:
            await self._renew(path, lease, begun)
        except (Conflict, Missing):
            # Somebody was quicker; their lease will be seen next time.
            if holder == self._identity and not namesake:
                return
            self._lost(holder)

    def _is_a_namesakes(self, spec: dict[str, Any]) -> bool:
        """Whether another process that was given our name took the lease since we did.

        One that was taken under our name before we led is our predecessor's, and free.
        """
        return (
            self._has_led
            and spec.get("holderIdentity") == self._identity
            and str(spec.get("acquireTime")) not in self._acquired
        )

    async def _renew(self, path: str, lease: dict[str, Any], begun: float) -> None:
        """Write our name and the time on a lease, ours or one that may be taken."""
        spec = lease.get("spec") or {}
        taken = spec.get("holderIdentity") != self._identity
        transitions = _transitions(spec) + taken
        if transitions > _MOST_TRANSITIONS:
            transitions = 0
        lease = await self._api.replace(path, self._lease(lease, transitions=transitions))
        version = str(lease["metadata"]["resourceVersion"])
        self._seen = (version, asyncio.get_running_loop().time())
        self._ours = lease
        self._took(begun)

    def _valid_for(self, spec: dict[str, Any]) -> float:
        """A released lease says 1 s; the longer of theirs and ours protects both."""
        theirs = spec.get("leaseDurationSeconds")
        within = min(theirs, MOST_HELD) if isinstance(theirs, int) else 0.0
        return max(within, self._duration)

    def _took(self, begun: float) -> None:
        if not self.leading:
            # What was left undone since it ran out has to be found, so this is a change.
            self._told = False
        self._renewed, self.holder, self._has_led = begun, self._identity, True

    def _lost(self, holder: str) -> None:
        self._renewed, self.holder = float("-inf"), holder

    async def release(self) -> None:
        """Let somebody else lead at once; quietly gives up if that can't be written."""
        if not self.leading:
            return
        self._renewed = float("-inf")
        path = f"{self._collection}/{escaped(self._name)}"
        try:
            async with asyncio.timeout(RELEASE_WITHIN):
                lease = await self._api.get(path)
                held = lease.get("spec") or {}
                if held.get("holderIdentity") != self._identity or self._is_a_namesakes(held):
                    return
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(path, {**lease, "spec": spec})
        except (TimeoutError, Again, Refused, Missing) as error:
            log.info("lease not released", extra=facts(lease=self._name, why=error))
            return
        log.info("lease released", extra=facts(lease=self._name))

    def _metadata(self, old: dict[str, Any]) -> dict[str, Any]:
        """What names the object and its version. Labels and annotations of others are not sent:
        together they may be more than the API server takes.
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
            # Nothing else that others wrote: it may ask for another way of election.
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
