"""Watches LINSTOR's own database, where it is kept in Kubernetes, as a source of triggers only.

Piraeus keeps it in custom resources of group internal.linstor.linbit.com. The table `resources`
has one row per replica. A row that is added, deleted or changed is a trigger, also where LINSTOR
sends no event. Rows are neither stored nor listed: a list of one object gives the version to watch
from. No other table is read: that of properties also contains LINSTOR's master key.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from linstor_affinity_events.adapters.kubernetes.api import KubeApi
from linstor_affinity_events.adapters.kubernetes.pages import present_version
from linstor_affinity_events.adapters.kubernetes.survey import KubeSurvey
from linstor_affinity_events.adapters.kubernetes.watch import bounded_watch
from linstor_affinity_events.engine.ports import EventsMissed, ResourceTouched, Trigger
from linstor_affinity_events.engine.triggers import DATABASE
from linstor_affinity_events.errors import (
    Again,
    Expired,
    Missing,
    Refused,
    Unreachable,
)
from linstor_affinity_events.logs import facts
from linstor_affinity_events.model.names import resource_named

log = logging.getLogger(__name__)

GROUP = "internal.linstor.linbit.com"
TABLE = "resources"
VERBS = ("list", "watch")

RETRY_DELAY = 5.0

_NOT_WATCHED = (
    "LINSTOR's database in Kubernetes is not watched; this is tried again. Meanwhile polling "
    "(--poll-rate) and full reconciles find changes for which LINSTOR sends no event"
)
_NOT_READY = f"{_NOT_WATCHED}. Because of --watch-linstor-database=on this instance is not ready"

_NUMBERS = re.compile(r"\d+")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """The result of checking whether the database can be watched."""

    version: str = ""
    """The version of its custom resources; empty if it cannot be watched."""

    why_not: str = ""


class KubeDatabase:
    """Determines whether there is such a database and whether the account may watch it."""

    def __init__(
        self,
        api: KubeApi,
        *,
        watch_for: float,
        recheck_every: float,
        survey: KubeSurvey | None = None,
    ) -> None:
        """`survey` checks the permissions of the account that is to watch; the default is ours."""
        self._api, self._watch_for, self._recheck_every = api, watch_for, recheck_every
        self._survey = survey or KubeSurvey(api)

    async def served(self) -> Served:
        """Read the served version from the API server, and check the permission to watch.

        Raises Unreachable.
        """
        try:
            version = await _newest_version(self._api)
        except Missing:
            return Served(why_not="LINSTOR does not keep its database in this Kubernetes cluster")
        for verb in VERBS:
            if not await self._survey.may(verb, GROUP, TABLE, ""):
                return Served(
                    why_not=f"the service account is not allowed to {verb} {TABLE}.{GROUP}"
                )
        return Served(version)

    async def found(self, *, required: bool) -> "DatabaseStream":
        """Wait until the database can be watched; log the reason while it cannot."""
        logged = ""
        while True:
            pause = RETRY_DELAY if required else self._recheck_every
            try:
                served = await self.served()
            except (Again, Refused) as error:
                served, pause = Served(why_not=str(error)), RETRY_DELAY
            if served.version:
                log.info(
                    "LINSTOR's database in Kubernetes can be watched: connecting to it, in "
                    "addition to LINSTOR's event streams, for changes for which LINSTOR "
                    "sends no event",
                    extra=facts(crd_version=served.version),
                )
                return DatabaseStream(self._api, watch_for=self._watch_for)
            if served.why_not != logged:
                log.log(
                    logging.WARNING if required else logging.INFO,
                    _NOT_READY if required else _NOT_WATCHED,
                    extra=facts(message=served.why_not, retry_in_s=pause),
                )
            logged = served.why_not
            await asyncio.sleep(pause)


async def _newest_version(api: KubeApi) -> str:
    """Return the newest version served. Kubernetes' preferred version is the first in alphabetical
    order, since v1-31-1 is not a version name to it. Raises Missing if the group is not served, or
    no version of it.
    """
    group = await api.get(f"/apis/{GROUP}")
    served = group.get("versions")
    names = [str(each.get("version")) for each in served or () if isinstance(each, Mapping)]
    if not names:
        raise Missing(f"the API server does not list a version of {GROUP}")
    return max(names, key=lambda name: [int(number) for number in _NUMBERS.findall(name)])


class DatabaseStream:
    """Implements engine.ports.EventStream over the table of replicas.

    One connection spans any number of watches, as long as each continues where the last one ended.
    """

    name = DATABASE

    def __init__(self, api: KubeApi, *, watch_for: float) -> None:
        self._api, self._watch_for = api, watch_for

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncIterator[Trigger]]:
        """Open one connection to the version served now, which an upgrade of LINSTOR changes."""
        try:
            path = f"/apis/{GROUP}/{await _newest_version(self._api)}/{TABLE}"
            version = await present_version(self._api, path)
        except (Missing, Expired) as error:
            raise Unreachable(str(error)) from error
        async with aclosing(self._watched(path, version)) as triggers:
            # The stream counts as open only once the first watch is open.
            await anext(triggers)
            yield triggers

    async def _watched(self, path: str, version: str) -> AsyncGenerator[Trigger, None]:
        """Yield EventsMissed once the first watch is open, then a trigger for each row."""
        first = True
        while True:
            watch = bounded_watch(self._api, path, version=version, seconds=self._watch_for)
            try:
                async with watch as rows:
                    if first:
                        first = False
                        yield EventsMissed(f"{DATABASE} watch opened")
                    async for row in rows:
                        version = row["object"]["metadata"]["resourceVersion"]
                        if row.get("type") != "BOOKMARK":
                            trigger = replica_of(row["object"].get("spec"))
                            if trigger is not None:
                                yield trigger
            except (Missing, Expired) as error:
                raise Unreachable(f"watch {path}: {error}") from error


def replica_of(spec: object) -> ResourceTouched | None:
    """Return the trigger for a row of the table `resources`; None for a replica of a snapshot."""
    if not isinstance(spec, Mapping) or spec.get("snapshot_name"):
        return None
    name = resource_named(spec.get("resource_name"))
    return None if name is None else ResourceTouched(name)
