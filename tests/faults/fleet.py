"""Volumes that move before, during and after a fault, and what has to be true in the end."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import orjson

from tests.figures import Figures
from tests.testbed.clusters import ApiError, until
from tests.testbed.manifests import CLAIMS, HOSTNAME, on_nodes, preserved, terms_of
from tests.testbed.proxy import Asked, Record
from tests.testbed.service import Service, running
from tests.testbed.testbed import Testbed

Json = dict[str, Any]

NODES = ("n1", "n2", "n3", "n4")
PACE = 0.4
RESTLESS, MOVES = 10, 4
"""So many volumes move meanwhile, so often each: a change or two for a move, of ten that the
service makes at once.
"""

CREATED = 201
LISTED_WITHIN = 35.0
"""The longest delay of client-go's informers before they list again, and some more."""

FULL_RECONCILES_APART = 1.5
TIMEOUT = 90.0
"""Longer than the full reconcile is unavailable, and than any back-off grows while a test breaks
something.
"""


@dataclass(kw_only=True)
class Fleet:
    """Volumes: two move before the fault, two while it lasts, two when it is over, and the others
    all the time.
    """

    testbed: Testbed
    service: Service
    names: tuple[str, ...] = tuple(f"pvc-{n}" for n in range(1, 7 + RESTLESS))
    before: dict[str, Json] = field(default_factory=dict)
    newcomers: int = 0
    outages: list[tuple[Record, float, float]] = field(default_factory=list)
    """What was asked for, and when the API server went and came back."""

    async def add(self) -> None:
        await self.testbed.add_many(self.names, NODES[0])
        self.before = {name: _content(self.testbed.observer.volumes[name]) for name in self.names}

    def move_before(self) -> None:
        self._move_on(*self.names[:2])

    def move_during(self) -> None:
        self._move_on(*self.names[2:4])

    def move_after(self) -> None:
        self._move_on(*self.names[4:6])

    @contextmanager
    def without_api_server(self, record: Record) -> Iterator[None]:
        """Where the API server or its store goes and comes back in this block: nobody can bring a
        volume back before the PersistentVolume controller looks for it.
        """
        begin = time.monotonic()
        yield
        self.outages.append((record, begin, time.monotonic()))

    @property
    def excused(self) -> set[str]:
        """Claims that may have been Lost, since their volume was absent when the API server went,
        or when the PersistentVolume controller listed all claims again after that: it checks each
        one then, as at a resync.
        """
        return {
            f"claim-{name}"
            for record, begin, end in self.outages
            for name in absent_while(record, begin, end + LISTED_WITHIN)
        }

    def place_of(self, name: str) -> list[str]:
        replicas = self.testbed.world.definition(name).replicas.values()
        return [replica.node.name for replica in replicas if replica.diskful]

    def _move_on(self, *names: str) -> None:
        for name in names:
            here = self.place_of(name)
            # One that is under way already is left to arrive.
            if len(here) == 1:
                target = NODES[(NODES.index(here[0]) + 1) % len(NODES)]
                self.testbed.world.move(name, here[0], target)

    async def keep_moving(self) -> None:
        """One after the other, none of them so often that the service lets it be for a while."""
        for name in self.names[6:] * MOVES:
            self._move_on(name)
            await asyncio.sleep(PACE)

    async def _none_absent(self) -> bool:
        return await self.service.metric("linstor_affinity_volumes_absent") == 0

    async def see_right(self) -> None:
        """Wait until every volume may run where its data is, and nothing is missing."""
        await self.testbed.world.until_idle()
        try:
            await until(self._all_is_right, "all is right", within=TIMEOUT)
        except AssertionError:
            raise AssertionError(f"in the end there is {await self.wrong()}") from None
        await self.service.until_ready()
        await self._see_newcomer()
        assert {name for _, name in self.testbed.observer.lost} <= self.excused
        await until(self._none_absent, "the service knows that no volume is away")
        assert await self.service.metric("linstor_affinity_volumes_stuck") == 0
        assert "unexpected error" not in self.service.said()

    async def _see_newcomer(self) -> None:
        """Of a new volume there is no event but the watch: it is open again, and up to date."""
        self.newcomers += 1
        name = f"pvc-late-{self.newcomers}"
        self.testbed.place(name, NODES[2:3])
        await self.testbed.bind(name, on_nodes(NODES[:1]))
        await self.testbed.until_on(name, NODES[2], within=TIMEOUT)

    async def rest(self) -> None:
        """Wait until full reconciles follow each other no more."""
        observed, full_reconciles = -1.0, 0.0
        while full_reconciles != observed:
            observed = full_reconciles
            await asyncio.sleep(FULL_RECONCILES_APART)
            full_reconciles = await self.service.metric(
                "linstor_affinity_full_reconcile_seconds_count"
            )

    async def _resync(self) -> None:
        """Have the PersistentVolume controller look at excused claims again, as each of its resyncs
        does: the one here never resyncs, so that a claim that was Lost would stay so.
        """
        for claim in (await self.testbed.cluster.ask("GET", CLAIMS))["items"]:
            name = claim["metadata"]["name"]
            if name in self.excused and claim["status"]["phase"] == "Lost":
                await self.testbed.have_checked(name)

    async def _all_is_right(self) -> bool:
        try:
            await self._resync()
            return not await self.wrong()
        except (ApiError, aiohttp.ClientError):
            return False

    async def wrong(self) -> list[str]:
        """What is not, or not yet, as it should be."""
        ask = self.testbed.cluster.ask
        listed = await ask("GET", "/api/v1/persistentvolumes")
        volumes = {item["metadata"]["name"]: item for item in listed["items"]}
        found = [f"note {name}" for name in await self.testbed.entries()]
        found += [f"no {name}" for name in self.names if name not in volumes]
        for name in volumes.keys() & set(self.names):
            terms = frozenset(frozenset({(HOSTNAME, node)}) for node in self.place_of(name))
            if terms_of(volumes[name]) != terms:
                found.append(f"{name} on {terms_of(volumes[name])}, not {terms}")
            content = _content(volumes[name])
            if content != self.before[name]:
                found.append(f"{name} as {content}, not {self.before[name]}")
        for claim in (await ask("GET", "/api/v1/persistentvolumeclaims"))["items"]:
            if claim["status"]["phase"] != "Bound":
                found.append(f"{claim['metadata']['name']} {claim['status']['phase']}")
        return found


