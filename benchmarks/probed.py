"""The service as ever, with a clock on its event loop: `python -m benchmarks.probed run ...`.

What was seen goes, as JSON, to the file that PROBE_FILE names, once the service has ended. With
PROBE_PROFILE the loop's thread is profiled, which slows it down, and the profile goes there; with
PROBE_MEMORY the greatest owners of memory after the second full pass are told there.
"""

import asyncio
import cProfile
import gc
import json
import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from linstor_affinity_events.app import service
from linstor_affinity_events.cli import main
from linstor_affinity_events.cli import run as command
from linstor_affinity_events.engine.full_reconcile import FullReconciler

EVERY = 0.005
WORTH_TELLING = 0.01
"""Seconds from which on a pause of the loop, or a garbage collection, is written down."""

STACK_AFTER = 0.02
OWNERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A time in which the loop came to nothing else."""

    phase: str
    at: float
    """By the machine's monotonic clock, when it was over."""
    wall: float
    cpu: float
    """Of the loop's thread alone: what others on a busy machine took does not count."""
    stack: str
    """What ran at some moment of it; empty where nobody looked in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    phase: str
    generation: int
    wall: float
    collected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """One full pass; `cpu` is that of the whole process meanwhile."""

    cause: str
    bulk: bool | None
    """None for one that failed."""
    wall: float
    cpu: float


@dataclass(slots=True)
class Probe:
    """Written to by what follows, and to the file at the end."""

    phase: str = "start"
    blocks: list[Block] = field(default_factory=list)
    collections: list[Collection] = field(default_factory=list)
    passes: list[Passed] = field(default_factory=list)
    ticks: int = 0
    due: float = float("inf")
    """When the loop is to be back next."""
    stack: str = ""

    async def watch_loop(self) -> None:
        """Sleep again and again, and see how late the loop wakes us."""
        while True:
            cpu, self.stack = time.thread_time(), ""
            self.due = time.monotonic() + EVERY
            await asyncio.sleep(EVERY)
            now = time.monotonic()
            late = now - self.due
            self.ticks += 1
            if late >= WORTH_TELLING:
                used = min(late, time.thread_time() - cpu)
                told = Block(phase=self.phase, at=now, wall=late, cpu=used, stack=self.stack)
                self.blocks.append(told)

    def watch_stacks(self, thread: int) -> None:
        """See from beside what the loop is at when it is late."""
        while True:
            time.sleep(EVERY)
            if not self.stack and time.monotonic() - self.due > STACK_AFTER:
                self.stack = _stack_of(thread)

    def watch_collections(self) -> None:
        begun = 0.0

        def entry(phase: str, told: dict[str, int]) -> None:
            nonlocal begun
            if phase == "start":
                begun = time.perf_counter()
            elif (took := time.perf_counter() - begun) >= WORTH_TELLING:
                self.stack = f"garbage collection, generation {told['generation']}"
                self.collections.append(
                    Collection(
                        phase=self.phase,
                        generation=told["generation"],
                        wall=took,
                        collected=told["collected"],
                    )
                )

        gc.callbacks.append(entry)


PROBE = Probe()


class ProbedSweeper(FullReconciler):
    """Tells when a pass begins and ends."""

    async def reconcile_all(self, cause: str) -> None:
        before = self.last
        wall, cpu = time.perf_counter(), time.process_time()
        PROBE.phase = "first pass" if before is None else "pass"
        try:
            await super().reconcile_all(cause)
        finally:
            done = self.last if self.last is not before else None
            PROBE.passes.append(
                Passed(
                    cause=cause,
                    bulk=None if done is None else done.bulk,
                    wall=time.perf_counter() - wall,
                    cpu=time.process_time() - cpu,
                )
            )
            PROBE.phase = "rest"
            if len(PROBE.passes) == 2 and tracemalloc.is_tracing():
                _tell_owners(Path(os.environ["PROBE_MEMORY"]))


def _stack_of(thread: int) -> str:
    """The innermost functions of a thread, each as module:line function."""
    found: list[str] = []
    frame = sys._current_frames().get(thread)  # noqa: SLF001, no other way to see it
    while frame is not None and len(found) < 8:
        code = frame.f_code
        module = frame.f_globals.get("__name__", "?")
        found.append(f"{module}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(found)


def _tell_owners(file: Path) -> None:
    """Write down which lines own the most memory that is not free."""
    gc.collect()
    taken = tracemalloc.take_snapshot()
    lines = [f"{tracemalloc.get_traced_memory()[0] / 2**20:.1f} MiB in all"]
    lines += [str(each) for each in taken.statistics("lineno")[:OWNERS]]
    file.write_text("\n".join(lines) + "\n")


def _watched(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    watch: Coroutine[Any, Any, None] = PROBE.watch_loop()
    # The loop holds its tasks weakly.
    _kept.append(loop.create_task(watch, name="probe"))
    return loop


_kept: list[asyncio.Task[None]] = []


def run_probed() -> None:
    """Be the command, and write down what was seen when it ends."""
    new_event_loop = command.new_event_loop
    command.new_event_loop = lambda: _watched(new_event_loop())
    # The service looks its parts up by name, so this is the place to give it another.
    vars(service)["Sweeper"] = ProbedSweeper
    PROBE.watch_collections()
    threading.Thread(
        target=PROBE.watch_stacks, args=(threading.get_ident(),), daemon=True, name="probe"
    ).start()
    if "PROBE_MEMORY" in os.environ:
        tracemalloc.start()
    profile = cProfile.Profile() if "PROBE_PROFILE" in os.environ else None
    if profile is not None:
        profile.enable()
    try:
        main(prog_name="linstor-affinity-events")
    finally:
        if profile is not None:
            profile.disable()
            profile.dump_stats(os.environ["PROBE_PROFILE"])
        told = {
            "ticks": PROBE.ticks,
            "blocks": [asdict(each) for each in PROBE.blocks],
            "collections": [asdict(each) for each in PROBE.collections],
            "passes": [asdict(each) for each in PROBE.passes],
        }
        Path(os.environ["PROBE_FILE"]).write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    run_probed()
