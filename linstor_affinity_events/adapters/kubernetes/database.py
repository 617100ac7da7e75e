"""LINSTOR's own database where it is kept in Kubernetes, as a source of hints and nothing else.

Piraeus keeps it in custom resources of group internal.linstor.linbit.com. Its table `resources`
has one row for each replica. A row that comes, goes or changes says "look", also where LINSTOR
sends no event. Rows are not kept, and not even listed: a list of one object tells from which
version to watch. No other table is read: that of properties also holds LINSTOR's master key.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from linstor_affinity_events.adapters.kubernetes.api import KubeApi, list_metadata
from linstor_affinity_events.adapters.kubernetes.survey import KubeSurvey
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
from linstor_affinity_events.model.names import resource_name

log = logging.getLogger(__name__)

GROUP = "internal.linstor.linbit.com"
TABLE = "resources"
VERBS = ("list", "watch")

OVERTIME = 30.0
SOON = 5.0

_NUMBERS = re.compile(r"\d+")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """Whether the database can be watched."""

    version: str = ""
    """The version of its custom resources; empty if it can't be."""

    why_not: str = ""


class KubeDatabase:
    """Finds out whether there is such a database, and that we may watch it."""

    def __init__(
        self, api: KubeApi, *, lasts: float, again: float, survey: KubeSurvey | None = None
    ) -> None:
        """`survey` knows what the account may that is to watch it; ours, if there is none."""
        self._api, self._lasts, self._again = api, lasts, again
        self._survey = survey or KubeSurvey(api)

    async def served(self) -> Served:
        """Ask the API server which version it has, and whether we may watch it.

        Raises Unreachable.
        """
        try:
            version = await _newest_version(self._api)
        except Missing:
            return Served(why_not="LINSTOR does not keep its database in this Kubernetes")
        for verb in VERBS:
            if not await self._survey.may(verb, GROUP, TABLE, ""):
                return Served(why_not=f"the account may not {verb} {TABLE}.{GROUP}")
        return Served(version)

    async def found(self, *, required: bool) -> "DatabaseStream":
        """Wait until it can be watched, and say in the log what is the matter until then."""
        told = ""
        while True:
            pause = self._again
            try:
                served = await self.served()
            except (Again, Refused) as error:
                served, pause = Served(why_not=str(error)), SOON
            if served.version:
                log.info("database hints on", extra=facts(version=served.version))
                return DatabaseStream(self._api, lasts=self._lasts)
            if served.why_not != told:
                level = logging.WARNING if required else logging.INFO
                log.log(level, "database hints off", extra=facts(why=served.why_not))
            told = served.why_not
            await asyncio.sleep(SOON if required else pause)


async def _newest_version(api: KubeApi) -> str:
    """The newest one served. What Kubernetes prefers is the first by the alphabet: to its eyes
    v1-31-1 is no version. Raises Missing where there is no such group, or no version of it.
    """
    group = await api.get(f"/apis/{GROUP}")
    served = group.get("versions")
    names = [str(each.get("version")) for each in served or () if isinstance(each, Mapping)]
    if not names:
        raise Missing(f"the API server names no version of {GROUP}")
    return max(names, key=lambda name: [int(number) for number in _NUMBERS.findall(name)])


class DatabaseStream:
    """Implements engine.ports.EventStream over the table of replicas.

    One connection of it lasts over any number of watches, as long as each goes on where the last
    one ended.
    """

    name = DATABASE

    def __init__(self, api: KubeApi, *, lasts: float) -> None:
        self._api, self._lasts = api, lasts

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncIterator[Trigger]]:
        """Open one connection, on the version served now: an upgrade of LINSTOR moves it."""
        try:
            path = f"/apis/{GROUP}/{await _newest_version(self._api)}/{TABLE}"
            page = await self._api.get(path, {"limit": "1"})
        except (Missing, Expired) as error:
            raise Unreachable(str(error)) from error
        version = str(list_metadata(page).get("resourceVersion", ""))
        async with aclosing(self._watched(path, version)) as triggers:
            # The first watch is open before anybody is told that the stream is.
            await anext(triggers)
            yield triggers

    async def _watched(self, path: str, version: str) -> AsyncGenerator[Trigger, None]:
        """Yield MissedSome once the first watch is open, then what its rows say."""
        first = True
        while True:
            query = {
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(int(self._lasts)),
            }
            try:
                async with (
                    asyncio.timeout(self._lasts + OVERTIME),
                    self._api.watch(path, query) as watch,
                    aclosing(watch) as rows,
                ):
                    if first:
                        first = False
                        yield EventsMissed(f"{DATABASE} watch opened")
                    async for row in rows:
                        version = row["object"]["metadata"]["resourceVersion"]
                        if row.get("type") != "BOOKMARK":
                            trigger = replica_of(row["object"].get("spec"))
                            if trigger is not None:
                                yield trigger
            except TimeoutError as error:
                raise Unreachable(f"the watch of {path} did not end when it should") from error
            except (Missing, Expired) as error:
                raise Unreachable(f"watch {path}: {error}") from error


def replica_of(spec: object) -> ResourceTouched | None:
    """A row of the table `resources`: a replica, unless it is one of a snapshot."""
    if not isinstance(spec, Mapping) or spec.get("snapshot_name"):
        return None
    name = spec.get("resource_name")
    return ResourceTouched(resource_name(name)) if isinstance(name, str) and name else None
