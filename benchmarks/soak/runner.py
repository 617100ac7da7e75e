"""Runs random actions, and records what was run when."""

import asyncio
import random
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.soak import chaos, placements
from benchmarks.soak.actions import Action, Context

A_SECOND = 8.0
"""Actions started in a second, on average."""

WEIGHTS: dict[Action, float] = {
    placements.move: 100,
    placements.tidy: 16,
    placements.grow: 8,
    placements.toggle: 12,
    placements.create: 4,
    placements.delete: 4,
    placements.label: 10,
    placements.skip: 3,
    placements.relabel: 2,
    placements.outage: 1.5,
    placements.evacuation: 1.5,
    placements.eviction: 1,
    chaos.kubernetes_request: 8,
    chaos.linstor_request: 5,
    chaos.linstor_all: 0.8,
    chaos.linstor_gone: 0.6,
    chaos.streams: 2,
    chaos.satellite: 1,
    chaos.connections: 1,
    chaos.vanished: 0.3,
    chaos.watches: 0.6,
    chaos.binder: 0.6,
}

APPOINTED: tuple[tuple[float, Action], ...] = (
    (0.15, chaos.apiserver),
    (0.4, chaos.compaction),
    (0.6, chaos.store),
    (0.8, chaos.apiserver),
)
"""What is too rare for chance, by the part of the whole run that is over."""


class Runner:
    """One seed determines the kind and the moment of each action, and what it chooses among what it
    finds.

    Each act has a random source of its own, so that one that finds something else than last time
    does not change all those after it.
    """

    def __init__(self, context: Context, seed: int, log: Path, whole: float) -> None:
        self._context, self._seed = context, seed
        self._chance = random.Random(f"{seed}")  # noqa: S311, nothing secret
        self._log = log.open("a", buffering=1)
        self._whole = whole
        self._appointed = list(APPOINTED)
        self._number = 0
        self._began = time.monotonic()
        self.done: Counter[str] = Counter()

    def close(self) -> None:
        self._log.close()

    def say(self, *words: object) -> None:
        """Write a line into the log of actions, with the time as the service's own log has it."""
        print(datetime.now(UTC).isoformat(timespec="milliseconds"), *words, file=self._log)

    async def run(self, seconds: float) -> None:
        """Start actions for so long, and return when the last of them is over and reverted."""
        self._context.hurry.clear()
        over = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < over:
                await asyncio.sleep(self._chance.expovariate(A_SECOND))
                group.create_task(self._one(self._next()))
            self._context.hurry.set()
        self._context.kubernetes.rules.clear()
        self._context.linstor.rules.clear()
        await self._context.oracle.testbed.world.until_idle()

    def _next(self) -> Action:
        self._number += 1
        completed = (time.monotonic() - self._began) / self._whole
        if self._appointed and completed >= self._appointed[0][0]:
            return self._appointed.pop(0)[1]
        return self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]

    async def _one(self, action: Action) -> None:
        name = f"#{self._number} {action.__module__.rpartition('.')[2]}.{action.__name__}"
        chance = random.Random(f"{self._seed}/{self._number}")  # noqa: S311, nothing secret
        self.say(name, "begins")
        reported = await action(self._context, chance)
        self.say(name, "ends:", reported or "nothing to do it to")
        if reported:
            self.done[action.__name__] += 1