def absent_while(record: Record, begin: float, end: float) -> set[str]:
    """The volumes whose removal was asked for by the end, and that were not there again when it
    began.
    """
    removed: set[str] = set()
    for asked in record:
        if asked.at <= end and asked.label == "delete persistentvolumes":
            removed.add(asked.path.rpartition("/")[2])
        elif asked.at <= begin and asked.label == "create persistentvolumes":
            removed -= {name_in(asked)} if asked.status == CREATED else set()
    return removed


def name_in(asked: Asked) -> str:
    """What is to be created; other requests say it in their path."""
    return str(orjson.loads(asked.body)["metadata"]["name"]) if asked.method == "POST" else ""


def _content(volume: Json) -> Json:
    """What a replacement must not touch; a list has its items without their kind."""
    return {
        key: value
        for key, value in preserved(volume).items()
        if key in {"metadata", "spec", "status"}
    }


class MakeFleet(Protocol):
    def __call__(
        self, testbed: Testbed, service: Service, *, rested: bool = False
    ) -> AbstractAsyncContextManager[Fleet]:
        """Where it is `rested`, no full reconcile that goes with the start is left to find
        anything.
        """


def fleets(figures: Figures) -> MakeFleet:
    @asynccontextmanager
    async def fleet(
        testbed: Testbed, service: Service, *, rested: bool = False
    ) -> AsyncIterator[Fleet]:
        """A service that runs and volumes that move; what the block broke has to be whole at its
        end, and come right without a restart.
        """
        made = Fleet(testbed=testbed, service=service)
        await made.add()
        async with running(service):
            if rested:
                await made.rest()
            process = service.process
            assert process is not None
            restless = asyncio.create_task(made.keep_moving(), name="restless volume")
            try:
                made.move_before()
                yield made
                made.move_after()
            finally:
                restless.cancel()
            await made.see_right()
            assert service.process is process
            assert process.returncode is None
            figures.count(f"faults survived, {'real' if testbed.cluster.is_real else 'fake'}")

    return fleet
