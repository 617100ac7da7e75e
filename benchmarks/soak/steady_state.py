"""The times when nothing goes wrong: all must become right, and the service small and quick."""

import asyncio
import json
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.resource_usage import ResourceUsage
from benchmarks.soak.actions import Context
from benchmarks.soak.ground_truth import Wrong, with_data, wrongs
from benchmarks.soak.placements import definition_of, move
from benchmarks.soak.runner import Runner
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.service import Service

TIMEOUT = 60.0
PACE = 0.5
STAYS = 2.0
"""What was right must still be right a moment later."""

PROBES, INSTRUMENTATION_TIMEOUT = 8, 5.0
"""Moves that nothing disturbs, and how long after LINSTOR's last event they may take: far less than
the time between two full reconciles, which would hide that an event was not followed.
"""

QUIET = 60
"""Seconds, more than idle connections are kept: what is open at the emptiest moment of them is
what stays open. Full reconciles come and go meanwhile.
"""

FULL_RECONCILES = "linstor_affinity_full_reconcile_seconds_count"
FULL_RECONCILE_TIMEOUT = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyState:
    """What one of them found."""

    minute: float
    right_after: float
    wrong: tuple[Wrong, ...]
    """What was not right in time, or not any more a moment later."""
    late: int
    """Probes that were not followed in time."""
    tasks: int
    size: ResourceUsage


class Watcher:
    """Judges the service that runs in a context."""

    def __init__(self, context: Context, service: Service, tasks: Path, runner: Runner) -> None:
        self._context, self._service, self._tasks = context, service, tasks
        self._runner = runner
        self._began = time.monotonic()
        self._emptiest = 0
        """Files that were open at the emptiest moment so far; 0 while there was none."""

    async def steady_state(self, chance: random.Random) -> SteadyState:
        """Wait until all is right, try the way from event to volume, and measure the service."""
        self._runner.say("steady phase begins")
        began = time.monotonic()
        wrong = await self._until_right()
        right_after = time.monotonic() - began
        if not wrong:
            await asyncio.sleep(STAYS)
            wrong = await wrongs(self._context.oracle)
        for each in wrong:
            self._runner.say("WRONG", each)
        size = await self._smallest()
        tasks = await self._count_tasks()
        late = await self._instrumentation(chance)
        self._forget()
        found = SteadyState(
            minute=(began - self._began) / 60,
            right_after=right_after,
            wrong=tuple(wrong),
            late=late,
            tasks=sum(tasks.values()),
            size=size,
        )
        self._runner.say("steady phase ends:", found.size, "tasks", dict(sorted(tasks.items())))
        return found

    async def _smallest(self) -> ResourceUsage:
        """Wait until no more is open than once was, or for as long as there is hope of that."""
        found = ResourceUsage.of(self.pid())
        for _ in range(QUIET):
            await asyncio.sleep(1)
            now = ResourceUsage.of(self.pid())
            found = min(found, now, key=lambda size: size.files)
            if now.files <= self._emptiest:
                break
        self._emptiest = min(self._emptiest or found.files, found.files)
        return found

    async def _until_completed(self) -> None:
        """Wait for the end of a full reconcile, so that the next is farther off than a measurement
        takes.
        """
        before = await self._service.metric(FULL_RECONCILES)

        async def completed() -> bool:
            return await self._service.metric(FULL_RECONCILES) > before

        await until(completed, "a full reconcile has ended", within=FULL_RECONCILE_TIMEOUT)

    def pid(self) -> int:
        process = self._service.process
        if process is None or process.returncode is not None:
            raise AssertionError(f"the service ended: {self._service.said()[-3000:]}")
        return process.pid

    async def _until_right(self) -> list[Wrong]:
        waiting = time.monotonic() + TIMEOUT
        before: set[Wrong] = set()
        while found := await wrongs(self._context.oracle):
            self.pid()
            for each in before - set(found):
                self._runner.say("right now, was not:", each)
            before = set(found)
            if time.monotonic() > waiting:
                return found
            await asyncio.sleep(PACE)
        for each in before:
            self._runner.say("right at last, was not:", each)
        return []

    async def _instrumentation(self, chance: random.Random) -> int:
        """Move some of the oldest volumes; those that are new would be let alone for a while."""
        await self._until_completed()
        oracle, world = self._context.oracle, self._context.oracle.testbed.world
        oldest = sorted(oracle.owned)[: len(oracle.owned) // 2]
        instrumented = chance.sample(oldest, PROBES)
        for name in instrumented:
            self._runner.say("move", await move(self._context, chance, name))
        await world.until_idle()
        with suppress(AssertionError):
            await oracle.testbed.observer.until(
                lambda: not self._behind(instrumented),
                "the moved volumes are correct",
                within=INSTRUMENTATION_TIMEOUT,
            )
        behind = self._behind(instrumented)
        for name in behind:
            self._runner.say("LATE", name)
        return len(behind)

    def _behind(self, names: list[str]) -> list[str]:
        """Those of some volumes that say otherwise than LINSTOR."""
        oracle = self._context.oracle
        found = []
        for name in names:
            volume = oracle.testbed.observer.volumes.get(name)
            reported = [] if volume is None else sorted(manifests.nodes_of(volume))
            if reported != with_data(definition_of(self._context, oracle.owned[name])):
                found.append(name)
        return found

    def _forget(self) -> None:
        """Drop what the test bed remembers, which would grow as long as it is run on."""
        self._context.oracle.testbed.observer.history.clear()
        self._context.kubernetes.record.forget()
        self._context.linstor.record.forget()

    async def _count_tasks(self) -> dict[str, int]:
        self._tasks.unlink(missing_ok=True)
        self._service.signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not self._tasks.exists():  # noqa: ASYNC110, another process sets no asyncio.Event
                await asyncio.sleep(0.05)
        reported: dict[str, int] = json.loads(self._tasks.read_text())
        return reported
