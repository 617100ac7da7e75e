"""The times when nothing goes wrong: all must become right, and the service small and quick."""

import asyncio
import json
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak.acts import Scene
from benchmarks.soak.placements import definition_of, move
from benchmarks.soak.player import Player
from benchmarks.soak.truth import Wrong, with_data, wrongs
from benchmarks.weight import Weight
from tests.testbed import manifests
from tests.testbed.clusters import until
from tests.testbed.service import Service

TIMEOUT = 60.0
PACE = 0.5
STAYS = 2.0
"""What was right must still be right a moment later."""

PROBES, PROBE_PATIENCE = 8, 5.0
"""Moves that nothing disturbs, and how long after LINSTOR's last event they may take: far less than
the time between two full passes, which would hide that an event was not followed.
"""

QUIET = 60
"""Seconds, more than idle connections are kept: what is open at the emptiest moment of them is
what stays open. Full passes come and go meanwhile.
"""

PASSES = "linstor_affinity_full_reconcile_seconds_count"
PASS_PATIENCE = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """What one of them found."""

    minute: float
    right_after: float
    wrong: tuple[Wrong, ...]
    """What was not right in time, or not any more a moment later."""
    late: int
    """Probes that were not followed in time."""
    tasks: int
    size: Weight


class Watcher:
    """Judges the service that runs in a scene."""

    def __init__(self, scene: Scene, service: Service, tasks: Path, player: Player) -> None:
        self._scene, self._service, self._tasks = scene, service, tasks
        self._player = player
        self._began = time.monotonic()
        self._emptiest = 0
        """Files that were open at the emptiest moment so far; 0 while there was none."""

    async def calm(self, chance: random.Random) -> Calm:
        """Wait until all is right, try the way from event to volume, and measure the service."""
        self._player.say("calm begins")
        began = time.monotonic()
        wrong = await self._until_right()
        right_after = time.monotonic() - began
        if not wrong:
            await asyncio.sleep(STAYS)
            wrong = await wrongs(self._scene.ledger)
        for each in wrong:
            self._player.say("WRONG", each)
        size = await self._smallest()
        tasks = await self._count_tasks()
        late = await self._probe(chance)
        self._forget()
        found = Calm(
            minute=(began - self._began) / 60,
            right_after=right_after,
            wrong=tuple(wrong),
            late=late,
            tasks=sum(tasks.values()),
            size=size,
        )
        self._player.say("calm ends:", found.size, "tasks", dict(sorted(tasks.items())))
        return found

    async def _smallest(self) -> Weight:
        """Wait until no more is open than once was, or for as long as there is hope of that."""
        found = Weight.of(self.pid())
        for _ in range(QUIET):
            await asyncio.sleep(1)
            now = Weight.of(self.pid())
            found = min(found, now, key=lambda size: size.files)
            if now.files <= self._emptiest:
                break
        self._emptiest = min(self._emptiest or found.files, found.files)
        return found

    async def _until_passed(self) -> None:
        """Wait for the end of a full pass, so that the next is farther off than a probe takes."""
        before = await self._service.metric(PASSES)

        async def passed() -> bool:
            return await self._service.metric(PASSES) > before

        await until(passed, "a full pass has ended", within=PASS_PATIENCE)

    def pid(self) -> int:
        process = self._service.process
        if process is None or process.returncode is not None:
            raise AssertionError(f"the service ended: {self._service.said()[-3000:]}")
        return process.pid

    async def _until_right(self) -> list[Wrong]:
        patient = time.monotonic() + TIMEOUT
        before: set[Wrong] = set()
        while found := await wrongs(self._scene.ledger):
            self.pid()
            for each in before - set(found):
                self._player.say("right now, was not:", each)
            before = set(found)
            if time.monotonic() > patient:
                return found
            await asyncio.sleep(PACE)
        for each in before:
            self._player.say("right at last, was not:", each)
        return []

    async def _probe(self, chance: random.Random) -> int:
        """Move some of the oldest volumes; those that are new would be let alone for a while."""
        await self._until_passed()
        ledger, world = self._scene.ledger, self._scene.ledger.testbed.world
        oldest = sorted(ledger.owned)[: len(ledger.owned) // 2]
        probed = chance.sample(oldest, PROBES)
        for name in probed:
            self._player.say("probe", await move(self._scene, chance, name))
        await world.until_idle()
        with suppress(AssertionError):
            await ledger.testbed.observer.until(
                lambda: not self._behind(probed), "the probes are right", within=PROBE_PATIENCE
            )
        behind = self._behind(probed)
        for name in behind:
            self._player.say("LATE", name)
        return len(behind)

    def _behind(self, names: list[str]) -> list[str]:
        """Those of some volumes that say otherwise than LINSTOR."""
        ledger = self._scene.ledger
        found = []
        for name in names:
            volume = ledger.testbed.observer.volumes.get(name)
            told = [] if volume is None else sorted(manifests.nodes_of(volume))
            if told != with_data(definition_of(self._scene, ledger.owned[name])):
                found.append(name)
        return found

    def _forget(self) -> None:
        """Drop what the stage remembers, which would grow as long as it is played on."""
        self._scene.ledger.testbed.observer.history.clear()
        self._scene.kubernetes.record.forget()
        self._scene.linstor.record.forget()

    async def _count_tasks(self) -> dict[str, int]:
        self._tasks.unlink(missing_ok=True)
        self._service.signal(signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not self._tasks.exists():  # noqa: ASYNC110, another process sets no asyncio.Event
                await asyncio.sleep(0.05)
        told: dict[str, int] = json.loads(self._tasks.read_text())
        return told
